"""Convolutions and pooling in space and time by those in two dimensions, which every runtime has.

LiteRT has no pooling in three dimensions, and quantizes no convolution in three.
"""

from collections.abc import Callable

import keras
from keras import layers, ops


class FactoredConvolution(layers.Conv3D):
    """A convolution over space, `(1, n, n)`, or over time, `(n, 1, 1)`, with its weights."""

    def call(self, clips: keras.KerasTensor) -> keras.KerasTensor:
        """Return what Keras's own does."""
        if self.kernel_size[0] == 1:
            x = _by_frame(
                clips[:, :: self.strides[0]],
                lambda x: ops.conv(x, self.kernel[0], self.strides[1:], self.padding),
            )
        else:
            strides = (self.strides[0], 1)
            x = _over_time(
                clips, lambda x: ops.conv(x, self.kernel[:, :, 0], strides, self.padding)
            )
        return self.activation(x + self.bias if self.use_bias else x)


class FactoredPooling(layers.MaxPooling3D):
    """A maximum over space, then over time."""

    def call(self, clips: keras.KerasTensor) -> keras.KerasTensor:
        """Return what Keras's own does."""
        time, *space = self.pool_size
        if max(space) > 1:
            clips = _by_frame(clips, lambda x: ops.max_pool(x, space, space, self.padding))
        if time > 1:
            clips = _over_time(clips, lambda x: ops.max_pool(x, (time, 1), (time, 1), self.padding))
        return clips


Step = Callable[[keras.KerasTensor], keras.KerasTensor]


def _by_frame(clips: keras.KerasTensor, step: Step) -> keras.KerasTensor:
    """Apply a step to each frame: from `(clips, frames, height, width, channels)` to the same."""
    frames, *shape = clips.shape[1:]
    x = step(ops.reshape(clips, (-1, *shape)))
    return ops.reshape(x, (-1, frames, *x.shape[1:]))


def _over_time(clips: keras.KerasTensor, step: Step) -> keras.KerasTensor:
    """Apply a step to `(clips, frames, positions, channels)`."""
    frames, height, width, channels = clips.shape[1:]
    x = step(ops.reshape(clips, (-1, frames, height * width, channels)))
    return ops.reshape(x, (-1, x.shape[1], height, width, x.shape[-1]))
