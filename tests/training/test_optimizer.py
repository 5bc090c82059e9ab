import keras
import numpy as np
import pytest
import tensorflow as tf

from violence_detection.training.optimizer import SummedGradientsAdam, make_schedule


@pytest.mark.parametrize(("warmup", "steps"), [(50, 1000), (0, 1000), (1, 3), (3, 4)])
def test_schedule_at_its_corners(warmup: int, steps: int) -> None:
    schedule = make_schedule(1e-3, warmup, steps)
    assert float(schedule(0)) == pytest.approx(0 if warmup else 1e-3)
    assert float(schedule(warmup)) == pytest.approx(1e-3)
    if steps - 1 > warmup:
        assert float(schedule(steps - 1)) == pytest.approx(1e-7, rel=1e-3)


@pytest.mark.parametrize("warmup", [0, 20])
def test_constant_schedule_stays_after_its_warm_up(warmup: int) -> None:
    schedule = make_schedule(1e-3, warmup, 100, "constant")
    assert float(schedule(0)) == (0 if warmup else pytest.approx(1e-3))
    assert float(schedule(warmup // 2)) == pytest.approx(0.5e-3 if warmup else 1e-3)
    assert [float(schedule(step)) for step in (warmup, 50, 99)] == pytest.approx([1e-3] * 3)


def test_schedule_between_its_corners() -> None:
    schedule = make_schedule(1e-3, 100, 1101)
    assert float(schedule(50)) == pytest.approx(0.5e-3)
    assert float(schedule(600)) == pytest.approx((1e-3 + 1e-7) / 2, rel=1e-4)
    rates = [float(schedule(step)) for step in range(100, 1101, 20)]
    assert rates == sorted(rates, reverse=True)


def test_optimizer_is_adam() -> None:
    random = np.random.default_rng(0)
    start = random.standard_normal((4, 3)).astype(np.float32)
    gradients = random.standard_normal((5, 4, 3)).astype(np.float32) * 10 ** random.uniform(
        -3, 3, 5
    )[:, None, None].astype(np.float32)
    results = []
    for kind in (SummedGradientsAdam, keras.optimizers.Adam):
        weight = keras.Variable(start)
        optimizer = kind(make_schedule(1e-2, 2, 5), clipnorm=1.0)
        for gradient in gradients:
            optimizer.apply_gradients([(tf.constant(gradient), weight)])
        results.append([weight, *optimizer.variables])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
