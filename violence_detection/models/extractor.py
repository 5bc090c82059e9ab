"""The network that computes features: VGG19 up to a layer, or another backbone."""

import keras

from violence_detection.models import backbones, vgg19
from violence_detection.models.pixels import pixel_extractor, pixel_values
from violence_detection.models.vgg19_weights import feature_size
from violence_detection.settings.constants import PIXELS, VGG19


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
        pooling: see `models.vgg19.pooled`; None: return the layer's maps.

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


def features_per_frame(backbone: str, feature_layer: str, pooling: str) -> int:
    """Return the number of values that `build_extractor` computes for a frame.

    Raises:
        UserError: the backbone has no such layer.
    """
    if backbone == PIXELS:
        return pixel_values(int(feature_layer))
    if backbone == VGG19:
        return feature_size(feature_layer, pooling)
    return backbones.backbone_features(backbone, feature_layer, pooling)
