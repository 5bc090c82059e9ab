"""How good a trained classifier is on a split: figures, and how far they can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics

from violence_detection.clips.dataset import Clip
from violence_detection.settings.schema import CLASS_NAMES
from violence_detection.storage.files import write_csv

RESAMPLES = 1000  # of the bootstrap
CONFIDENCE = 0.95
CALIBRATION_BINS = 10
NUMBERS_AT_ONCE = 200_000  # of resamples times clips: memory is bounded

FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc")
Interval = tuple[float, float] | None  # None: there is nothing to tell it from


def classification_figures(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return accuracy, precision, recall, F1, ROC-AUC, PR-AUC, each class's accuracy, ECE, Brier.

    scikit-learn's figures with its `sample_weight`, but for many resamples at once: one by one,
    its checks of arguments would take a minute.

    Args:
        labels, probabilities: `(clips,)`.
        threshold: a clip of at least this probability is called violent.
        weights: `(resamples, clips)`: how often each clip counts.

    Returns:
        `(resamples,)` float64 for each figure; nan where it is not defined: the AUCs and a class's
        accuracy on clips that lack a class, the precision of no verdict. Precision, recall and F1
        are of the violent class.
    """
    verdicts = probabilities >= threshold
    kept, alarms, missed, found = (
        weights @ ((labels == label) & (verdicts == verdict)).astype(float)
        for label in (0, 1)
        for verdict in (False, True)
    )
    total = weights.sum(axis=1)
    class_accuracies = _share(kept, kept + alarms), _share(found, found + missed)
    return {
        "accuracy": (kept + found) / total,
        "precision": _share(found, found + alarms),
        "recall": class_accuracies[1],
        "f1": _share(2 * found, 2 * found + alarms + missed),
        **_ranking_figures(labels, probabilities, weights),
        **{
            f"{name}_accuracy": accuracy
            for name, accuracy in zip(CLASS_NAMES, class_accuracies, strict=True)
        },
        **_calibration_figures(labels, probabilities, weights, total),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part / whole`, nan where there is nothing."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _ranking_figures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the areas under the ROC curve and, as average precision, under the PR curve."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probabilities[order]) != 0, True))  # of equal ones
    ranked, violent = weights[:, order], labels[order]
    found = np.cumsum(ranked * violent, axis=1)[:, ends]
    alarms = np.cumsum(ranked * (1 - violent), axis=1)[:, ends]
    more_found = np.diff(found, axis=1, prepend=0)
    more_alarms = np.diff(alarms, axis=1, prepend=0)
    area = (more_alarms * (found - more_found / 2)).sum(axis=1)
    precision = np.nan_to_num(_share(found, found + alarms))
    both = (found[:, -1] > 0) & (alarms[:, -1] > 0)
    average_precision = _share((more_found * precision).sum(axis=1), found[:, -1])
    return {
        "roc_auc": _share(area, found[:, -1] * alarms[:, -1]),
        "pr_auc": np.where(both, average_precision, np.nan),
    }


def _calibration_figures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, total: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the expected calibration error, over ten equal bins, and the Brier score.

    Naeini et al., AAAI 2015, https://doi.org/10.1609/aaai.v29i1.9602; Brier, 1950,
    https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.eye(CALIBRATION_BINS)[bins] * (probabilities - labels)[:, None]
    return {
        "ece": np.abs(weights @ gaps).sum(axis=1) / total,
        "brier": weights @ (probabilities - labels) ** 2 / total,
    }


def bootstrap_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    groups: Sequence[str],
    seed: int,
) -> dict[str, Interval]:
    """Return each figure's 95 % interval, from resamples of whole groups; of one group, none.

    Clips of one source resemble each other, so that a test of 40 clips from 7 sources says less
    than one of 40 sources. Percentiles (Efron and Tibshirani, An Introduction to the Bootstrap,
    chapter 13); of the calibration error, which resampling makes larger, they are mirrored at the
    figure itself.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(seed)
    at_once = max(1, NUMBERS_AT_ONCE // len(labels))
    parts = []
    for first in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - first)
        drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
        weights = drawn[:, group_of].astype(float)
        parts.append(classification_figures(labels, probabilities, threshold, weights))
    once = classification_figures(labels, probabilities, threshold, np.ones((1, len(labels))))
    intervals: dict[str, Interval] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        if name == "ece":
            values = np.maximum(0, 2 * once[name][0] - values)
        intervals[name] = _interval(values[~np.isnan(values)]) if len(names) > 1 else None
    return intervals


def _interval(values: np.ndarray) -> Interval:
    if not len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Return the figures of a split at a threshold, with intervals and confusion matrix.

    A figure that is not defined is None. The rows of the confusion matrix are the true classes,
    its columns the verdicts, nonviolent first.
    """
    probabilities = probabilities.astype(np.float64)
    once = np.ones((1, len(labels)))
    figures = classification_figures(labels, probabilities, threshold, once)
    confusion = metrics.confusion_matrix(labels, probabilities >= threshold, labels=(0, 1))
    return {
        "clips": len(labels),
        "groups": len(set(groups)),
        "threshold": threshold,
        **{
            name: None if np.isnan(value[0]) else float(value[0]) for name, value in figures.items()
        },
        "intervals": bootstrap_intervals(labels, probabilities, threshold, groups, seed),
        "confusion_matrix": confusion.tolist(),
    }


def groups_of(clips: Sequence[Clip]) -> list[str]:
    """Return what is resampled together: a clip's group, or the clip where it has none."""
    return [f"group {clip.group}" if clip.group else f"clip {clip.name}" for clip in clips]


def figures_table(
    chosen: dict[str, Any], at_half: dict[str, Any], uncalibrated: dict[str, Any]
) -> str:
    """Return the figures at the chosen threshold and at 0.5, and the calibration, as lines."""
    names = (*FIGURES, *(f"{name}_accuracy" for name in CLASS_NAMES))
    blocks = [
        (f"threshold {chosen['threshold']:.3f}", "threshold 0.5", names, chosen, at_half),
        ("calibrated", "uncalibrated", ("ece", "brier"), chosen, uncalibrated),
    ]
    lines = []
    for left, right, listed, first, second in blocks:
        lines.append(f"  {'':<20}{left:<26}{right}")
        lines += [
            f"  {name.replace('_', ' '):<20}{shown(first, name):<26}{shown(second, name)}"
            for name in listed
        ]
    lines.append(f"  {'':<20}{'called ' + CLASS_NAMES[0]:>18}{'called ' + CLASS_NAMES[1]:>18}")
    lines += [
        f"  {'really ' + name:<20}{row[0]:>18}{row[1]:>18}"
        for name, row in zip(CLASS_NAMES, chosen["confusion_matrix"], strict=True)
    ]
    return "\n".join(lines)


def shown(figures: dict[str, Any], name: str) -> str:
    """Return a figure with its interval in words; "n/a" if it is not defined."""
    value, interval = figures[name], figures["intervals"][name]
    if value is None:
        return "n/a"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def write_predictions(
    clips: Sequence[Clip],
    probabilities: np.ndarray,
    threshold: float,
    attention: np.ndarray,
    path: Path,
) -> None:
    """Write `clip,group,label,probability,verdict,attention_1,…`, a row per clip.

    Args:
        attention: `(clips, frames)`: the weight of each frame.
    """
    frames = [f"attention_{number}" for number in range(1, attention.shape[1] + 1)]
    rows = [
        (
            *(clip.name, clip.group or "", CLASS_NAMES[clip.label]),
            *(f"{p:.6f}", CLASS_NAMES[int(p >= threshold)]),
            *(f"{weight:.4f}" for weight in weights),
        )
        for clip, p, weights in zip(clips, probabilities, attention, strict=True)
    ]
    header = ("clip", "group", "label", "probability", "verdict", *frames)
    write_csv(path, header, rows)
