import numpy as np
import pytest
from sklearn import metrics

from violence_detection.evaluation.metrics import (
    bootstrap_intervals,
    classification_figures,
    evaluate,
    figures_table,
)

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
PROBABILITIES = np.array([0.9, 0.8, 0.5, 0.3, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0])
EACH = [str(number) for number in range(10)]


def test_figures_of_a_known_case() -> None:
    figures = evaluate(LABELS, PROBABILITIES, 0.5, EACH, seed=0)
    assert figures["confusion_matrix"] == [[5, 1], [1, 3]]
    assert figures["accuracy"] == pytest.approx(0.8)
    assert figures["precision"] == figures["recall"] == figures["f1"] == pytest.approx(0.75)
    assert figures["nonviolent_accuracy"] == pytest.approx(5 / 6)
    assert figures["violent_accuracy"] == pytest.approx(3 / 4)
    assert figures["roc_auc"] == pytest.approx(20.5 / 24)
    assert 0.8 < figures["pr_auc"] < 1
    assert figures["brier"] == pytest.approx(metrics.brier_score_loss(LABELS, PROBABILITIES))
    # Eight of the bins hold one clip each, that from 0.3 on one of each class.
    assert figures["ece"] == pytest.approx((0.1 + 0.2 + 0.5 + 0.6 + 0.4 + 0.4 + 0.2 + 0.1) / 10)


def test_figures_are_those_of_scikit_learn_with_its_sample_weights() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 50)
    probabilities = random.integers(0, 12, 50) / 12  # many equal ones
    weights = random.integers(0, 4, (5, 50)).astype(float)
    figures = classification_figures(labels, probabilities, 0.4, weights)
    verdicts = probabilities >= 0.4
    for row, weight in enumerate(weights):
        expected = {
            "accuracy": metrics.accuracy_score(labels, verdicts, sample_weight=weight),
            "precision": metrics.precision_score(labels, verdicts, sample_weight=weight),
            "recall": metrics.recall_score(labels, verdicts, sample_weight=weight),
            "f1": metrics.f1_score(labels, verdicts, sample_weight=weight),
            "roc_auc": metrics.roc_auc_score(labels, probabilities, sample_weight=weight),
            "pr_auc": metrics.average_precision_score(labels, probabilities, sample_weight=weight),
            "brier": metrics.brier_score_loss(labels, probabilities, sample_weight=weight),
        }
        assert {name: figures[name][row] for name in expected} == pytest.approx(expected)


def test_one_class_has_no_ranking_and_no_crash() -> None:
    figures = evaluate(LABELS[:4], PROBABILITIES[:4], 0.5, EACH[:4], seed=0)
    assert figures["roc_auc"] is None
    assert figures["intervals"]["roc_auc"] is None
    assert "n/a" in figures_table(figures, figures, figures)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 60 drawn tests of 100 clips with a true accuracy of 0.8, 95 % should hold it."""
    random = np.random.default_rng(0)
    held = 0
    for seed in range(60):
        labels = random.integers(0, 2, 100)
        right = random.random(100) < 0.8
        probabilities = np.where(labels == right, 0.9, 0.1)
        groups = [str(number) for number in range(100)]
        low, high = bootstrap_intervals(labels, probabilities, 0.5, groups, seed)["accuracy"]
        held += low <= 0.8 <= high
        assert 0.1 < high - low < 0.25
    assert 52 <= held <= 60


def test_clips_of_one_source_say_less_than_as_many_sources() -> None:
    labels = np.tile([0, 1], 40)
    probabilities = np.where(np.arange(80) // 8 % 3 == 0, 0.5 - (labels - 0.5) * 0.8, labels * 0.9)
    alone = bootstrap_intervals(labels, probabilities, 0.5, list(map(str, range(80))), 0)
    by_source = [str(number // 8) for number in range(80)]  # a source is wholly right or wrong
    grouped = bootstrap_intervals(labels, probabilities, 0.5, by_source, 0)
    width = {
        name: interval["accuracy"][1] - interval["accuracy"][0]
        for name, interval in (("alone", alone), ("grouped", grouped))
    }
    assert width["grouped"] > 2 * width["alone"]


def test_table_fits_the_screen() -> None:
    figures = evaluate(LABELS, PROBABILITIES, 0.5, EACH, seed=0)
    lines = figures_table(figures, figures, figures).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["really", "violent", "1", "3"] for line in lines)


def test_one_source_has_no_interval() -> None:
    intervals = bootstrap_intervals(LABELS, PROBABILITIES, 0.5, ["camera"] * 10, 0)
    assert set(intervals.values()) == {None}


def test_interval_of_the_calibration_error_holds_it() -> None:
    random = np.random.default_rng(0)
    probabilities = random.random(40)
    labels = (random.random(40) < probabilities).astype(int)
    figures = evaluate(labels, probabilities, 0.5, list(map(str, range(40))), seed=0)
    low, high = figures["intervals"]["ece"]
    assert 0 <= low <= figures["ece"] <= high
