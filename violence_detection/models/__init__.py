"""The networks: the backbone, VGG19 or another, and the classifier on its features."""

from violence_detection.settings.constants import VGG19


def backbone_title(backbone: str) -> str:
    """Return what a backbone is called in sentences: VGG19, ResNet50V2."""
    return backbone.upper() if backbone == VGG19 else backbone


def random_weights_warning(backbone: str) -> str:
    """Return the warning that a network is untrained."""
    return (
        f"{backbone_title(backbone)} HAS RANDOM WEIGHTS: predictions mean nothing, for trials only"
    )
