"""How good a recipe is by every clip: trained on all parts of the clips but one, tested on it.

Nothing is chosen on the part that is held out: the model is that of the last epoch, the threshold
is 0.5. Clips of one group are in one part.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedGroupKFold

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.evaluation.metrics import FIGURES, evaluate, format_figure
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import replace_file, write_csv, write_json
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.loop import ensemble_members, fit
from violence_detection.training.predictions import violence_probabilities

JSON, CSV, PLOT = "cross_validation.json", "cross_validation.csv", "cross_validation.png"
SHOWN = (*FIGURES, *(f"{name}_accuracy" for name in CLASS_NAMES))
THRESHOLD = 0.5


def folds(
    clips: Sequence[Clip], count: int, seed: int, rows: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the places of the clips to train on and of those held out, for each fold.

    Args:
        rows: `(clips,)`: where each clip's features are: copies of one file stay together, too.

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
                f"--cross-validate {count}: there are only {found} groups with {name} clips: ask "
                f"for at most {found}"
            )
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    parts = list(splitter.split(labels, labels, groups))
    for train, held_out in parts:
        if len(set(labels[train])) < 2 or len(set(labels[held_out])) < 2:
            raise UserError(
                f"--cross-validate {count}: the groups cannot be shared out so that each part has "
                "both classes: ask for fewer parts, or try another --seed"
            )
    return parts


def _joined(groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return groups in which clips are together that share a group or a row, also by others."""
    rows = np.where(rows < 0, rows.max() + 1 + np.arange(len(rows)), rows)  # of zeros: each its own
    places = np.unique(rows, return_inverse=True)[1] + groups.max() + 1
    links = coo_array((np.ones(len(groups)), (groups, places)), shape=(places.max() + 1,) * 2)
    return connected_components(links, directed=False)[1][groups]


def cross_validate(
    settings: Settings,
    features: ClipFeatures,
    clips: Sequence[Clip],
    count: int,
    policy: str,
    after_fold: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each clip's probability by the model that has not seen it, and its fold.

    Args:
        features: of `clips`, in their order.
        count: how many folds.
        policy: Keras dtype policy.
        after_fold: called with the fold's number, the places held out and their probabilities;
            it may raise to stop.

    Returns:
        `(clips,)` float32 and `(clips,)` int64.
    """
    probabilities = np.zeros(len(clips), np.float32)
    fold_of = np.zeros(len(clips), np.int64)
    for fold, (train, held_out) in enumerate(
        folds(clips, count, settings.devices.seed, features.rows[:, 0])
    ):
        for member in ensemble_members(settings):
            trainer = fit(member, features.of(train), policy)
            probabilities[held_out] += violence_probabilities(
                trainer.classifier, features.of(held_out), settings.training.batch_size
            )
        probabilities[held_out] /= settings.training.ensemble
        fold_of[held_out] = fold
        if after_fold:
            after_fold(fold, held_out, probabilities[held_out])
    return probabilities, fold_of


def summarize(
    clips: Sequence[Clip], probabilities: np.ndarray, fold_of: np.ndarray, seed: int
) -> dict[str, Any]:
    """Return the figures of each fold, their mean and deviation, and those of all clips together.

    The pooled figures are with 95 % intervals over groups; the deviation is from fold to fold.
    """
    labels = np.array([clip.label for clip in clips])
    groups = np.array([clip.group_key for clip in clips])

    def figures(chosen: np.ndarray) -> dict[str, Any]:
        return evaluate(
            labels[chosen], probabilities[chosen], THRESHOLD, groups[chosen].tolist(), seed
        )

    by_fold = [figures(fold_of == fold) for fold in range(fold_of.max() + 1)]
    values = {
        name: [fold[name] for fold in by_fold if fold[name] is not None]  # no verdict: no precision
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
    """Return a summary's figures as lines: each fold, mean and deviation, pooled with interval."""
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


def write_summary(
    settings: dict[str, Any],
    clips: Sequence[Clip],
    probabilities: np.ndarray,
    fold_of: np.ndarray,
    summary: dict[str, Any],
    folder: Path,
) -> None:
    """Write the figures as JSON, every clip's probability as CSV, and the plot.

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
    for fold, of_fold in enumerate(summary["folds"]):
        chosen = fold_of == fold
        alarms, found, _ = roc_curve(labels[chosen], probabilities[chosen])
        name = f"fold {fold + 1}, {of_fold['clips']} clips: {of_fold['roc_auc']:.2f}"
        curves.plot(alarms, found, linewidth=1, alpha=0.6, label=name)
    alarms, found, _ = roc_curve(labels, probabilities)
    pooled = summary["pooled"]["roc_auc"]
    curves.plot(alarms, found, color="black", linewidth=2.5, label=f"all clips: {pooled:.2f}")
    curves.plot([0, 1], [0, 1], color="grey", linestyle=":")
    curves.set(
        title="ROC curve and its area, held-out clips",
        xlabel="nonviolent clips called violent",
        ylabel="violent clips found",
        aspect="equal",
    )
    curves.legend(loc="lower right", fontsize="small")
    for place, name in enumerate(SHOWN):
        values = [fold[name] for fold in summary["folds"] if fold[name] is not None]
        figures.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4)
        interval = summary["pooled"]["intervals"][name]
        if interval:
            figures.plot(interval, [place, place], color="black", linewidth=2)
        if summary["pooled"][name] is not None:
            figures.plot(summary["pooled"][name], place, "D", color="black")
    figures.set_yticks(range(len(SHOWN)), [name.replace("_", " ") for name in SHOWN])
    figures.invert_yaxis()
    figures.set(title="folds (dots); all clips, 95 % interval (line)", xlim=(0, 1))
    figures.grid(alpha=0.3)
    return figure
