from typing import Any

import numpy as np

from violence_detection.evaluation.intervals import (
    FEWEST_GROUPS,
    bootstrap_intervals,
    mean_interval,
)
from violence_detection.evaluation.metrics import evaluate


def intervals_of(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, groups: list[str], seed: int
) -> dict[str, Any]:
    return evaluate(labels, probabilities, threshold, groups, seed)["intervals"]


def test_any_figure_that_takes_weights_has_an_interval() -> None:
    values = np.random.default_rng(0).normal(3, 1, 200)

    def figures_of(weights: np.ndarray) -> dict[str, np.ndarray]:
        mean = weights @ values / weights.sum(axis=1)
        return {"mean": mean, "undefined": np.full_like(mean, np.nan)}

    found = bootstrap_intervals(figures_of, [str(n) for n in range(200)], seed=0)
    low, high = found["mean"]
    assert low < values.mean() < high
    assert high - low < 0.4
    assert found["undefined"] is None


def test_interval_of_a_mean_needs_some_groups() -> None:
    values = np.ones(FEWEST_GROUPS, int)
    groups = np.arange(FEWEST_GROUPS)
    assert mean_interval(values, groups, seed=0) == (1, 1)
    assert mean_interval(values[1:], groups[:-1], seed=0) is None


def test_interval_covers_the_true_value_as_often_as_it_should() -> None:
    """Of 60 random tests of 100 clips with a true accuracy of 0.8, 95 % should cover it."""
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        labels = random.integers(0, 2, 100)
        right = random.random(100) < 0.8
        probabilities = np.where(labels == right, 0.9, 0.1)
        groups = [str(number) for number in range(100)]
        low, high = intervals_of(labels, probabilities, 0.5, groups, seed)["accuracy"]
        covered += low <= 0.8 <= high
        assert 0.1 < high - low < 0.25
    assert 52 <= covered <= 60


def test_interval_of_few_sources_is_wider_than_of_as_many_single_clips() -> None:
    labels = np.tile([0, 1], 40)
    probabilities = np.where(np.arange(80) // 8 % 3 == 0, 0.5 - (labels - 0.5) * 0.8, labels * 0.9)
    alone = intervals_of(labels, probabilities, 0.5, list(map(str, range(80))), 0)
    by_source = [str(number // 8) for number in range(80)]  # a source is wholly right or wrong
    grouped = intervals_of(labels, probabilities, 0.5, by_source, 0)
    width = {
        name: interval["accuracy"][1] - interval["accuracy"][0]
        for name, interval in (("alone", alone), ("grouped", grouped))
    }
    assert width["grouped"] > 2 * width["alone"]


def test_single_source_has_no_interval() -> None:
    intervals = intervals_of(np.arange(10) % 2, np.linspace(0, 1, 10), 0.5, ["camera"] * 10, 0)
    assert set(intervals.values()) == {None}


def test_interval_of_the_calibration_error_includes_it() -> None:
    random = np.random.default_rng(0)
    probabilities = random.random(40)
    labels = (random.random(40) < probabilities).astype(int)
    figures = evaluate(labels, probabilities, 0.5, list(map(str, range(40))), seed=0)
    low, high = figures["intervals"]["ece"]
    assert 0 <= low <= figures["ece"] <= high
