"""From a classifier's probabilities to predictions: temperature and threshold.

Both are chosen on validation clips and stored with the model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from violence_detection.settings.values import parse_threshold_goal

TEMPERATURES = (0.05, 20.0)
PRIOR_DEVIATION = 0.5  # of a temperature's logarithm, before any clip is seen
HALF = 0.5
STANDARD_ERRORS = 2.0  # by which a threshold must be better than 0.5


@dataclass(frozen=True)
class OperatingPoint:
    """How a probability becomes a prediction."""

    temperature: float  # logits are divided by it
    threshold: float  # a clip of at least this calibrated probability is predicted violent
    chosen_for: str  # the value of --threshold-for

    @property
    def is_at_bound(self) -> bool:
        """Whether no temperature within `TEMPERATURES` was high or low enough."""
        return not TEMPERATURES[0] * 1.01 < self.temperature < TEMPERATURES[1] / 1.01


def choose_operating_point(
    labels: np.ndarray,
    probabilities: np.ndarray,
    goal: str,
    groups: np.ndarray | None = None,
) -> OperatingPoint:
    """Return the temperature and the threshold that suit the validation clips best.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence, uncalibrated.
        goal: what the threshold is chosen for, see `choose_threshold`.
        groups: `(clips,)`: clips of one group are right or wrong together; None: each by itself.
    """
    temperature = fit_temperature(labels, probabilities)
    threshold = choose_threshold(labels, calibrate(probabilities, temperature), goal, groups)
    return OperatingPoint(temperature, threshold, goal)


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return `(clips,)` float64 probabilities whose logits are divided by `temperature`."""
    return expit(logits_of(probabilities) / temperature)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the most likely temperature.

    Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599. Few
    clips that are all predicted rightly, or hardly better than by chance, do not show that others
    will be. Hence the targets are those of Platt, (n + 1) / (n + 2) with n clips of the class
    (Probabilistic Outputs for Support Vector Machines, 1999), and the temperature's logarithm has
    a normal prior around 0.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence.

    Returns:
        A number within `TEMPERATURES`: above 1 if the probabilities were too extreme.
    """
    logits = logits_of(probabilities)
    violent = int((labels == 1).sum())
    targets = np.where(labels == 1, (violent + 1) / (violent + 2), 1 / (len(labels) - violent + 2))

    def penalty(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        log_loss = (np.logaddexp(0, scaled) - targets * scaled).sum()
        return float(log_loss + log_temperature**2 / (2 * PRIOR_DEVIATION**2))

    found = minimize_scalar(penalty, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def logits_of(probabilities: np.ndarray, bound: float = 1e-7) -> np.ndarray:
    """Return float64 logits of probabilities that are kept `bound` away from 0 and 1.

    A float32 sigmoid rounds to 0 or 1, whose logits are infinite.
    """
    return logit(np.clip(np.asarray(probabilities, np.float64), bound, 1 - bound))


def choose_threshold(
    labels: np.ndarray, probabilities: np.ndarray, goal: str, groups: np.ndarray | None = None
) -> float:
    """Return the best threshold for a goal on these clips; of equals, the one nearest 0.5.

    For "accuracy", "balanced" and "f1" it is 0.5, unless the best one is better than that by more
    than `STANDARD_ERRORS` of the difference: on few clips, the best one is mostly chance.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence, calibrated.
        goal: "accuracy", "balanced" (mean of the two classes' accuracies), "f1" (of violent),
            "recall=R" (the fewest false positives at a recall of at least R) or "fpr=R" (the
            highest recall at a false positive rate of at most R).
        groups: `(clips,)`: clips of one group are right or wrong together; None: each by itself.
    """
    name, limit = parse_threshold_goal(goal)
    values = np.unique(probabilities)
    thresholds = np.concatenate([[0.0], (values[:-1] + values[1:]) / 2, [(values[-1] + 1) / 2]])
    violent = np.sort(probabilities[labels == 1])
    nonviolent = np.sort(probabilities[labels == 0])
    counts = Counts(
        len(violent) - np.searchsorted(violent, thresholds),
        len(nonviolent) - np.searchsorted(nonviolent, thresholds),
        np.array(len(violent)),
        np.array(len(nonviolent)),
    )
    score = counts.score(name, limit)
    equals = thresholds[score >= score.max() - 1e-12]
    best = float(equals[np.argmin(np.abs(equals - HALF))])
    if name not in ("recall", "fpr"):
        groups = np.arange(len(labels)) if groups is None else groups
        gain, error = _gain_over_half(labels, probabilities, best, name, groups)
        return best if gain > STANDARD_ERRORS * error else HALF
    return best


class Counts(NamedTuple):
    """How many clips are predicted violent; `(thresholds,)` or one number each."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    violent: np.ndarray
    nonviolent: np.ndarray

    def score(self, goal: str, limit: float = 0.0) -> np.ndarray:
        """Return how well a goal of `choose_threshold` is reached; higher is better.

        Args:
            goal: its name.
            limit: the R of "recall=R" and "fpr=R".
        """
        recall = self.true_positives / np.maximum(1, self.violent)
        false_positive_rate = self.false_positives / np.maximum(1, self.nonviolent)
        correct = self.true_positives + self.nonviolent - self.false_positives
        positives = self.violent + self.true_positives + self.false_positives
        scores: dict[str, Callable[[], np.ndarray]] = {
            "accuracy": lambda: correct / np.maximum(1, self.violent + self.nonviolent),
            "balanced": lambda: (recall + 1 - false_positive_rate) / 2,
            "f1": lambda: 2 * self.true_positives / np.maximum(1, positives),
            "recall": lambda: np.where(recall >= limit - 1e-12, 1 - false_positive_rate, -1),
            "fpr": lambda: np.where(false_positive_rate <= limit + 1e-12, recall, -1),
        }
        return scores[goal]()


def _gain_over_half(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, goal: str, groups: np.ndarray
) -> tuple[float, float]:
    """Return how much better a threshold is than 0.5, and the standard error of that.

    By the jackknife over groups: Efron and Stein, 1981, https://doi.org/10.1214/aos/1176345462.
    """
    group_of = np.unique(groups, return_inverse=True)[1]

    def by_group(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(group_of, chosen)

    def scores(at: float) -> tuple[float, np.ndarray]:
        positive = probabilities >= at
        each = Counts(
            *(by_group(positive & (labels == 1)), by_group(positive & (labels == 0))),
            *(by_group(labels == 1), by_group(labels == 0)),
        )
        whole = Counts(*(count.sum() for count in each))
        without = Counts(*(total - count for total, count in zip(whole, each, strict=True)))
        return float(whole.score(goal)), without.score(goal)

    (best, best_without), (half, half_without) = scores(threshold), scores(HALF)
    gains = best_without - half_without
    count = len(gains)
    error = math.sqrt((count - 1) * gains.var()) if count > 1 else math.inf
    return best - half, math.hypot(error, 1 / len(labels))  # not 0 where all groups gain alike
