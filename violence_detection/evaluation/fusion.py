"""How several classifiers are combined: weights of their logits, fitted on clips of validation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from violence_detection.evaluation.calibration import logits_of
from violence_detection.settings.constants import FUSION_BOUND

PRIOR = 10.0  # precision of the normal prior around equal weights and no bias


class Fusion(NamedTuple):
    """The logit of the combination is `bias` + the sum of the classifiers' weighted logits."""

    weights: tuple[float, ...]  # 0 or above
    bias: float

    def apply(self, probabilities: Sequence[np.ndarray]) -> np.ndarray:
        """Return the `(clips,)` probabilities of the combination.

        Args:
            probabilities: of violence, `(clips,)` for each classifier.
        """
        return expit(self.bias + np.array(self.weights) @ _logits(probabilities))


def fit_fusion(labels: np.ndarray, probabilities: Sequence[np.ndarray]) -> Fusion:
    """Return the combination under which the labels are the most likely.

    A logistic regression on the classifiers' logits (Wolpert 1992, stacked generalization), with
    weights of 0 or above and a prior that keeps them equal as far as the clips are few.

    Args:
        labels: `(clips,)`, 0 or 1.
        probabilities: of violence, `(clips,)` for each classifier, on clips that it has not been
            trained on.
    """
    logits, count = _logits(probabilities), len(probabilities)
    expected = np.array([*[1 / count] * count, 0.0])
    inputs = np.concatenate([logits, np.ones((1, len(labels)))])
    signs = 2 * np.asarray(labels) - 1

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (values @ inputs)
        pulled = values - expected
        slope = -(signs * expit(-margins)) @ inputs.T + PRIOR * pulled
        return np.logaddexp(0, -margins).sum() + PRIOR / 2 * pulled @ pulled, slope

    bounds = [(0, None)] * count + [(None, None)]
    *weights, bias = minimize(loss, expected, jac=True, method="L-BFGS-B", bounds=bounds).x.tolist()
    return Fusion(tuple(weights), bias)


def _logits(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    return logits_of(np.stack(probabilities), FUSION_BOUND)
