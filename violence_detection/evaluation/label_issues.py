"""Suspect labels: clips ranked by how little predictions support their label.

Confident learning, Northcutt, Jiang and Chuang, 2021, https://doi.org/10.1613/jair.1.12125, for two
classes. Apart from the rounding of a half, the result is that of `find_label_issues` and
`get_label_quality_scores` of cleanlab 2.9, which needs pandas. With two classes its scores "self
confidence" and "normalized margin" are equal.
"""

from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-6  # probabilities that differ by less are equal


@dataclass(frozen=True)
class RankedLabels:
    """The labels of clips, ranked.

    Args:
        order: `(clips,)` int64 indices: the suspect labels first, each part by rising quality.
        quality: `(clips,)` float64, the predicted probability of the label; nan where unknown.
        suspect: `(clips,)` bool: the label is probably wrong.
    """

    order: np.ndarray
    quality: np.ndarray
    suspect: np.ndarray


def rank_labels(labels: np.ndarray, violence: np.ndarray) -> RankedLabels:
    """Rank labels by probabilities that do not come from a classifier trained on the same clips.

    A clip is confidently of a class if its probability of that reaches the mean of the clips
    labelled so. The share of the clips of a label that are confidently of the other class estimates
    how many of its labels are wrong: as many are suspect, those of the lowest quality, unless the
    label is as probable as the other class.

    Args:
        labels: `(clips,)` 0 or 1.
        violence: `(clips,)` probabilities of class 1. If one is not finite, or all labels are
            equal, no label is suspect.
    """
    labels, violence = np.asarray(labels), np.asarray(violence, np.float64)
    quality = np.where(labels == 1, violence, 1 - violence)
    suspect = np.zeros(len(labels), bool)
    if np.isfinite(violence).all() and len(np.unique(labels)) == 2:
        likely = _likely_classes(labels, violence)
        for label in (0, 1):
            own = np.flatnonzero(labels == label)
            wrong = _estimated_errors(likely[own], label)
            suspect[own[np.argsort(quality[own], kind="stable")[:wrong]]] = True
        suspect &= quality + ROUNDING < 1 - quality
    return RankedLabels(np.lexsort((quality, ~suspect)), quality, suspect)


def _likely_classes(labels: np.ndarray, violence: np.ndarray) -> np.ndarray:
    """Return `(clips,)` the class that each clip confidently is of; -1: of none."""
    probabilities = np.stack([1 - violence, violence])
    means = np.array([probabilities[label, labels == label].mean() for label in (0, 1)])
    confident = probabilities >= means[:, None] - ROUNDING
    both, neither = confident.all(axis=0), ~confident.any(axis=0)
    likely = np.where(both, probabilities.argmax(axis=0), confident.argmax(axis=0))
    return np.where(neither, -1, likely)


def _estimated_errors(likely: np.ndarray, label: int) -> int:
    """Return how many of the clips of a label are of the other class; at least one is not."""
    right, wrong = max(1, np.sum(likely == label)), np.sum(likely == 1 - label)
    return min(round(len(likely) * float(wrong / (right + wrong))), len(likely) - 1)
