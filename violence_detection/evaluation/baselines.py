"""What figures are worth without any detector: always the same class, and chance."""

from collections.abc import Mapping, Sequence

from violence_detection.settings.constants import CLASS_NAMES

Baseline = Mapping[str, float | None]  # by figure; None: undefined


def more_frequent_class(confusion: Sequence[Sequence[int]]) -> int:
    """Return the class with more clips: 1 violent, also if there are as many of both, else 0.

    Args:
        confusion: `confusion_matrix` of `metrics.evaluate`.
    """
    return int(sum(confusion[1]) >= sum(confusion[0]))


def constant_baseline(confusion: Sequence[Sequence[int]]) -> Baseline:
    """Return the figures of a detector that says the more frequent class of every clip.

    Args:
        confusion: `confusion_matrix` of the figures that they are compared with.

    Returns:
        The figures of `metrics.classification_figures` but ECE. Ranking figures are those of equal
        probabilities, the Brier score that of the share of violent clips as every probability.
    """
    answer, share = more_frequent_class(confusion), _violent_share(confusion)
    return {
        "accuracy": share if answer else 1 - share,
        "precision": share if answer else None,
        "recall": float(answer),
        "f1": 2 * share / (1 + share) if answer else 0.0,
        "roc_auc": 0.5,
        "pr_auc": share,
        **{f"{name}_accuracy": float(label == answer) for label, name in enumerate(CLASS_NAMES)},
        "brier": share * (1 - share),
    }


def chance_baseline(confusion: Sequence[Sequence[int]]) -> Baseline:
    """Return the expected figures of a coin that is tossed for every clip.

    Args:
        confusion: `confusion_matrix` of the figures that they are compared with.

    Returns:
        As `constant_baseline` has them; the Brier score is that of 0.5 as every probability.
    """
    share = _violent_share(confusion)
    return {
        "accuracy": 0.5,
        "precision": share,
        "recall": 0.5,
        "f1": share / (share + 0.5),
        "roc_auc": 0.5,
        "pr_auc": share,
        **{f"{name}_accuracy": 0.5 for name in CLASS_NAMES},
        "brier": 0.25,
    }


def _violent_share(confusion: Sequence[Sequence[int]]) -> float:
    violent = sum(confusion[1])
    return violent / (violent + sum(confusion[0]))
