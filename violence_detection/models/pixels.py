"""The frames themselves in the place of a backbone's features, for networks trained from pixels."""

import keras
import numpy as np
from keras import layers, ops

from violence_detection.models.backbones import BODY
from violence_detection.settings.constants import FRAME_SIZE, PIXELS


def pixel_extractor(size: int) -> keras.Model:
    """Return a model that makes frames smaller: each pixel is the mean of the area it covers.

    Args:
        size: of the result, pixels, both sides; at most 224.

    Returns:
        A model from `(frames, 224, 224, 3)` uint8 RGB to `(frames, size * size * 3)` float32, whole
        numbers from 0 to 255, in rows of pixels.
    """
    images = keras.Input((FRAME_SIZE, FRAME_SIZE, 3), name="images")
    smaller = ops.round(_area_resized(images, size))
    flat = layers.Reshape((pixel_values(size),), dtype="float32", name="flat")(smaller)
    body = keras.Model(images, flat, name=BODY)
    frames = keras.Input((FRAME_SIZE, FRAME_SIZE, 3), dtype="uint8", name="frames")
    return keras.Model(frames, body(ops.cast(frames, "float32")), name=PIXELS)


def pixel_values(size: int) -> int:
    """Return the number of values of a frame of `size` pixels on each side."""
    return size * size * 3


def _area_resized(images: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Return `(n, size, size, 3)` for `(n, 224, 224, 3)`: two matrix products, for any format."""
    shares = _shares(size)
    rows = ops.matmul(shares, ops.reshape(images, (-1, FRAME_SIZE, FRAME_SIZE * 3)))
    rows = ops.reshape(rows, (-1, size, FRAME_SIZE, 3))
    # By columns: the last axis but one is the one that a product sums over.
    return ops.matmul(shares, rows)


def _shares(size: int) -> np.ndarray:
    """Return `(size, 224)` float32: how much of each of 224 pixels each of `size` covers."""
    edges = np.arange(size + 1) * FRAME_SIZE / size
    pixels = np.arange(FRAME_SIZE)
    ends = np.minimum(edges[1:, None], pixels + 1)
    starts = np.maximum(edges[:-1, None], pixels)
    covered = np.clip(ends - starts, 0, None)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
