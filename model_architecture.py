"""The two networks: see violence_detection.models."""

from violence_detection.models.classifier import classifier, vgg19

__all__ = ["classifier", "vgg19"]
