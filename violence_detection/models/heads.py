"""The heads of the classifier, and the attention over their states."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from violence_detection.models.layers import OneProductLSTM

ATTENTION_UNITS = 64


@dataclass(frozen=True)
class Heads:
    """Heads over time: from `(clips, frames, values)` to `(clips, frames, units)`.

    Args:
        units: width.
        dropout: rate, 0 to 1, in attention and the transformer.
        penalty: on all kernels; None: no penalty.
        dtype: Keras dtype policy.
        fused_kernel: let a GPU use cuDNN's LSTM, which cannot be part of an XLA program.
        dropout_layer: the class used in training.
    """

    units: int
    dropout: float
    penalty: keras.Regularizer | None
    dtype: str
    fused_kernel: bool
    dropout_layer: type[keras.layers.Dropout]

    def lstm(self, x: Any, name: str = "lstm", units: int | None = None) -> Any:
        """One LSTM."""
        return OneProductLSTM(
            units or self.units,
            return_sequences=True,
            kernel_regularizer=self.penalty,
            recurrent_regularizer=self.penalty,
            use_cudnn="auto" if self.fused_kernel else False,
            dtype=self.dtype,
            name=name,
        )(x)

    def bidirectional(self, x: Any) -> Any:
        """Two LSTMs of half the width, one of them over the frames in reverse."""
        half = max(1, self.units // 2)
        forward = self.lstm(x, "lstm", half)
        backward = ops.flip(self.lstm(ops.flip(x, axis=1), "lstm_backward", half), axis=1)
        return layers.Concatenate(dtype=self.dtype, name="both_ways")([forward, backward])

    def self_attention(self, x: Any) -> Any:
        """Vaswani et al., https://arxiv.org/abs/1706.03762: one layer, with a shortcut."""
        x = self._positioned(x)
        return layers.Add(dtype=self.dtype, name="attended")([x, self._attend(x, "1")])

    def transformer(self, x: Any) -> Any:
        """Two encoder layers, normalized before each part (https://arxiv.org/abs/2002.04745)."""
        x = self._positioned(x)
        for number in ("1", "2"):
            normal = layers.LayerNormalization(dtype=self.dtype, name=f"norm_{number}")(x)
            attended = self._attend(normal, number)
            x = layers.Add(dtype=self.dtype, name=f"attended_{number}")([x, attended])
            normal = layers.LayerNormalization(dtype=self.dtype, name=f"norm_dense_{number}")(x)
            wide = self._dense(2 * self.units, f"wide_{number}", "gelu")(normal)
            wide = self.dropout_layer(self.dropout, dtype=self.dtype, name=f"drop_{number}")(wide)
            narrow = self._dense(self.units, f"narrow_{number}")(wide)
            x = layers.Add(dtype=self.dtype, name=f"encoded_{number}")([x, narrow])
        return x

    def _positioned(self, x: Any) -> Any:
        """Project the frames to the head's width and add a learned position embedding."""
        x = self._dense(self.units, "to_units")(x)
        positions = ops.cumsum(ops.ones_like(x[:, :, 0], dtype="int32"), axis=1) - 1
        embedding = layers.Embedding(x.shape[1], self.units, dtype=self.dtype, name="places")
        return layers.Add(dtype=self.dtype, name="in_time")([x, embedding(positions)])

    def _attend(self, x: Any, number: str) -> Any:
        heads = 4 if self.units % 4 == 0 else 1
        attended = layers.MultiHeadAttention(
            heads,
            self.units // heads,
            kernel_regularizer=self.penalty,
            dtype=self.dtype,
            name=f"self_attention_{number}",
        )(x, x)
        return self.dropout_layer(self.dropout, dtype=self.dtype, name=f"attend_{number}")(attended)

    def _dense(self, units: int, name: str, activation: str | None = None) -> keras.Layer:
        return layers.Dense(
            units,
            activation=activation,
            kernel_regularizer=self.penalty,
            dtype=self.dtype,
            name=name,
        )

    def attention(self, states: Any) -> Any:
        """Return `(clips, frames)` float32 weights that sum to 1."""
        scores = self._dense(ATTENTION_UNITS, "attention_hidden", "tanh")(states)
        scores = layers.Dense(1, use_bias=False, dtype="float32", name="attention_scores")(scores)
        frames = states.shape[1]
        scores = layers.Reshape((frames,), dtype="float32", name="scores_by_frame")(scores)
        return layers.Softmax(dtype="float32", name="attention")(scores)

    def even_weights(self, states: Any) -> Any:
        """Return `(clips, frames)` float32 weights, the same for all frames."""
        same = ops.zeros_like(states[:, :, 0], dtype="float32")
        return layers.Softmax(dtype="float32", name="attention")(same)
