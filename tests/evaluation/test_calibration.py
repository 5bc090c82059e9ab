from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics

from violence_detection.evaluation.calibration import (
    calibrate,
    choose_operating_point,
    choose_threshold,
    fit_temperature,
)

Drawn = tuple[np.ndarray, np.ndarray]

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.3, 0.35, 0.5, 0.8, 0.4, 0.6, 0.7, 0.9])


@pytest.fixture
def noisy() -> Drawn:
    """Return random labels and the probabilities that they were drawn with."""
    random = np.random.default_rng(0)
    probabilities = expit(random.normal(0.7, 1.5, 4000))
    return (random.random(4000) < probabilities).astype(int), probabilities


GOALS = pytest.mark.parametrize(
    ("goal", "score"),
    [
        ("accuracy", metrics.accuracy_score),
        ("balanced", metrics.balanced_accuracy_score),
        ("f1", metrics.f1_score),
    ],
)


@GOALS
def test_of_many_clips_no_threshold_serves_its_goal_better(
    goal: str, score: Callable[..., float], noisy: Drawn
) -> None:
    """Also far from 0.5, where the probabilities are too high or too low."""
    labels, right = noisy
    for shift in (2.0, -2.0):
        probabilities = expit(logit(right) + shift)
        chosen = choose_threshold(labels, probabilities, goal)
        best = max(score(labels, probabilities >= t) for t in np.linspace(0, 1, 201))
        assert score(labels, probabilities >= chosen) >= best
        assert abs(chosen - 0.5) > 0.2


@GOALS
def test_of_few_clips_another_threshold_than_one_half_is_chance(
    goal: str, score: Callable[..., float]
) -> None:
    best = max(score(LABELS, t <= PROBABILITIES) for t in np.linspace(0, 1, 201))
    assert best > score(LABELS, PROBABILITIES >= 0.5)
    assert choose_threshold(LABELS, PROBABILITIES, goal) == 0.5


@pytest.mark.parametrize(
    ("favouring", "of_each", "chosen"),
    [(1, 2, 0.5), (1, 40, 0.5), (40, 1, 0.75), (20, 2, 0.75)],
    ids=["two clips of one group", "forty of one", "forty groups", "twenty of two clips"],
)
def test_threshold_is_chosen_by_groups_not_by_clips(
    favouring: int, of_each: int, chosen: float
) -> None:
    """Beside 50 groups that are predicted rightly are some whose nonviolent clips get 0.6."""
    labels = np.array([0, 1] * 50 + [0] * favouring * of_each)
    probabilities = np.where(labels == 1, 0.9, 0.1)
    probabilities[100:] = 0.6
    groups = np.concatenate([np.arange(100) // 2, 50 + np.arange(favouring * of_each) // of_each])
    found = choose_threshold(labels, probabilities, "accuracy", groups)
    assert found == pytest.approx(chosen)


@pytest.mark.parametrize(
    ("goal", "recall", "false_positives"),
    [("recall=1", 1.0, 2), ("recall=0.75", 0.75, 1), ("fpr=0", 0.25, 0), ("fpr=0.2", 0.75, 1)],
)
@pytest.mark.parametrize("groups", [None, np.zeros(10, int)], ids=["", "one group"])
def test_threshold_for_a_share(
    goal: str, recall: float, false_positives: int, groups: np.ndarray | None
) -> None:
    predicted = choose_threshold(LABELS, PROBABILITIES, goal, groups) <= PROBABILITIES
    assert predicted[LABELS == 1].mean() == recall
    assert predicted[LABELS == 0].sum() == false_positives


def test_of_equal_thresholds_the_nearest_to_one_half_is_chosen() -> None:
    labels, probabilities = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(labels, probabilities, "recall=1") == pytest.approx(0.4)
    assert choose_threshold(labels, probabilities, "accuracy") == 0.5


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_temperature_is_recovered_and_calibrates(true: float, noisy: Drawn) -> None:
    labels, right = noisy
    distorted = calibrate(right, 1 / true)
    found = fit_temperature(labels, distorted)
    assert found == pytest.approx(true, rel=0.1)
    np.testing.assert_allclose(calibrate(distorted, found), right, atol=0.03)


@pytest.mark.parametrize("margin", [0.2, 2.0, 20.0], ids=["hesitant", "sure", "certain"])
def test_few_clips_without_a_mistake_do_not_make_other_predictions_certain(margin: float) -> None:
    labels = np.arange(20) % 2
    raw = expit(np.where(labels == 1, margin, -margin)).astype(np.float32)
    point = choose_operating_point(labels, raw, "accuracy")
    calibrated = calibrate(raw, point.temperature)
    assert not point.is_at_bound
    assert 0.01 < calibrated.min() < 0.5 < calibrated.max() < 0.99
    assert point.threshold == 0.5


def test_more_clips_without_a_mistake_allow_more_certainty() -> None:
    found = []
    for clips in (20, 200, 2000):
        labels = np.arange(clips) % 2
        raw = expit(np.where(labels == 1, 2.0, -2.0))
        found.append(calibrate(raw, fit_temperature(labels, raw)).max())
    assert found == sorted(found)
    assert found[-1] > 0.99


@pytest.mark.parametrize("clips", [20, 4000])
def test_predictions_no_better_than_chance_become_uncertain(clips: int) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(clips) // 2 % 2
    raw = expit(random.permutation(np.tile([-2.0, 2.0], clips // 2)))
    point = choose_operating_point(labels, raw, "accuracy")
    calibrated = calibrate(raw, point.temperature)
    assert np.abs(calibrated - 0.5).max() < np.abs(raw - 0.5).max()
    if clips == 20:
        assert point.temperature < 5  # so few may be predicted wrongly by bad luck
    else:
        assert np.abs(calibrated - 0.5).max() < 0.06


@pytest.mark.parametrize("labels", [[0, 1, 1], [1, 1, 1], [0]])
def test_hardly_any_clips_leave_threshold_and_temperature_near_where_they_were(
    labels: list[int],
) -> None:
    raw = np.array([0.9, 0.2, 0.8], np.float32)[: len(labels)]
    point = choose_operating_point(np.array(labels), raw, "accuracy")
    assert point.threshold == 0.5
    assert 0.5 < point.temperature < 2


def test_one_group_says_nothing_of_another_threshold() -> None:
    labels = np.array([0, 1] * 30)
    probabilities = np.where(labels == 1, 0.9, 0.7)
    assert choose_threshold(labels, probabilities, "accuracy", np.zeros(60, int)) == 0.5
    assert choose_threshold(labels, probabilities, "accuracy") == pytest.approx(0.8)
    assert choose_threshold(labels[:6], probabilities[:6], "accuracy") == 0.5  # three of each


def test_probabilities_of_0_and_1_can_be_calibrated() -> None:
    raw = np.float32([0, 0.1, 0.9, 1])
    point = choose_operating_point(np.array([0, 0, 1, 1]), raw, "accuracy")
    calibrated = calibrate(raw, point.temperature)
    assert np.isfinite(calibrated).all()
    assert ((calibrated > 0) & (calibrated < 1)).all()
