"""The learning-rate schedule, and Adam for gradients summed over the replicas."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from violence_detection.settings.constants import FINAL_LEARNING_RATE


def make_schedule(
    learning_rate: float, warmup_steps: int, steps: int, kind: str = "cosine"
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a schedule: 0 at step 0, `learning_rate` at `warmup_steps`, 1e-7 at `steps - 1`.

    Linear, then cosine decay (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983).

    Args:
        learning_rate: the highest rate.
        warmup_steps: optimizer steps of the linear warm-up; 0: none.
        steps: optimizer steps of the whole training.
        kind: "cosine", or "constant" for a constant rate after the warm-up.
    """
    if kind == "constant":
        return keras.optimizers.schedules.PolynomialDecay(
            0.0 if warmup_steps else learning_rate, max(1, warmup_steps), learning_rate
        )
    decay_steps = max(1, steps - 1 - warmup_steps)
    alpha = FINAL_LEARNING_RATE / learning_rate
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps, alpha)
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps, alpha, warmup_target=learning_rate, warmup_steps=warmup_steps
    )


class SummedGradientsAdam(keras.optimizers.Adam):
    """Adam for gradients that are already summed over the replicas, in one pass over each weight.

    Keras's Adam clips each replica's gradient before adding them up, so that the same global batch
    trains differently on two replicas than on one, and it detects an overflow of the loss scale by
    the first replica's gradients alone. Its update is the same formula in ten passes.
    """

    shares: Sequence[float] | None = None  # of the learning rate, by the index of a weight

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Update a weight and its two moments."""
        index = self._get_variable_index(variable)
        if self.shares is not None:
            learning_rate = learning_rate * self.shares[index]
        step = tf.cast(self.iterations.value + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def make_optimizer(
    schedule: keras.optimizers.schedules.LearningRateSchedule | float,
    clipnorm: float,
    loss_scaling: bool,
    shares: Sequence[float] | None = None,
) -> keras.optimizers.Optimizer:
    """Return Adam for gradients summed over the replicas.

    Args:
        schedule: the learning rate.
        clipnorm: L2 norm that each weight's gradient is clipped to; 0: no clipping.
        loss_scaling: wrap it in dynamic loss scaling, for float16.
        shares: of the learning rate that each weight is trained with, in the order of the weights;
            None: all of it.
    """
    adam = SummedGradientsAdam(schedule, clipnorm=clipnorm or None)
    adam.shares = shares
    return keras.optimizers.LossScaleOptimizer(adam) if loss_scaling else adam
