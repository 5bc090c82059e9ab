"""The figures of a test by what else is known of its clips: the camera, the light, the place."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from violence_detection.evaluation.metrics import evaluate, format_figure
from violence_detection.runtime.wording import count_of

UNKNOWN = "unknown"  # stands for the value of clips without one
SHOWN = {  # figures in tables, with their titles
    "accuracy": "accuracy",
    "violent_accuracy": "violent clips correct",
    "nonviolent_accuracy": "nonviolent clips correct",
    "roc_auc": "ROC-AUC",
}
SUBGROUP_TITLES = ("clips", "groups", *SHOWN.values())  # of the cells of `subgroup_row`


def subgroup_figures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    groups: Sequence[str],
    values: Mapping[str, Sequence[str]],
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the figures of each value's clips, by column and value.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence.
        threshold: a clip of at least this probability is predicted violent.
        groups: `(clips,)`: clips of one group are resampled together for the intervals.
        values: of each column, `(clips,)`; "" where a clip has none.
        seed: of the resampling.

    Returns:
        For each column, in the order of its values, what `evaluate` returns of the clips with that
        value; of clips without one, under `UNKNOWN`, the last.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    names = np.asarray(groups)
    for column, of_clips in values.items():
        array = np.array(of_clips)
        # A clip without a value sorts last.
        ordered = sorted({*of_clips}, key=lambda value: (value == "", value))
        found[column] = {}
        for value in ordered:
            chosen = array == value
            found[column][value or UNKNOWN] = evaluate(
                *(labels[chosen], probabilities[chosen], threshold, names[chosen].tolist(), seed)
            )
    return found


def subgroup_row(value: str, figures: Mapping[str, Any]) -> list[str]:
    """Return a value of a column, how many clips and groups it has, and their figures, as texts."""
    return [
        *(value, f"{figures['clips']:,}", f"{figures['groups']:,}"),
        *(format_figure(figures, name) for name in SHOWN),
    ]


def subgroup_lines(by_column: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return the figures of `subgroup_figures` as lines for the console."""
    lines = []
    for column, by_value in by_column.items():
        lines.append(f"by {column}")
        for value, figures in by_value.items():
            sizes = f"{count_of(figures['clips'], 'clip')}, {count_of(figures['groups'], 'group')}"
            lines.append(f"  {value}: {sizes}, accuracy {format_figure(figures, 'accuracy')}")
    return lines
