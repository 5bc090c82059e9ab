"""How good a trained classifier is on a split: figures, and how far they can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn import metrics

from clips import Clip
from config import CLASS_NAMES
from durable_files import write_csv
from input_pipeline import ClipFeatures, evaluation_batches, read_errors, steps_per_epoch

RESAMPLES = 1000  # of the bootstrap
CONFIDENCE = 0.95
CALIBRATION_BINS = 10

FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc")
Interval = tuple[float, float] | None  # None: no resample has the figure


def violence_probabilities(model: keras.Model, clips: ClipFeatures, batch_size: int) -> np.ndarray:
    """Return `(clips,)` float32 probabilities of violence, in the clips' order."""
    batches = evaluation_batches(clips, batch_size).map(lambda features, *_: features)
    steps = steps_per_epoch(len(clips), batch_size)
    with read_errors([clips]):
        probabilities = model.predict(batches, steps=steps, verbose=0)
    return probabilities[: len(clips), 0].astype(np.float32)


def classification_figures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    weights: np.ndarray | None = None,
) -> dict[str, float | None]:
    """Return accuracy, precision, recall, F1, ROC-AUC, PR-AUC, each class's accuracy, ECE, Brier.

    Precision, recall and F1 are those of the violent class. A figure is None where it is not
    defined: the AUCs and a class's accuracy on clips that lack a class.

    Args:
        labels, probabilities: `(clips,)`.
        threshold: a clip of at least this probability is called violent.
        weights: `(clips,)`: how often each clip counts; None: once.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    confusion = confusion_matrix(labels, probabilities, threshold, weights)
    (kept, alarms), (missed, found) = confusion
    both = confusion.sum(axis=1).min() > 0
    ranked = {"roc_auc": metrics.roc_auc_score, "pr_auc": metrics.average_precision_score}
    return {
        "accuracy": (kept + found) / confusion.sum(),
        "precision": found / (found + alarms) if found else 0.0,
        "recall": found / (found + missed) if found else 0.0,
        "f1": 2 * found / (2 * found + alarms + missed) if found else 0.0,
        **{
            name: float(score(labels, probabilities, sample_weight=weights)) if both else None
            for name, score in ranked.items()
        },
        **{
            f"{name}_accuracy": row[label] / row.sum() if row.sum() else None
            for label, (name, row) in enumerate(zip(CLASS_NAMES, confusion, strict=True))
        },
        **calibration_figures(labels, probabilities, weights),
    }


def confusion_matrix(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, weights: np.ndarray
) -> np.ndarray:
    """Return `(2, 2)`: rows are the true classes, columns the verdicts, nonviolent first."""
    places = 2 * labels + (probabilities >= threshold)
    return np.bincount(places, weights, minlength=4).reshape(2, 2)


def calibration_figures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """Return the expected calibration error, over ten equal bins, and the Brier score.

    Naeini et al., AAAI 2015, https://doi.org/10.1609/aaai.v29i1.9602; Brier, 1950,
    https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights * (probabilities - labels), minlength=CALIBRATION_BINS)
    return {
        "ece": float(np.abs(gaps).sum() / weights.sum()),
        "brier": float(np.average((probabilities - labels) ** 2, weights=weights)),
    }


def bootstrap_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    groups: Sequence[str],
    seed: int,
) -> dict[str, Interval]:
    """Return each figure's 95 % interval: percentiles over resamples of whole groups.

    Clips of one source resemble each other, so that a test of 40 clips from 7 sources says less
    than one of 40 sources. Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(seed)
    resamples: list[dict[str, float | None]] = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))
        weights = drawn[group_of].astype(float)
        resamples.append(classification_figures(labels, probabilities, threshold, weights))
    tail = (1 - CONFIDENCE) / 2
    intervals: dict[str, Interval] = {}
    for name in resamples[0]:
        values = [value for figures in resamples if (value := figures[name]) is not None]
        low, high = np.quantile(values, [tail, 1 - tail]) if values else (0.0, 0.0)
        intervals[name] = (float(low), float(high)) if values else None
    return intervals


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Return the figures of a split at a threshold, with intervals and confusion matrix."""
    confusion = confusion_matrix(labels, probabilities, threshold, np.ones(len(labels)))
    return {
        "clips": len(labels),
        "groups": len(set(groups)),
        "threshold": threshold,
        **classification_figures(labels, probabilities, threshold),
        "intervals": bootstrap_intervals(labels, probabilities, threshold, groups, seed),
        "confusion_matrix": confusion.astype(int).tolist(),
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
    for left, right, shown, first, second in blocks:
        lines.append(f"  {'':<20}{left:<26}{right}")
        lines += [
            f"  {name.replace('_', ' '):<20}{_shown(first, name):<26}{_shown(second, name)}"
            for name in shown
        ]
    lines.append(f"  {'':<20}{'called ' + CLASS_NAMES[0]:>18}{'called ' + CLASS_NAMES[1]:>18}")
    lines += [
        f"  {'really ' + name:<20}{row[0]:>18}{row[1]:>18}"
        for name, row in zip(CLASS_NAMES, chosen["confusion_matrix"], strict=True)
    ]
    return "\n".join(lines)


def _shown(figures: dict[str, Any], name: str) -> str:
    value, interval = figures[name], figures["intervals"][name]
    if value is None:
        return "n/a"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def write_predictions(
    clips: Sequence[Clip], probabilities: np.ndarray, threshold: float, path: Path
) -> None:
    """Write `clip,label,probability,verdict`, a row per clip."""
    rows = [
        (clip.name, CLASS_NAMES[clip.label], f"{p:.6f}", CLASS_NAMES[int(p >= threshold)])
        for clip, p in zip(clips, probabilities, strict=True)
    ]
    write_csv(path, ("clip", "label", "probability", "verdict"), rows)
