import numpy as np
import pytest

from violence_detection.evaluation.baselines import chance_baseline, constant_baseline
from violence_detection.evaluation.metrics import evaluate


@pytest.mark.parametrize("violent", [3, 5, 7])
def test_constant_answer_has_the_figures_of_equal_probabilities(violent: int) -> None:
    labels = np.arange(10) < violent
    probabilities = np.full(10, violent / 10)
    figures = evaluate(labels.astype(int), probabilities, 0.5, [*range(10)], seed=0)
    expected = constant_baseline(figures["confusion_matrix"])
    assert figures["ece"] == pytest.approx(0)
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_chance_has_the_mean_figures_of_coins() -> None:
    labels = (np.arange(4000) < 3000).astype(int)
    coins = np.arange(4000) % 2.0  # as often heads for each class
    figures = evaluate(labels, coins, 0.5, [0] * 4000, seed=0)
    expected = chance_baseline(figures["confusion_matrix"])
    assert expected["pr_auc"] == 0.75
    del expected["brier"]  # that of 0.5 for each clip
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
