"""From a classifier's probabilities to predictions: temperature and threshold.

Both are chosen on validation clips and stored with the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from violence_detection.settings.values import parse_threshold_goal

TEMPERATURES = (0.05, 20.0)  # without a bound, a split without mistakes would get 0


@dataclass(frozen=True)
class OperatingPoint:
    """How a probability becomes a prediction."""

    temperature: float  # logits are divided by it
    threshold: float  # a clip of at least this calibrated probability is predicted violent
    chosen_for: str  # the value of --threshold-for


def choose_operating_point(
    labels: np.ndarray, probabilities: np.ndarray, goal: str
) -> OperatingPoint:
    """Return the temperature and the threshold that suit the validation clips best.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence, uncalibrated.
        goal: what the threshold is chosen for, see `choose_threshold`.
    """
    temperature = fit_temperature(labels, probabilities)
    threshold = choose_threshold(labels, calibrate(probabilities, temperature), goal)
    return OperatingPoint(temperature, threshold, goal)


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return `(clips,)` float64 probabilities whose logits are divided by `temperature`."""
    return expit(_logits(probabilities) / temperature)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature of the lowest mean log loss.

    Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence.

    Returns:
        A number within `TEMPERATURES`: above 1 if the probabilities were too extreme.
    """
    logits = _logits(probabilities)
    signs = np.where(labels == 1, 1.0, -1.0)

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signs * logits / np.exp(log_temperature)).mean())

    found = minimize_scalar(log_loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    # A float32 sigmoid rounds to 0 or 1, whose logits are infinite.
    return logit(np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7))


def choose_threshold(labels: np.ndarray, probabilities: np.ndarray, goal: str) -> float:
    """Return the best threshold for a goal on these clips; of equals, the one nearest 0.5.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence, calibrated.
        goal: "accuracy", "balanced" (mean of the two classes' accuracies), "f1" (of violent),
            "recall=R" (the fewest false positives at a recall of at least R) or "fpr=R" (the
            highest recall at a false positive rate of at most R).
    """
    values = np.unique(probabilities)
    thresholds = np.concatenate([[0.0], (values[:-1] + values[1:]) / 2, [(values[-1] + 1) / 2]])
    violent = np.sort(probabilities[labels == 1])
    nonviolent = np.sort(probabilities[labels == 0])
    true_positives = len(violent) - np.searchsorted(violent, thresholds)
    false_positives = len(nonviolent) - np.searchsorted(nonviolent, thresholds)
    recall = true_positives / max(1, len(violent))
    false_positive_rate = false_positives / max(1, len(nonviolent))
    correct = true_positives + len(nonviolent) - false_positives
    positives = len(violent) + true_positives + false_positives
    name, limit = parse_threshold_goal(goal)
    scores: dict[str, Callable[[], np.ndarray]] = {
        "accuracy": lambda: correct / len(probabilities),
        "balanced": lambda: (recall + 1 - false_positive_rate) / 2,
        "f1": lambda: 2 * true_positives / np.maximum(1, positives),
        "recall": lambda: np.where(recall >= limit - 1e-12, 1 - false_positive_rate, -1),
        "fpr": lambda: np.where(false_positive_rate <= limit + 1e-12, recall, -1),
    }
    score = scores[name]()
    best = thresholds[score >= score.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])
