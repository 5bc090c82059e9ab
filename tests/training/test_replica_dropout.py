import numpy as np
import pytest
import tensorflow as tf

from violence_detection.training.replica_dropout import ReplicaDropout


@pytest.mark.parametrize("values", [8, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_on_two_replicas_is_that_of_keras_on_one(values: int, dtype: str) -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    batch = tf.ones((6, 5, values), dtype)
    alone = tf.keras.layers.Dropout(0.4, seed=7, dtype=dtype)
    with strategy.scope():
        by_replica = ReplicaDropout(0.4, seed=7, dtype=dtype)

    @tf.function
    def drop() -> tf.Tensor:
        def on_replica() -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return by_replica(batch[3 * replica : 3 * replica + 3], training=True)

        return strategy.run(on_replica)

    for _ in range(2):
        parts = strategy.experimental_local_results(drop())
        expected = alone(batch, training=True)
        np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert 0.2 < float(tf.reduce_mean(tf.cast(expected == 0, tf.float32))) < 0.6
