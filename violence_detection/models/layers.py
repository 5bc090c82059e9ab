"""An LSTM that multiplies the inputs of all time steps at once."""

from typing import Any

import keras
from keras import ops


class _InputsFirst(keras.layers.RNN):
    """Overrides `RNN.inner_loop`, which Keras's LSTM uses without cuDNN."""

    def inner_loop(
        self, sequences: Any, initial_state: list[Any], mask: Any, training: bool = False
    ) -> tuple[Any, Any, list[Any]]:
        """Return the last output, all outputs and the last state, as `RNN.inner_loop` does."""
        cell, dtype = self.cell, self.compute_dtype
        if mask is not None or cell.dropout or cell.recurrent_dropout or self.go_backwards:
            return super().inner_loop(sequences, initial_state, mask, training)
        gates = ops.matmul(sequences, ops.cast(cell.kernel, dtype)) + ops.cast(cell.bias, dtype)
        kernel = ops.cast(cell.recurrent_kernel, dtype)
        hidden, carry = initial_state
        outputs = []
        for from_inputs in ops.unstack(gates, axis=1):
            both = from_inputs + ops.matmul(hidden, kernel)
            enter, forget, candidate, leave = ops.split(both, 4, axis=-1)
            carry = ops.sigmoid(forget) * carry + ops.sigmoid(enter) * ops.tanh(candidate)
            hidden = ops.sigmoid(leave) * ops.tanh(carry)
            outputs.append(hidden)
        return hidden, ops.stack(outputs, axis=1), [hidden, carry]


@keras.saving.register_keras_serializable("violence")
class OneProductLSTM(keras.layers.LSTM, _InputsFirst):
    """Keras's LSTM; without cuDNN, the inputs of all time steps are multiplied at once.

    Same weights, same results. Keras multiplies step by step, in products too small to use a device
    well, and adds up as many gradients of the kernel. For a fixed number of steps and the default
    activations.
    """
