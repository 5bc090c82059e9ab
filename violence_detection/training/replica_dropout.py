"""Dropout that does not depend on how many replicas a batch is spread over."""

import math

import keras
import tensorflow as tf

NUMBERS_PER_COUNT = 4  # random numbers that TensorFlow's generator (Philox) makes per counter value


class ReplicaDropout(keras.layers.Dropout):
    """Dropout that drops of each clip what it would drop were the batch on one replica.

    Keras's own draws the same numbers on each replica, so that what is trained depends on their
    number. A random number is a function of seed and place: a replica draws those of its own.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drop, if it is training on replicas."""
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
