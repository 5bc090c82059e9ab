"""From a trained classifier's probabilities to verdicts: temperature and threshold.

Both are chosen on validation clips and kept with the model; everything that comes after uses them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from violence_detection.settings.schema import parse_threshold_goal

TEMPERATURES = (0.05, 20.0)  # a split that is told apart without a mistake would ask for 0


@dataclass(frozen=True)
class OperatingPoint:
    """How a probability becomes a verdict."""

    temperature: float  # a logit is divided by it
    threshold: float  # of the calibrated probability; from it on a clip is called violent
    chosen_for: str  # as --threshold-for says it


def choose_operating_point(
    labels: np.ndarray, probabilities: np.ndarray, goal: str
) -> OperatingPoint:
    """Return the temperature and the threshold that suit `(clips,)` validation clips best."""
    temperature = fit_temperature(labels, probabilities)
    threshold = choose_threshold(labels, calibrate(probabilities, temperature), goal)
    return OperatingPoint(temperature, threshold, goal)


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return `(clips,)` float64 probabilities whose logits are divided by `temperature`."""
    return expit(_logits(probabilities) / temperature)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature of the least mean log loss.

    Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
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
    """Return the threshold that serves `goal` best on these clips; of equals, that nearest 0.5.

    Args:
        goal: "accuracy", "balanced" (mean of the two classes' accuracies), "f1" (of violent),
            "recall=R" (the fewest false alarms with at least R of the violent clips found) or
            "fpr=R" (the most violent clips found with at most R of the others called violent).
    """
    values = np.unique(probabilities)
    thresholds = np.concatenate([[0.0], (values[:-1] + values[1:]) / 2, [(values[-1] + 1) / 2]])
    violent = np.sort(probabilities[labels == 1])
    others = np.sort(probabilities[labels == 0])
    found = len(violent) - np.searchsorted(violent, thresholds)  # true positives
    alarms = len(others) - np.searchsorted(others, thresholds)  # false positives
    recall, false_rate = found / max(1, len(violent)), alarms / max(1, len(others))
    name, least = parse_threshold_goal(goal)
    scores: dict[str, Callable[[], np.ndarray]] = {
        "accuracy": lambda: (found + len(others) - alarms) / len(probabilities),
        "balanced": lambda: (recall + 1 - false_rate) / 2,
        "f1": lambda: 2 * found / np.maximum(1, len(violent) + found + alarms),
        "recall": lambda: np.where(recall >= least - 1e-12, 1 - false_rate, -1),
        "fpr": lambda: np.where(false_rate <= least + 1e-12, recall, -1),
    }
    score = scores[name]()
    best = thresholds[score >= score.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])
