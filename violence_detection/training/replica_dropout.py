"""Dropout that does not depend on the number of replicas."""

import math

import keras
import tensorflow as tf

NUMBERS_PER_COUNT = 4  # random numbers per counter value of TensorFlow's generator (Philox)


class ReplicaDropout(keras.layers.Dropout):
    """Dropout that drops the same values as if the whole batch were on one replica.

    Keras's Dropout draws the same numbers on each replica, so that results depend on the number of
    replicas. Here a random number is a function of the seed and of the value's index in the global
    batch.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the inputs with values dropped, in a training step under a strategy."""
        replica = tf.distribute.get_replica_context()
        if not training or self.rate == 0 or replica is None:
            return super().call(inputs, training=training)
        clips, *shape = inputs.shape
        replicas, own = replica.num_replicas_in_sync, replica.replica_id_in_sync_group
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        before = int(tf.get_static_value(own)) * math.prod((clips, *shape))
        if before % NUMBERS_PER_COUNT:
            whole = (replicas * clips, *shape)
            numbers = tf.random.stateless_uniform(whole, seed, dtype=inputs.dtype)
            numbers = numbers[own * clips : (own + 1) * clips]
        else:
            key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
            numbers = tf.raw_ops.StatelessRandomUniformV2(
                shape=inputs.shape,
                key=key,
                counter=counter + tf.constant([before // NUMBERS_PER_COUNT, 0], tf.uint64),
                alg=tf.random.Algorithm.AUTO_SELECT.value,
                dtype=inputs.dtype,
            )
        return tf.where(numbers >= self.rate, inputs * (1 / (1 - self.rate)), 0)
