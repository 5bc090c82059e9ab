"""The learning rate's schedule, and Adam for gradients that are summed over the replicas."""

from typing import Any

import keras
import tensorflow as tf

from violence_detection.settings.constants import FINAL_LEARNING_RATE


def make_schedule(
    learning_rate: float, warmup_steps: int, steps: int, kind: str = "cosine"
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a rate of 0 at step 0, `learning_rate` at `warmup_steps`, 1e-7 at `steps - 1`.

    Linear, then a cosine (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983); of the kind
    "constant", it stays at `learning_rate` after the warm-up.
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

    Keras's own clips each replica's gradient before it adds them up, so that the same global
    batch trains differently on two replicas than on one; and it tells an overflow of the loss
    scale from the first replica's gradients alone. Its update is the same formula in ten passes.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Update a weight and its two moments."""
        index = self._get_variable_index(variable)
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
) -> keras.optimizers.Optimizer:
    """Return Adam with each gradient clipped to `clipnorm` (0: not), with dynamic loss scaling."""
    adam = SummedGradientsAdam(schedule, clipnorm=clipnorm or None)
    return keras.optimizers.LossScaleOptimizer(adam) if loss_scaling else adam
