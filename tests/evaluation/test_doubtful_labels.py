"""Doubtful labels on made data, whose wrong labels are known."""

import numpy as np
import pytest

from violence_detection.evaluation.doubtful_labels import Predictions, doubtful_labels


def predictions(labels: np.ndarray, probabilities: np.ndarray, split: str = "test") -> Predictions:
    names = [f"{split}/{number}" for number in range(len(labels))]
    return Predictions(split, names, names, labels, probabilities)


def names_of(*splits: Predictions) -> list[str]:
    return [doubt.clip for doubt in doubtful_labels(splits)]


def test_labels_that_sure_predictions_contradict_are_found_in_every_split() -> None:
    labels = np.arange(60) % 2
    probabilities = 0.04 + 0.92 * labels
    labels[10], probabilities[10] = 1, 0.03
    validation = labels[:20].copy(), probabilities[:20].copy()
    validation[0][10], validation[1][10] = 0, 0.03
    validation[0][5], validation[1][5] = 0, 0.99
    found = names_of(predictions(labels, probabilities), predictions(*validation, "val"))
    assert found == ["val/5", "test/10"]


@pytest.mark.parametrize("probability", [0.85, 0.94], ids=["unsure", "surer of true ones"])
def test_mistakes_of_a_detector_are_not_doubted(probability: float) -> None:
    labels = np.arange(60) % 2
    probabilities = 0.04 + 0.92 * labels
    probabilities[10] = probability
    assert not names_of(predictions(labels, probabilities))


def test_detector_that_is_often_sure_and_wrong_doubts_no_label() -> None:
    labels = np.arange(60) % 2
    probabilities = np.where((np.arange(60) % 5 == 0) == (labels == 0), 0.97, 0.02)
    probabilities[::7] = np.where(labels[::7] == 1, 0.01, 0.99)
    assert not names_of(predictions(labels, probabilities))


@pytest.mark.parametrize("probability", [0.01, np.nan])
def test_one_class_or_no_numbers_doubt_no_label(probability: float) -> None:
    assert not names_of(predictions(np.ones(9, int), np.full(9, probability)))
