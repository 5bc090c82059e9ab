"""How good a trained classifier is on a split: its figures, with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from violence_detection.evaluation.intervals import bootstrap_intervals
from violence_detection.settings.constants import CLASS_NAMES

CALIBRATION_BINS = 10
FEWEST_FOR_SHARES = 30  # clips; a share of fewer is shown as a count
FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc")
CLASS_ACCURACIES = tuple(f"{name}_accuracy" for name in CLASS_NAMES)


def classification_figures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | np.ndarray,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return accuracy, precision, recall, F1, ROC-AUC, PR-AUC, each class's accuracy, ECE, Brier.

    The figures of scikit-learn with its `sample_weight`, but for many resamples at once: one by
    one, its checks of arguments would take a minute.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)` float64, of violence.
        threshold: a clip of at least this probability is predicted violent; one, or `(clips,)`.
        weights: `(resamples, clips)` float64: how often each clip counts.

    Returns:
        `(resamples,)` float64 for each figure. Precision, recall and F1 are of the violent class.
        nan where a figure is undefined: the AUCs and a class's accuracy without clips of a class,
        the precision where no clip is predicted violent.
    """
    predicted = probabilities >= threshold
    true_negatives, false_positives, false_negatives, true_positives = (
        weights @ ((labels == label) & (predicted == prediction)).astype(float)
        for label in (0, 1)
        for prediction in (False, True)
    )
    total = weights.sum(axis=1)
    class_accuracies = (
        _share(true_negatives, true_negatives + false_positives),
        _share(true_positives, true_positives + false_negatives),
    )
    return {
        "accuracy": (true_negatives + true_positives) / total,
        "precision": _share(true_positives, true_positives + false_positives),
        "recall": class_accuracies[1],
        "f1": _share(2 * true_positives, 2 * true_positives + false_positives + false_negatives),
        **_ranking_figures(labels, probabilities, weights),
        **dict(zip(CLASS_ACCURACIES, class_accuracies, strict=True)),
        **_calibration_figures(labels, probabilities, weights, total),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part / whole`, nan where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _ranking_figures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the areas under the ROC curve and, as average precision, under the PR curve."""
    order = np.argsort(-probabilities, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(probabilities[order]) != 0, True))
    ranked, violent = weights[:, order], labels[order]
    true_positives = np.cumsum(ranked * violent, axis=1)[:, last_of_ties]
    false_positives = np.cumsum(ranked * (1 - violent), axis=1)[:, last_of_ties]
    more_true = np.diff(true_positives, axis=1, prepend=0)
    more_false = np.diff(false_positives, axis=1, prepend=0)
    area = (more_false * (true_positives - more_true / 2)).sum(axis=1)
    precision = np.nan_to_num(_share(true_positives, true_positives + false_positives))
    positives, negatives = true_positives[:, -1], false_positives[:, -1]
    average_precision = _share((more_true * precision).sum(axis=1), positives)
    return {
        "roc_auc": _share(area, positives * negatives),
        "pr_auc": np.where((positives > 0) & (negatives > 0), average_precision, np.nan),
    }


def _calibration_figures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, total: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the expected calibration error, over ten equal bins, and the Brier score.

    Naeini et al., AAAI 2015, https://doi.org/10.1609/aaai.v29i1.9602; Brier, 1950,
    https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    gaps = np.eye(CALIBRATION_BINS)[calibration_bins(probabilities)]
    gaps = gaps * (probabilities - labels)[:, None]
    return {
        "ece": np.abs(weights @ gaps).sum(axis=1) / total,
        "brier": weights @ (probabilities - labels) ** 2 / total,
    }


def calibration_bins(probabilities: np.ndarray) -> np.ndarray:
    """Return `(clips,)` int64: in which of `CALIBRATION_BINS` equal bins each probability is."""
    return np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | np.ndarray,
    groups: Sequence[str] | Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Return the figures of a split at a threshold, with intervals and confusion matrix.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence.
        threshold: a clip of at least this probability is predicted violent; one, or `(clips,)`.
        groups: `(clips,)`: clips of one group are resampled together for the intervals.
        seed: of the resampling.

    Returns:
        The figures of `classification_figures`, None where undefined; `clips`, `groups`,
        `threshold`, None if there are several; `intervals` by figure; `confusion_matrix`, whose
        rows are the true classes and columns the predicted ones, nonviolent first.
    """
    probabilities = probabilities.astype(np.float64)

    def figures_of(weights: np.ndarray) -> dict[str, np.ndarray]:
        return classification_figures(labels, probabilities, threshold, weights)

    figures = figures_of(np.ones((1, len(labels))))
    cells = 2 * np.asarray(labels, int) + (probabilities >= threshold)
    return {
        "clips": len(labels),
        "groups": len(set(groups)),
        "threshold": None if isinstance(threshold, np.ndarray) else threshold,
        **{
            name: None if np.isnan(value[0]) else float(value[0]) for name, value in figures.items()
        },
        "intervals": bootstrap_intervals(figures_of, groups, seed, mirrored=("ece",)),
        "confusion_matrix": np.bincount(cells, minlength=4).reshape(2, 2).tolist(),
    }


def figures_table(
    chosen: Mapping[str, Any], at_half: Mapping[str, Any], uncalibrated: Mapping[str, Any]
) -> str:
    """Return the figures at the chosen threshold and at 0.5, and the calibration, as lines.

    Args:
        chosen, at_half, uncalibrated: as `evaluate` returns them.
    """
    names = (*FIGURES, *CLASS_ACCURACIES)
    blocks = [
        (f"threshold {chosen['threshold']:.3f}", "threshold 0.5", names, chosen, at_half),
        ("calibrated", "uncalibrated", ("ece", "brier"), chosen, uncalibrated),
    ]
    lines = []
    for left, right, listed, first, second in blocks:
        lines.append(f"  {'':<20}{left:<26}{right}")
        lines += [
            f"  {name.replace('_', ' '):<20}"
            f"{format_figure(first, name):<26}{format_figure(second, name)}"
            for name in listed
        ]
    predicted = "".join(f"{'predicted ' + name:>22}" for name in CLASS_NAMES)
    lines.append(f"  {'':<20}{predicted}")
    lines += [
        f"  {name:<20}{row[0]:>22}{row[1]:>22}"
        for name, row in zip(CLASS_NAMES, chosen["confusion_matrix"], strict=True)
    ]
    return "\n".join(lines)


def figure_words(
    figures: Mapping[str, Any], name: str, between: str = " to "
) -> tuple[str | None, str | None]:
    """Return a figure and its 95 % interval as text; None for what is undefined.

    A share of few clips is a count, and so are the ends of its interval: "12 of 21", "5 to 18".

    Args:
        figures: as `evaluate` returns them.
        name: of the figure.
        between: stands between the ends of the interval.
    """
    value, interval = figures[name], figures["intervals"][name]
    if value is None:
        return None, None
    clips = _clips_shared(figures, name)
    if clips is not None and clips < FEWEST_FOR_SHARES:
        ends = [f"{end * clips:.0f}" for end in interval or ()]
    else:
        ends = [f"{end:.3f}" for end in interval or ()]
    return share_words(value, clips), between.join(ends) or None


def share_words(share: float, clips: int | None, form: str = ".3f") -> str:
    """Return a share of clips as text: "0.714" or, if there are few, "10 of 14".

    Args:
        share: 0 to 1.
        clips: of how many; None: it is no share of clips.
        form: of a share of many clips, as `format` takes it.
    """
    if clips is not None and clips < FEWEST_FOR_SHARES:
        return f"{share * clips:.0f} of {clips}"
    return format(share, form)


def _clips_shared(figures: Mapping[str, Any], name: str) -> int | None:
    """Return of how many clips a figure is a share; None: it is none."""
    (correct, alarms), (missed, found) = figures["confusion_matrix"]
    return {
        "accuracy": correct + alarms + missed + found,
        "precision": alarms + found,
        "recall": missed + found,
        **dict(zip(CLASS_ACCURACIES, (correct + alarms, missed + found), strict=True)),
    }.get(name)


def format_figure(figures: Mapping[str, Any], name: str) -> str:
    """Return a figure and its 95 % interval as one text: "0.875 (0.750 to 1.000)", or "n/a"."""
    value, interval = figure_words(figures, name)
    if value is None:
        return "n/a"
    return f"{value} ({interval})" if interval else value
