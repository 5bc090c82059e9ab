from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit
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


@pytest.mark.parametrize(
    ("goal", "score"),
    [
        ("accuracy", metrics.accuracy_score),
        ("balanced", metrics.balanced_accuracy_score),
        ("f1", metrics.f1_score),
    ],
)
def test_no_threshold_serves_its_goal_better(
    goal: str, score: Callable[..., float], noisy: Drawn
) -> None:
    for labels, probabilities in (noisy, (LABELS, PROBABILITIES)):
        chosen = choose_threshold(labels, probabilities, goal)
        best = max(score(labels, probabilities >= t) for t in np.linspace(0, 1, 201))
        assert score(labels, probabilities >= chosen) >= best


@pytest.mark.parametrize(
    ("goal", "recall", "false_positives"),
    [("recall=1", 1.0, 2), ("recall=0.75", 0.75, 1), ("fpr=0", 0.25, 0), ("fpr=0.2", 0.75, 1)],
)
def test_threshold_for_a_share(goal: str, recall: float, false_positives: int) -> None:
    predicted = choose_threshold(LABELS, PROBABILITIES, goal) <= PROBABILITIES
    assert predicted[LABELS == 1].mean() == recall
    assert predicted[LABELS == 0].sum() == false_positives


def test_of_equal_thresholds_the_nearest_to_one_half_is_chosen() -> None:
    labels, probabilities = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(labels, probabilities, "accuracy") == pytest.approx(0.4)


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_temperature_is_recovered_and_calibrates(true: float, noisy: Drawn) -> None:
    labels, right = noisy
    distorted = calibrate(right, 1 / true)
    found = fit_temperature(labels, distorted)
    assert found == pytest.approx(true, rel=0.1)
    np.testing.assert_allclose(calibrate(distorted, found), right, atol=0.03)


def test_separable_classes_and_probabilities_of_0_and_1() -> None:
    point = choose_operating_point(np.array([0, 0, 1, 1]), np.float32([0, 0.1, 0.9, 1]), "accuracy")
    assert 0.05 <= point.temperature < 1
    assert 0 < point.threshold < 1
    assert np.isfinite(calibrate(np.float32([0, 1]), point.temperature)).all()
