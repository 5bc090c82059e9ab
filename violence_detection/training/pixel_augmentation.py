"""Augmentation of frames, on the device that trains on them: crops, mirroring, colours, size.

Every random number is an argument, so that a batch becomes the same on any number of replicas.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from violence_detection.settings.constants import PIXEL_AUGMENTATIONS
from violence_detection.settings.schema import Settings

NUMBERS = 8  # random numbers per clip
SMALLEST_CROP = 0.7  # of the width and of the height
MIRRORED = 0.5  # share of clips
CONTRAST = 0.3  # contrast is multiplied by 1 - this to 1 + this
BRIGHTNESS = 0.3  # is added or taken off, at most; values are from -1 to 1
CHANNELS = 3  # of a stream


def kinds_in_batches(settings: Settings) -> tuple[str, ...]:
    """Return the augmentations that are made where features are read, without the others."""
    own = kinds_on_device(settings)
    return tuple(kind for kind in settings.training.augment if kind not in own)


def kinds_on_device(settings: Settings) -> tuple[str, ...]:
    """Return the augmentations of frames: `PIXEL_AUGMENTATIONS`, and flip of such networks."""
    if not settings.model.from_pixels:
        return ()
    own = (*PIXEL_AUGMENTATIONS, "flip")
    return tuple(kind for kind in settings.training.augment if kind in own)


@dataclass(frozen=True)
class PixelAugmentation:
    """What becomes of the frames of a clip in training.

    Args:
        streams: names from `STREAMS`, in the order of the channels.
        kinds: "crop", "flip" and "colour", or some of them.
    """

    streams: Sequence[str] = ()
    kinds: Sequence[str] = ()

    def __call__(self, images: tf.Tensor, random: tf.Tensor, size: int) -> tf.Tensor:
        """Return the frames of a batch as they are trained on.

        Args:
            images: `(clips, frames, height, width, channels)`, from -1 to 1, three channels per
                stream.
            random: `(clips, NUMBERS)` float32 from 0 to 1; equal numbers, equal results.
            size: of the result in pixels, width and height.

        Returns:
            `(clips, frames, size, size, channels)` in the dtype of the frames.
        """
        height = images.shape[2]
        if "colour" in self.kinds:
            images = self._coloured(images, random[:, 5], random[:, 6])
        if "flip" in self.kinds or "crop" in self.kinds or size != height:
            mirrored = tf.cast("flip" in self.kinds, tf.float32) * random[:, 4] > 1 - MIRRORED
            crops = random[:, :4] if "crop" in self.kinds else tf.zeros_like(random[:, :4])
            shares = 1 - crops[:, :2] * (1 - SMALLEST_CROP)
            starts = crops[:, 2:] * (1 - shares)
            rows, columns = (
                _resampling(starts[:, axis], shares[:, axis], height, size) for axis in (0, 1)
            )
            columns = tf.where(mirrored[:, None, None], columns[:, ::-1], columns)
            images = _resampled(images, tf.cast(rows, images.dtype), tf.cast(columns, images.dtype))
            if "flow" in self.streams:
                images = self._with_turned_flow(images, mirrored)
        return images

    def _coloured(self, images: tf.Tensor, contrast: tf.Tensor, brightness: tf.Tensor) -> tf.Tensor:
        """Change the frames themselves; differences and flow stay."""
        of_rgb = self._by_channel(lambda stream, channel: stream == "rgb")
        scale = 1 + of_rgb * _by_clip(CONTRAST * (2 * contrast - 1))
        shift = of_rgb * _by_clip(BRIGHTNESS * (2 * brightness - 1))
        changed = images * tf.cast(scale, images.dtype) + tf.cast(shift, images.dtype)
        return tf.clip_by_value(changed, -1, 1)

    def _with_turned_flow(self, images: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
        """Change the sign of a mirrored clip's horizontal flow, the first channel of the stream."""
        horizontal = self._by_channel(lambda stream, channel: stream == "flow" and channel == 0)
        sign = 1 - 2 * horizontal * _by_clip(tf.cast(mirrored, tf.float32))
        return images * tf.cast(sign, images.dtype)

    def _by_channel(self, is_meant: Callable[[str, int], bool]) -> tf.Tensor:
        """Return `(channels,)` float32, 1 where a channel is meant."""
        chosen = [
            is_meant(stream, channel) for stream in self.streams for channel in range(CHANNELS)
        ]
        return tf.constant(chosen, tf.float32)


def _by_clip(values: tf.Tensor) -> tf.Tensor:
    return values[:, None, None, None, None]


def _resampling(starts: tf.Tensor, shares: tf.Tensor, old: int, new: int) -> tf.Tensor:
    """Return `(clips, new, old)` float32: how much of each old pixel is in each new one.

    Linear between neighbouring pixels; where pixels become fewer, over as many as become one.

    Args:
        starts, shares: `(clips,)`: the part of each clip, of a length of 1.
        old, new: number of pixels.
    """
    scale = shares[:, None, None] * (old / new)  # old pixels per new one
    middles = (tf.range(new, dtype=tf.float32) + 0.5)[None, :, None] * scale
    positions = starts[:, None, None] * old + middles - 0.5
    distances = tf.abs(tf.range(old, dtype=tf.float32) - positions)
    weights = tf.nn.relu(1 - distances / tf.maximum(scale, 1.0))
    return weights / tf.reduce_sum(weights, axis=2, keepdims=True)


def _resampled(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Return images whose rows and columns are sums of the old ones, by two products each clip."""
    clips, frames, height, width, channels = images.shape
    size = rows.shape[1]
    by_row = tf.reshape(images, [clips * frames, height, width * channels])
    by_row = tf.matmul(tf.repeat(rows, frames, axis=0), by_row)
    by_column = tf.reshape(by_row, [clips * frames, size, width, channels])
    columns = tf.repeat(columns, frames, axis=0)[:, None]
    return tf.reshape(tf.matmul(columns, by_column), [clips, frames, size, size, channels])
