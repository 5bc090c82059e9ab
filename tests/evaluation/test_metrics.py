from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from violence_detection.evaluation.metrics import (
    classification_figures,
    evaluate,
    figure_words,
    figures_table,
    format_figure,
    share_words,
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
    # Eight of the bins hold one clip each, the one from 0.3 a clip of each class.
    assert figures["ece"] == pytest.approx((0.1 + 0.2 + 0.5 + 0.6 + 0.4 + 0.4 + 0.2 + 0.1) / 10)


def test_figures_are_those_of_scikit_learn_with_its_sample_weights() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 50)
    probabilities = random.integers(0, 12, 50) / 12  # many ties
    weights = random.integers(0, 4, (5, 50)).astype(float)
    figures = classification_figures(labels, probabilities, 0.4, weights)
    predicted = probabilities >= 0.4
    for row, weight in enumerate(weights):
        expected = {
            "accuracy": metrics.accuracy_score(labels, predicted, sample_weight=weight),
            "precision": metrics.precision_score(labels, predicted, sample_weight=weight),
            "recall": metrics.recall_score(labels, predicted, sample_weight=weight),
            "f1": metrics.f1_score(labels, predicted, sample_weight=weight),
            "roc_auc": metrics.roc_auc_score(labels, probabilities, sample_weight=weight),
            "pr_auc": metrics.average_precision_score(labels, probabilities, sample_weight=weight),
            "brier": metrics.brier_score_loss(labels, probabilities, sample_weight=weight),
        }
        assert {name: figures[name][row] for name in expected} == pytest.approx(expected)


def test_ranking_of_one_class_is_undefined() -> None:
    figures = evaluate(LABELS[:4], PROBABILITIES[:4], 0.5, EACH[:4], seed=0)
    assert figures["roc_auc"] is None
    assert figures["intervals"]["roc_auc"] is None
    assert "n/a" in figures_table(figures, figures, figures)


def test_table_fits_the_screen() -> None:
    figures = evaluate(LABELS, PROBABILITIES, 0.5, EACH, seed=0)
    lines = figures_table(figures, figures, figures).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["violent", "1", "3"] for line in lines)


def test_figure_is_written_with_its_interval() -> None:
    figures: dict[str, Any] = {"accuracy": 0.875, "roc_auc": None, "f1": 0.5}
    figures["confusion_matrix"] = [[15, 1], [3, 13]]
    figures["intervals"] = {"accuracy": (0.75, 1.0), "roc_auc": None, "f1": None}
    assert format_figure(figures, "accuracy") == "0.875 (0.750 to 1.000)"
    assert figure_words(figures, "accuracy", "–") == ("0.875", "0.750–1.000")
    assert format_figure(figures, "f1") == "0.500"
    assert format_figure(figures, "roc_auc") == "n/a"
    assert figure_words(figures, "roc_auc") == (None, None)


def test_shares_of_few_clips_are_counts() -> None:
    figures = evaluate(LABELS, PROBABILITIES, 0.5, EACH, seed=0)
    low, high = figures["intervals"]["accuracy"]
    assert format_figure(figures, "accuracy") == f"8 of 10 ({10 * low:.0f} to {10 * high:.0f})"
    assert format_figure(figures, "violent_accuracy").startswith("3 of 4 (")
    assert format_figure(figures, "nonviolent_accuracy").startswith("5 of 6 (")
    assert format_figure(figures, "precision").startswith("3 of 4 (")
    assert format_figure(figures, "f1").startswith("0.750 (")
    assert (share_words(0.5, 29 + 1), share_words(0.5, 28)) == ("0.500", "14 of 28")
