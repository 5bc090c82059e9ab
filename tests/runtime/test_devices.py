import pytest
import tensorflow as tf

from violence_detection.errors import UserError
from violence_detection.runtime.devices import find_devices, make_strategy


def test_strategies_of_one_process_do_not_mix_up_their_collectives() -> None:
    for size in (3, 5):  # with one numbering, the second fails: other shapes under one number
        strategy = make_strategy(find_devices(2), 8)

        def step(size: int = size) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_reduce("sum", tf.ones(size))

        summed = tf.function(lambda strategy=strategy, step=step: strategy.run(step))()
        assert [list(each) for each in strategy.experimental_local_results(summed)] == [
            [2.0] * size
        ] * 2


def test_a_strategy_has_a_replica_for_each_device_and_the_batch_divides_by_them() -> None:
    with pytest.raises(UserError, match="9 is not divisible by 2"):
        make_strategy(find_devices(2), 9)
    assert make_strategy(find_devices(2), 8).num_replicas_in_sync == 2
    assert make_strategy(find_devices(1), 8).num_replicas_in_sync == 1
