import numpy as np
import pytest

from evaluation import classification_figures, figures_table

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
PROBABILITIES = np.array([0.9, 0.8, 0.5, 0.3, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_figures_of_a_known_case() -> None:
    figures = classification_figures(LABELS, PROBABILITIES)
    assert figures["confusion_matrix"] == [[5, 1], [1, 3]]
    assert figures["accuracy"] == pytest.approx(0.8)
    assert figures["precision"] == figures["recall"] == figures["f1"] == pytest.approx(0.75)
    assert figures["class_accuracy"] == pytest.approx({"nonviolent": 5 / 6, "violent": 3 / 4})
    assert figures["roc_auc"] == pytest.approx(20.5 / 24)
    assert 0.8 < figures["pr_auc"] < 1


def test_one_class_has_no_ranking_and_no_crash() -> None:
    figures = classification_figures(LABELS[:4], PROBABILITIES[:4])
    assert figures["roc_auc"] is None
    assert "n/a" in figures_table(figures)


def test_table_fits_the_screen() -> None:
    lines = figures_table(classification_figures(LABELS, PROBABILITIES)).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["really", "violent", "1", "3"] for line in lines)
