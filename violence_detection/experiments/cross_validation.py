"""Cross-validation of settings: train on all folds but one, test on the held-out fold.

Nothing is chosen on the held-out clips: the model is that of the last epoch, the threshold is 0.5.
Clips of one group are in the same fold.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedGroupKFold

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.evaluation.metrics import FIGURES, evaluate, format_figure
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import replace_file, write_csv, write_json
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.loop import ensemble_members, fit
from violence_detection.training.predictions import violence_probabilities

log = logging.getLogger(__name__)

JSON, CSV, PLOT = "cross_validation.json", "cross_validation.csv", "cross_validation.png"
SHOWN = (*FIGURES, *(f"{name}_accuracy" for name in CLASS_NAMES))
THRESHOLD = 0.5


def folds(
    clips: Sequence[Clip], count: int, seed: int, rows: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the indices of the training clips and of the held-out clips for each fold.

    Args:
        clips: all clips.
        count: number of folds.
        seed: of the shuffling.
        rows: `(clips,)` int64, each clip's row of features, -1 for zeros: copies of one file are
            kept in the same fold, too. None: only groups are kept together.

    Returns:
        A pair of int64 arrays per fold.

    Raises:
        UserError: there are too few groups of a class for that many folds.
    """
    labels = np.array([clip.label for clip in clips])
    groups = np.unique([clip.group_key for clip in clips], return_inverse=True)[1]
    if rows is not None:
        groups = _joined(groups, rows)
    for label, name in enumerate(CLASS_NAMES):
        found = len(set(groups[labels == label]))
        if found < count:
            raise UserError(
                f"--cross-validate {count}: only {count_of(found, 'group')} with {name} clips: "
                f"use at most {count_of(found, 'fold')}"
            )
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels, groups))
    for train, held_out in splits:
        if len(set(labels[train])) < 2 or len(set(labels[held_out])) < 2:
            raise UserError(
                f"--cross-validate {count}: the groups cannot be split so that every fold has both "
                "classes: use fewer folds or another --seed"
            )
    return splits


def _joined(groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return groups joined where clips share a group or a row, directly or through others."""
    rows = np.where(rows < 0, rows.max() + 1 + np.arange(len(rows)), rows)  # zeros: no copies
    nodes = np.unique(rows, return_inverse=True)[1] + groups.max() + 1
    links = coo_array((np.ones(len(groups)), (groups, nodes)), shape=(nodes.max() + 1,) * 2)
    return connected_components(links, directed=False)[1][groups]


def cross_validate(
    settings: Settings,
    features: ClipFeatures,
    clips: Sequence[Clip],
    count: int,
    policy: str,
    after_fold: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each clip's probability by the model that was not trained on it, and its fold.

    Args:
        settings: of the classifiers.
        features: of `clips`, in their order.
        clips: all clips.
        count: number of folds.
        policy: Keras dtype policy.
        after_fold: called with the fold's number, the indices of the held-out clips and their
            probabilities; it may raise to stop.

    Returns:
        `(clips,)` float32 and `(clips,)` int64.

    Raises:
        UserError: there are too few groups of a class for that many folds.
    """
    probabilities = np.zeros(len(clips), np.float32)
    fold_of = np.zeros(len(clips), np.int64)
    for fold, (train, held_out) in enumerate(
        folds(clips, count, settings.devices.seed, features.rows[:, 0])
    ):
        for member in ensemble_members(settings):
            trainer = fit(member, features.select(train), policy)
            probabilities[held_out] += violence_probabilities(
                trainer.classifier, features.select(held_out), settings.training.batch_size
            )
        probabilities[held_out] /= settings.training.ensemble
        fold_of[held_out] = fold
        if after_fold:
            after_fold(fold, held_out, probabilities[held_out])
    return probabilities, fold_of


def summarize(
    clips: Sequence[Clip], probabilities: np.ndarray, fold_of: np.ndarray, seed: int
) -> dict[str, Any]:
    """Return the metrics of each fold, their mean and deviation, and those of all clips pooled.

    The pooled metrics have 95 % intervals, resampled by group; the deviation is between folds.

    Args:
        clips: all clips.
        probabilities: `(clips,)` of violence, each by the model that was not trained on the clip.
        fold_of: `(clips,)` int64 numbers of the folds, from 0.
        seed: of the intervals.
    """
    labels = np.array([clip.label for clip in clips])
    groups = np.array([clip.group_key for clip in clips])

    def figures(chosen: np.ndarray) -> dict[str, Any]:
        return evaluate(
            labels[chosen], probabilities[chosen], THRESHOLD, groups[chosen].tolist(), seed
        )

    by_fold = [figures(fold_of == fold) for fold in range(fold_of.max() + 1)]
    values = {
        name: [fold[name] for fold in by_fold if fold[name] is not None]  # None: undefined
        for name in SHOWN
    }
    return {
        "folds": by_fold,
        "mean": {name: float(np.mean(found)) if found else None for name, found in values.items()},
        "deviation": {
            name: float(np.std(found, ddof=1)) if len(found) > 1 else None
            for name, found in values.items()
        },
        "pooled": figures(np.ones(len(clips), bool)),
    }


def as_table(summary: dict[str, Any]) -> str:
    """Return a summary as a table: a line per metric, mean ± deviation, pooled with interval."""
    pooled = summary["pooled"]
    width = max(len(name) for name in SHOWN) + 2
    lines = [f"  {'':<{width}}{'mean ± deviation':<20}pooled (95 % interval)"]
    for name in SHOWN:
        mean, deviation = summary["mean"][name], summary["deviation"][name]
        spread = "n/a" if mean is None else f"{mean:.3f}"
        spread += "" if deviation is None else f" ± {deviation:.3f}"
        lines.append(
            f"  {name.replace('_', ' '):<{width}}{spread:<20}{format_figure(pooled, name)}"
        )
    return "\n".join(lines)


def roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the area under the ROC curve; nan if training diverged.

    Args:
        labels: `(clips,)`, 0 or 1.
        probabilities: `(clips,)` of violence.
    """
    if not np.isfinite(probabilities).all():
        return math.nan
    return float(roc_auc_score(labels, probabilities))


def write_summary(
    settings: dict[str, Any],
    clips: Sequence[Clip],
    probabilities: np.ndarray,
    fold_of: np.ndarray,
    summary: dict[str, Any],
    folder: Path,
) -> None:
    """Write the metrics as JSON, every clip's probability as CSV, and the plot.

    Args:
        settings: by name, as JSON has them.
        clips, probabilities, fold_of: as for `summarize`.
        summary: what `summarize` returned.
        folder: where the files are written.

    Raises:
        RunError: a file cannot be written.
    """
    write_json(folder / JSON, {"settings": settings, **summary})
    rows = [
        (clip.name, CLASS_NAMES[clip.label], clip.group or "", fold + 1, f"{probability:.6f}")
        for clip, fold, probability in zip(clips, fold_of, probabilities, strict=True)
    ]
    write_csv(folder / CSV, ("clip", "label", "group", "fold", "probability"), rows)
    labels = np.array([clip.label for clip in clips])
    figure = _draw(labels, probabilities, fold_of, summary)
    replace_file(folder / PLOT, lambda partial: figure.savefig(partial, format="png", dpi=120))


def _draw(
    labels: np.ndarray, probabilities: np.ndarray, fold_of: np.ndarray, summary: dict[str, Any]
) -> Figure:
    figure = Figure(figsize=(11, 5), layout="constrained")
    curves, figures = figure.subplots(1, 2)
    for fold, metrics in enumerate(summary["folds"]):
        chosen = fold_of == fold
        false_positives, true_positives, _ = roc_curve(labels[chosen], probabilities[chosen])
        name = f"fold {fold + 1}, {count_of(metrics['clips'], 'clip')}: {metrics['roc_auc']:.2f}"
        curves.plot(false_positives, true_positives, linewidth=1, alpha=0.6, label=name)
    false_positives, true_positives, _ = roc_curve(labels, probabilities)
    label = f"all clips: {summary['pooled']['roc_auc']:.2f}"
    curves.plot(false_positives, true_positives, color="black", linewidth=2.5, label=label)
    curves.plot([0, 1], [0, 1], color="grey", linestyle=":")
    curves.set(
        title="ROC curves and AUC, held-out clips",
        xlabel="false positive rate",
        ylabel="true positive rate",
        aspect="equal",
    )
    curves.legend(loc="lower right", fontsize="small")
    for line, name in enumerate(SHOWN):
        values = [fold[name] for fold in summary["folds"] if fold[name] is not None]
        figures.plot(values, [line] * len(values), "o", color="tab:blue", alpha=0.4)
        interval = summary["pooled"]["intervals"][name]
        if interval:
            figures.plot(interval, [line, line], color="black", linewidth=2)
        if summary["pooled"][name] is not None:
            figures.plot(summary["pooled"][name], line, "D", color="black")
    figures.set_yticks(range(len(SHOWN)), [name.replace("_", " ") for name in SHOWN])
    figures.invert_yaxis()
    figures.set(title="folds (dots); all clips, 95 % interval (line)", xlim=(0, 1))
    figures.grid(alpha=0.3)
    return figure


def run_cross_validation(
    settings: Settings,
    features: ClipFeatures,
    clips: Sequence[Clip],
    count: int,
    policy: str,
    folder: Path,
) -> None:
    """Cross-validate the settings; log the metrics and write them with a plot.

    Args:
        settings: of the classifiers.
        features: of `clips`, in their order.
        clips: all clips.
        count: number of folds.
        policy: Keras dtype policy.
        folder: where results are written.

    Raises:
        UserError: there are too few groups of a class for that many folds.
        RunError: a file cannot be written.
    """
    labels = np.array([clip.label for clip in clips])

    def log_fold(fold: int, held_out: np.ndarray, probabilities: np.ndarray) -> None:
        right = (probabilities >= THRESHOLD) == labels[held_out]
        log.info(
            "fold %d of %d: %s held out, accuracy %.3f, ROC-AUC %.3f",
            fold + 1,
            count,
            count_of(len(held_out), "clip"),
            right.mean(),
            roc_auc(labels[held_out], probabilities),
        )

    probabilities, fold_of = cross_validate(settings, features, clips, count, policy, log_fold)
    summary = summarize(clips, probabilities, fold_of, settings.devices.seed)
    write_summary(settings.as_json(), clips, probabilities, fold_of, summary, folder)
    log.info(
        "%d folds, %d clips, %d groups; threshold %.1f, models of the last epoch\n%s",
        count,
        len(clips),
        len({clip.group_key for clip in clips}),
        THRESHOLD,
        as_table(summary),
    )
    log.info("results: %s and %s", folder / JSON, folder / PLOT)
