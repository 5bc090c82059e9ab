"""Networks from pixels: a small residual network in space and time, and a flow-gated one."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from violence_detection.models.heads import Heads
from violence_detection.models.pixels import pixel_values
from violence_detection.settings.constants import FLOW_GATED

PREPARED = "standardized"  # the layer whose output is prepared: what the first weights are given
MAPS = "maps"  # the layer whose output explains a prediction: later ones have few positions
STEM = 32  # channels
STAGES = ((48, 1), (96, 2), (224, 2))  # channels, and stride in space and time
EXPLAINED_STAGE = 2
NORM_GROUPS = 8
GATED_CHANNELS = (16, 16, 32, 32)  # of the blocks of both branches
MERGED_CHANNELS = (64, 64, 128)


def pixel_classifier(
    model: str,
    frames: int,
    streams: int,
    size: int,
    *,
    dropout: float,
    l2: float,
    dtype: str = "float32",
    dropout_layer: type[keras.layers.Dropout] = layers.Dropout,
) -> keras.Model:
    """Build a network from the frames of a clip to its probability of violence.

    `3d` is a residual network whose convolutions are factored into space and time, after Tran et
    al., https://arxiv.org/abs/1711.11248, smaller, and normalized by groups (Wu and He,
    https://arxiv.org/abs/1803.08494), which depends neither on the batch nor on padding in it.
    `flow-gated` is the network of Cheng et al., https://arxiv.org/abs/1911.05913: the features of
    frames are multiplied by a gate that is computed from the optical flow.

    Args:
        model: "3d", or "flow-gated", which takes two streams: frames and flow.
        frames: per clip.
        streams: number of streams.
        size: of a frame, pixels, both sides.
        dropout: rate, 0 to 1, before the logit.
        l2: weight of the L2 penalty on all kernels except the logit's.
        dtype: Keras dtype policy of the body; output and attention are always float32.
        dropout_layer: the class used in training; a saved model has Keras's own.

    Returns:
        A model from `(clips, frames, streams * size * size * 3)` uint8, as the cache has it, to
        `(clips, 1)` float32 probabilities of violence. Its layer `attention` gives
        `(clips, frames)` float32 weights that sum to 1. All layers after `PREPARED` take frames
        of any size.

    Example:
        >>> model = pixel_classifier("3d", 16, 1, 112, dropout=0.5, l2=1e-4)
        >>> model(np.zeros((2, 16, 112 * 112 * 3), "uint8")).shape
        TensorShape([2, 1])
    """
    penalty = keras.regularizers.L2(l2) if l2 else None
    inputs = keras.Input((frames, streams * pixel_values(size)), dtype="uint8", name="features")
    images = _prepared(inputs, streams, size, dtype)
    heads = Heads(0, dropout, penalty, dtype, False, dropout_layer)
    body = _flow_gated if model == FLOW_GATED else _residual
    states = _by_frame(body(images, penalty, dtype), frames)
    weights = heads.even_weights(states) if model == FLOW_GATED else heads.attention(states)
    context = layers.Dot(axes=1, dtype="float32", name="context")([weights, states])
    context = dropout_layer(dropout, dtype="float32", name="context_dropout")(context)
    logit = layers.Dense(1, dtype="float32", name="logit")(context)
    violence = layers.Activation("sigmoid", dtype="float32", name="violence")(logit)
    return keras.Model(inputs, violence, name=model.replace("-", "_"))


def _prepared(inputs: Any, streams: int, size: int, dtype: str) -> Any:
    """Return `(clips, frames, size, size, 3 * streams)` from -1 to 1."""
    frames = inputs.shape[1]
    x = layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="rescaled")(inputs)
    if streams > 1:
        x = layers.Reshape((frames, streams, size, size, 3), dtype="float32", name="by_stream")(x)
        x = layers.Permute((1, 3, 4, 2, 5), dtype="float32", name="streams_last")(x)
    x = layers.Reshape((frames, size, size, 3 * streams), dtype="float32", name="images")(x)
    return layers.Identity(dtype=dtype, name=PREPARED)(x)


def _by_frame(steps: Any, frames: int) -> Any:
    """Return `(clips, frames, values)`: each frame has the state of its step in time."""
    indices = np.arange(frames) * steps.shape[1] // frames
    return ops.take(steps, indices, axis=1)


def _residual(images: Any, penalty: keras.Regularizer | None, dtype: str) -> Any:
    """Return `(clips, steps, values)`: a fourth of the frames, averaged over the picture."""
    build = _Convolutions(penalty, dtype)
    x = build.factored(images, STEM, "stem", stride=2, size=5)
    x = layers.Activation("relu", dtype=dtype, name="stem_relu")(x)
    x = build.pooled(x, (1, 2, 2), "stem_pool")
    for number, (channels, stride) in enumerate(STAGES, start=1):
        name = f"stage{number}"
        shortcut = build.convolution(x, channels, (1, 1, 1), f"{name}_shortcut", (stride,) * 3)
        y = build.factored(x, channels, f"{name}_1", stride, stride)
        y = layers.Activation("relu", dtype=dtype, name=f"{name}_1_relu")(y)
        y = build.factored(y, channels, f"{name}_2")
        x = layers.Add(dtype=dtype, name=f"{name}_sum")([shortcut, y])
        x = layers.Activation("relu", dtype=dtype, name=f"{name}_relu")(x)
        if number == EXPLAINED_STAGE:
            x = layers.Identity(dtype=dtype, name=MAPS)(x)
    return ops.mean(x, axis=(2, 3))


def _flow_gated(images: Any, penalty: keras.Regularizer | None, dtype: str) -> Any:
    """Return `(clips, 1, values)`."""
    build = _Convolutions(penalty, dtype)
    branches = []
    for name, first, gate in (("rgb", 0, "relu"), ("flow", 3, "sigmoid")):
        x = images[..., first : first + 3]
        for number, channels in enumerate(GATED_CHANNELS, start=1):
            is_last = number == len(GATED_CHANNELS)
            x = build.pair(x, channels, f"{name}_{number}", gate if is_last else "relu")
            x = build.pooled(x, (1, 2, 2), f"{name}_pool_{number}")
        branches.append(x)
    x = layers.Multiply(dtype=dtype, name=MAPS)(branches)
    x = build.pooled(x, (8, 1, 1), "gated_pool")
    for number, channels in enumerate(MERGED_CHANNELS, start=1):
        x = build.pair(x, channels, f"merged_{number}", "relu")
        x = build.pooled(x, (2, 2, 2), f"merged_pool_{number}")
    x = layers.GlobalAveragePooling3D(dtype=dtype, name="merged")(x)
    for number, units in enumerate((128, 32), start=1):
        x = layers.Dense(
            *(units, "relu"), kernel_regularizer=penalty, dtype=dtype, name=f"dense_{number}"
        )(x)
    return ops.expand_dims(x, 1)


@dataclass(frozen=True)
class _Convolutions:
    """Convolutions over space and over time, in one number format."""

    penalty: keras.Regularizer | None
    dtype: str

    def convolution(
        self,
        x: Any,
        channels: int,
        kernel: tuple[int, int, int],
        name: str,
        strides: tuple[int, int, int] = (1, 1, 1),
    ) -> Any:
        """Return a normalized convolution."""
        x = layers.Conv3D(
            channels,
            kernel,
            strides,
            "same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=self.penalty,
            dtype=self.dtype,
            name=name,
        )(x)
        return layers.GroupNormalization(NORM_GROUPS, dtype=self.dtype, name=f"{name}_norm")(x)

    def factored(
        self, x: Any, channels: int, name: str, stride: int = 1, time_stride: int = 1, size: int = 3
    ) -> Any:
        """Return a convolution over space followed by one over time, both normalized."""
        x = self.convolution(x, channels, (1, size, size), f"{name}_space", (1, stride, stride))
        x = layers.Activation("relu", dtype=self.dtype, name=f"{name}_space_relu")(x)
        return self.convolution(x, channels, (3, 1, 1), f"{name}_time", (time_stride, 1, 1))

    def pair(self, x: Any, channels: int, name: str, activation: str) -> Any:
        """Return a convolution over space and one over time, both activated."""
        for kernel, suffix in (((1, 3, 3), "space"), ((3, 1, 1), "time")):
            x = layers.Conv3D(
                channels,
                kernel,
                padding="same",
                activation=activation,
                kernel_initializer="he_normal",
                kernel_regularizer=self.penalty,
                dtype=self.dtype,
                name=f"{name}_{suffix}",
            )(x)
        return x

    def pooled(self, x: Any, size: tuple[int, int, int], name: str) -> Any:
        """Return the maximum over blocks of time and space."""
        return layers.MaxPooling3D(size, padding="same", dtype=self.dtype, name=name)(x)
