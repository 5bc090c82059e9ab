"""The network that computes features: VGG19 up to a layer, or another backbone."""

import keras

from violence_detection.models import backbones, vgg19
from violence_detection.models.onnx_backbone import onnx_backbone, onnx_features
from violence_detection.models.pixels import pixel_extractor, pixel_values
from violence_detection.models.vgg19_weights import feature_size
from violence_detection.settings.constants import ONNX, PIXELS, VGG19


def build_extractor(
    backbone: str,
    feature_layer: str,
    weights: str | None,
    dtype: str = "float32",
    pooling: str | None = "mean",
) -> keras.Model:
    """Return a backbone up to a layer.

    Args:
        backbone: one of `BACKBONES`, or `PIXELS`.
        feature_layer: a name from `VGG19_LAYERS`; of another backbone one of its layers, or
            `LAST_LAYER`; of `PIXELS` the size of a frame in pixels.
        weights: "imagenet", "random" or a file's path; None: as Keras initializes them.
        dtype: of the computation; VGG19's weights have it, too.
        pooling: see `models.pooling.pooled`; None: return the layer's maps.

    Returns:
        A model from `(frames, 224, 224, 3)` uint8 RGB to `(frames, features)` float32; without
        pooling, to `(frames, height, width, channels)` where the layer has maps.

    Raises:
        UserError: the backbone has no such layer; the file has no weights of it.
        RunError: the weights cannot be downloaded.
    """
    if backbone == PIXELS:
        return pixel_extractor(int(feature_layer))
    if backbone == VGG19:
        if weights is None:
            return vgg19.vgg19(feature_layer, dtype, pooling)
        return vgg19.build_extractor(feature_layer, weights, dtype, pooling)
    return backbones.backbone(backbone, feature_layer, dtype, pooling, weights)


def takes_clips(backbone: str, feature_layer: str, weights: str) -> bool:
    """Return whether a backbone sees the frames of a clip together, instead of one by one.

    Args:
        backbone, feature_layer, weights: as `features_per_frame` takes them.
    """
    return backbone.endswith(ONNX) and onnx_backbone(weights, feature_layer).takes.takes_clips


def features_per_frame(
    backbone: str, feature_layer: str, pooling: str, weights: str, frames: int
) -> int:
    """Return the number of values that a backbone computes for a frame.

    Args:
        backbone, feature_layer, weights, pooling: see `build_extractor`; a backbone may be an ONNX
            file, whose path `weights` is.
        frames: per clip.

    Raises:
        UserError: the backbone has no such layer; an ONNX file does not take such clips.
    """
    if backbone.endswith(ONNX):
        return onnx_features(weights, feature_layer, pooling, frames)
    if backbone == PIXELS:
        return pixel_values(int(feature_layer))
    if backbone == VGG19:
        return feature_size(feature_layer, pooling)
    return backbones.backbone_features(backbone, feature_layer, pooling)
