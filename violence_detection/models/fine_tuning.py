"""VGG19's upper layers as the first part of the classifier, to be trained with it."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from violence_detection.models.pooling import pooled
from violence_detection.models.vgg19 import vgg19_layer
from violence_detection.models.vgg19_weights import FILTERS, feature_size
from violence_detection.settings.constants import FINE_TUNED, FRAME_SIZE
from violence_detection.settings.schema import Settings

MAP_SIZE = FRAME_SIZE // 16  # pixels of block4_pool, both sides


def upper_layers(
    x: Any,
    kind: str,
    streams: int,
    dtype: str,
    dropout: Callable[[str], keras.layers.Dropout],
) -> Any:
    """Return the features of frames from what is cached below the fine-tuned layers.

    Args:
        x: `(clips, frames, streams * values)`: maps in rows, of each stream.
        kind: one of `FINE_TUNED`.
        streams: number of streams; they share the layers.
        dtype: Keras dtype policy.
        dropout: makes the dropout after a dense layer from its name.

    Returns:
        `(clips, frames, streams * features)` float32.
    """
    frames, values = x.shape[1], x.shape[2] // streams
    x = ops.reshape(x, (-1, values))
    if kind == "block5":
        x = ops.reshape(x, (-1, MAP_SIZE, MAP_SIZE, FILTERS[3]))
    for name in FINE_TUNED[kind]:
        x = vgg19_layer(name, dtype)(x)
        if name.startswith("fc"):
            x = dropout(f"{name}_dropout")(x)
    x = layers.Identity(dtype="float32", name="fine_tuned")(x)
    if len(x.shape) == 4:
        x = pooled(x, "mean")
    return ops.reshape(x, (-1, frames, streams * x.shape[-1]))


def describe_needs(settings: Settings, clips: int) -> str:
    """Return how much disk and memory fine-tuning takes, in a sentence or two.

    Args:
        settings: the layers, streams, frames and number format of the cache.
        clips: number of clips.
    """
    features, kind = settings.features, settings.model.fine_tune
    values = feature_size(features.feature_layer, features.feature_pooling)
    row = values * features.frames_in_cache * len(features.streams)
    cache = clips * row * np.dtype(features.feature_dtype).itemsize
    weights = sum(math.prod(shape) for shape in _kernel_shapes(kind))
    return (
        f"fine-tuning {', '.join(FINE_TUNED[kind])}: {weights / 1e6:.0f} million weights;\n"
        f"about {cache / 1e6:,.0f} MB in --cache-dir, {4 * 4 * weights / 1e9:.1f} GB of memory for "
        f"weights, gradients and moments,\n{4 * 7 * weights / 1e9:.1f} GB in --checkpoint-dir per "
        "classifier"
    )


def _kernel_shapes(kind: str) -> list[tuple[int, ...]]:
    if kind == "fc":
        return [(25088, 4096), (4096, 4096)]
    return [(3, 3, FILTERS[3], FILTERS[4])] * 4


def fine_tuned_weights(classifier: keras.Model, kind: str) -> list[keras.Variable]:
    """Return the weights of a classifier that are VGG19's."""
    known = [layer for layer in classifier.layers if layer.name in FINE_TUNED.get(kind, ())]
    return [weight for layer in known for weight in layer.trainable_weights]
