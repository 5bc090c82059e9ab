import pytest
import tensorflow as tf

from violence_detection.errors import UserError
from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy


def test_strategies_of_one_process_do_not_mix_up_their_collectives() -> None:
    for size in (3, 5):  # with one numbering, the second fails: other shapes under one number
        strategy = make_strategy(find_devices(2), 8)

        def step(size: int = size) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_reduce("sum", tf.ones(size))

        summed = tf.function(lambda strategy=strategy, step=step: strategy.run(step))()
        assert [list(each) for each in strategy.experimental_local_results(summed)] == [
            [2.0] * size
        ] * 2


def test_strategy_has_a_replica_per_device_and_they_divide_the_batch() -> None:
    with pytest.raises(UserError, match="9 is not divisible by 2"):
        make_strategy(find_devices(2), 9)
    assert make_strategy(find_devices(2), 8).num_replicas_in_sync == 2
    assert make_strategy(find_devices(1), 8).num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("asked", "device", "flags", "computation", "word"),
    [
        (True, "GPU", "", "float16", "loss scaling"),
        (True, "CPU", "sse avx512_bf16", "bfloat16", "avx512_bf16"),
        (True, "CPU", "sse avx2", "float32", "no bfloat16"),
        (False, "GPU", "", "float32", "--no-mixed-precision"),
        (False, "CPU", "avx512_bf16", "float32", "--no-mixed-precision"),
    ],
)
def test_precision_and_why(
    asked: bool,
    device: str,
    flags: str,
    computation: str,
    word: str,
) -> None:
    precision = choose_precision(asked, device, flags.split())
    assert precision.computation == computation
    assert word in precision.reason
