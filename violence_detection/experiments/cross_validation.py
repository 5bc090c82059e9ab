"""Cross-validation: what the training command gives on clips of sources that it has not seen.

In every fold the whole procedure is repeated on the other folds: training, choice of epoch,
temperature and threshold. The held-out fold is only predicted. Finished folds are kept, and an
interrupted fold resumes after its last finished epoch.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from violence_detection.clips.clip import Clip
from violence_detection.evaluation.calibration import HALF, calibrate
from violence_detection.evaluation.metrics import FIGURES, evaluate, format_figure
from violence_detection.reporting.cross_validation_page import write_cross_validation_page
from violence_detection.reporting.finished_run import read_suspects
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import LABEL_ISSUES
from violence_detection.runs.label_issues import write_label_issues
from violence_detection.runtime.logs import only_warnings_and_progress_on_screen
from violence_detection.runtime.machine import Machine
from violence_detection.runtime.progress import running_clock
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import CHANGES_ON_RESUME, Settings
from violence_detection.storage.files import read_json, replace_file, write_csv, write_json
from violence_detection.training.folds import folds, possible_folds, sources_of
from violence_detection.training.member import (
    Training,
    Unwatched,
    members_of,
    new_trainer,
    train_members,
)
from violence_detection.training.predictions import predict_with_attention
from violence_detection.training.pretraining import pretrain
from violence_detection.training.splits import Splits
from violence_detection.training.testing import calibrate_detector

log = logging.getLogger(__name__)

JSON, CSV, PLOT = "cross_validation.json", "cross_validation.csv", "cross_validation.png"
PAGE = "cross_validation.html"
FOLDER = "cross_validation"  # of the folds, until all are finished
SHOWN = (*FIGURES, *(f"{name}_accuracy" for name in CLASS_NAMES))
DECIDED_BY = "inputs.json"  # in FOLDER: what the finished folds were computed from
PROMISED = ("promised_accuracy", "promised_roc_auc")  # of the clips that choices were made on
INNER_FOLDS = 7  # of the clips that are not held out, one validates if --folds is 1


@dataclass(frozen=True)
class HeldOut:
    """A fold's detector on the clips that it has not seen, and what validation promised."""

    probabilities: list[float]  # of violence, calibrated, in the order of the held-out clips
    uncalibrated: list[float]
    threshold: float
    temperature: float
    validation_clips: int  # that the choices were made on
    promised_accuracy: float  # of these
    promised_roc_auc: float | None


def cross_validate(
    settings: Settings,
    splits: Splits,
    count: int,
    machine: Machine,
    folder: Path,
) -> list[tuple[np.ndarray, HeldOut]]:
    """Return each fold's held-out clips, and what a detector says of them that never saw them.

    Args:
        settings: of the training.
        splits: of all clips; which split a clip is in does not matter.
        count: number of folds.
        machine: what is computed on.
        folder: where finished folds are kept until all are.

    Returns:
        For each fold, `(clips,)` int64 indices into `splits.all_clips`, and the predictions.

    Raises:
        UserError: there are too few groups of a class for that many folds.
        RunError: a file cannot be read or written.
    """
    clips, seed = splits.all_clips, settings.devices.seed
    asked_by = f"--cross-validate {count}"
    divided = folds(clips.labels, sources_of(clips), count, seed, asked_by)
    inputs = splits.fingerprints | {
        "precision": machine.precision.policy,
        "settings": _hash_of(settings),
        "folds": [held_out.tolist() for _, held_out in divided],
    }
    _keep_only_if_same(folder, inputs)
    pretrained = None
    if settings.training.pretrain_folder:
        whole = RunDirectory(folder, keeps_checkpoints=False)
        pretrained = pretrain(Training(settings, splits, machine, whole, Unwatched, {}), folder)
    found = []
    for number, (known, held_out) in enumerate(divided, start=1):
        path = folder / f"fold_{number}.json"
        if not path.exists():
            own = _splits_of_fold(splits, known, held_out, settings)
            with running_clock(f"fold {number} of {count}", settings.monitoring.quiet):
                result = _run_fold(settings, own, machine, folder / f"fold_{number}", pretrained)
            write_json(path, asdict(result))
            shutil.rmtree(folder / f"fold_{number}")
        stored = read_json(path)
        fold = HeldOut(**{name: stored[name] for name in HeldOut.__dataclass_fields__})
        found.append((held_out, fold))
        _log_fold(number, count, clips.labels[held_out], fold)
    return found


def _keep_only_if_same(folder: Path, inputs: dict[str, Any]) -> None:
    """Remove the folds of an earlier cross-validation, unless it is this one."""
    path = folder / DECIDED_BY
    if path.exists() and read_json(path) == inputs:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(path, inputs)


def _hash_of(settings: Settings) -> str:
    values = settings.as_json().items()
    fixed = {name: value for name, value in values if name not in CHANGES_ON_RESUME}
    fixed["threshold_for"] = settings.test.threshold_for
    return hashlib.blake2b(json.dumps(fixed).encode(), digest_size=16).hexdigest()


def _splits_of_fold(
    splits: Splits, known: np.ndarray, held_out: np.ndarray, settings: Settings
) -> Splits:
    """Return splits of which the test clips are held out, and the others are divided anew."""
    clips = splits.all_clips.select(known)
    # A seventh validates, about as much as where the program splits by itself.
    divided = possible_folds(
        clips.labels, sources_of(clips), INNER_FOLDS, settings.devices.seed
    ) or folds(clips.labels, sources_of(clips), 2, settings.devices.seed, "--cross-validate")
    train, val = divided[0]
    own = replace(splits, val=clips.select(val), test=splits.all_clips.select(held_out))
    return own.trained_on(clips.select(train), settings)


def _run_fold(
    settings: Settings,
    splits: Splits,
    machine: Machine,
    folder: Path,
    pretrained: Path | None = None,
) -> HeldOut:
    """Do what the training command does, and predict the clips that are held out."""
    assert splits.test is not None
    with ExitStack() as stack:
        directory = stack.enter_context(RunDirectory(folder, keeps_checkpoints=False))
        stack.enter_context(only_warnings_and_progress_on_screen())
        inputs = {"the fold": "the same"}  # the folder is of this cross-validation alone
        training = Training(
            *(settings, splits, machine, directory, Unwatched, inputs), pretrained=pretrained
        )
        members = members_of(training)
        train_members(members, new_trainer(members[0]), stack)
        detector = calibrate_detector(members, settings)
        batch_size = settings.training.batch_size
        raw = predict_with_attention(detector.model, splits.test, batch_size).probabilities
    point, promised = detector.point, detector.promised
    return HeldOut(
        *(calibrate(raw, point.temperature).tolist(), raw.tolist()),
        *(point.threshold, point.temperature),
        *(promised["clips"], promised["accuracy"], promised["roc_auc"]),
    )


def _log_fold(number: int, count: int, labels: np.ndarray, fold: HeldOut) -> None:
    probabilities = np.array(fold.probabilities)
    log.info(
        "fold %d of %d: accuracy %.3f, AUC %.3f on %s; validation %.3f, %.3f",
        *(number, count, ((probabilities >= fold.threshold) == labels).mean()),
        *(roc_auc(labels, probabilities), count_of(len(labels), "clip")),
        *(fold.promised_accuracy, fold.promised_roc_auc or math.nan),
    )


def summarize(
    clips: Sequence[Clip], found: Sequence[tuple[np.ndarray, HeldOut]], seed: int
) -> dict[str, Any]:
    """Return the metrics of each fold, their mean and deviation, and those of all clips pooled.

    The pooled metrics have 95 % intervals, resampled by group; the deviation is between folds.

    Args:
        clips: all clips.
        found: of each fold, what `cross_validate` returns.
        seed: of the intervals.
    """
    labels = np.array([clip.label for clip in clips])
    groups = np.array([clip.group_key for clip in clips])
    probabilities, raw, thresholds = (np.zeros(len(clips)) for _ in range(3))
    by_fold = []
    for held_out, fold in found:
        own = np.array(fold.probabilities)
        probabilities[held_out], raw[held_out] = own, fold.uncalibrated
        thresholds[held_out] = fold.threshold
        figures = evaluate(labels[held_out], own, fold.threshold, groups[held_out].tolist(), seed)
        promised = {name: getattr(fold, name) for name in PROMISED}
        by_fold.append(figures | promised | {"temperature": fold.temperature})
    values = {
        name: [fold[name] for fold in by_fold if fold[name] is not None]  # None: undefined
        for name in (*SHOWN, *PROMISED)
    }
    return {
        "folds": by_fold,
        "mean": {name: float(np.mean(found)) if found else None for name, found in values.items()},
        "deviation": {
            name: float(np.std(found, ddof=1)) if len(found) > 1 else None
            for name, found in values.items()
        },
        "pooled": evaluate(labels, probabilities, thresholds, groups.tolist(), seed),
        "uncalibrated": evaluate(labels, raw, HALF, groups.tolist(), seed),
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
    found: Sequence[tuple[np.ndarray, HeldOut]],
    summary: dict[str, Any],
    folder: Path,
) -> None:
    """Write the metrics as JSON, every clip's probability and ranked label as CSV, and the plot.

    Args:
        settings: by name, as JSON has them.
        clips, found: as for `summarize`.
        summary: what `summarize` returned.
        folder: where the files are written.

    Raises:
        RunError: a file cannot be written.
    """
    write_json(folder / JSON, {"settings": settings, **summary})
    probabilities, thresholds = np.zeros(len(clips)), np.zeros(len(clips))
    numbers = np.zeros(len(clips), int)
    for number, (held_out, fold) in enumerate(found, start=1):
        probabilities[held_out], thresholds[held_out] = fold.probabilities, fold.threshold
        numbers[held_out] = number
    predicted = (probabilities >= thresholds).astype(int)
    write_csv(
        folder / CSV,
        ("clip", "label", "group", "fold", "probability", "predicted"),
        [
            (
                *(clip.name, CLASS_NAMES[clip.label], clip.group or "", numbers[index]),
                *(f"{probabilities[index]:.6f}", CLASS_NAMES[predicted[index]]),
            )
            for index, clip in enumerate(clips)
        ],
    )
    labels = np.array([clip.label for clip in clips])
    figure = _draw(labels, found, summary)
    replace_file(folder / PLOT, lambda partial: figure.savefig(partial, format="png", dpi=120))
    write_label_issues(clips, probabilities, thresholds, folder / LABEL_ISSUES)


def _draw(
    labels: np.ndarray, found: Sequence[tuple[np.ndarray, HeldOut]], summary: dict[str, Any]
) -> Figure:
    figure = Figure(figsize=(11, 5), layout="constrained")
    curves, figures = figure.subplots(1, 2)
    probabilities = np.zeros(len(labels))
    for number, (held_out, fold) in enumerate(found, start=1):
        probabilities[held_out] = fold.probabilities
        false_positives, true_positives, _ = roc_curve(labels[held_out], fold.probabilities)
        metrics = summary["folds"][number - 1]
        name = f"fold {number}, {count_of(metrics['clips'], 'clip')}: {metrics['roc_auc']:.2f}"
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
    splits: Splits,
    clips: Sequence[Clip],
    count: int,
    machine: Machine,
    folder: Path,
) -> None:
    """Cross-validate the training command; log the metrics, write them and the suspect labels.

    Args:
        settings: of the training.
        splits: of all clips; which split a clip is in does not matter.
        clips: all clips, in the order of their features.
        count: number of folds.
        machine: what is computed on.
        folder: where results are written.

    Raises:
        UserError: there are too few groups of a class for that many folds.
        RunError: a file cannot be read or written.
    """
    found = cross_validate(settings, splits, count, machine, folder / FOLDER)
    summary = summarize(clips, found, settings.devices.seed)
    write_summary(settings.as_json(), clips, found, summary, folder)
    log.info(
        "%d folds, %d clips, %d groups; every choice made without the held-out clips\n%s",
        count,
        len(clips),
        len({clip.group_key for clip in clips}),
        as_table(summary),
    )
    log.info(
        "validation promised accuracy %.3f; the held-out clips give %.3f",
        *(summary["mean"]["promised_accuracy"], summary["mean"]["accuracy"]),
    )
    suspects = read_suspects(folder)
    assert suspects is not None
    write_cross_validation_page(folder / PAGE, settings.as_json(), summary, suspects, folder / PLOT)
    shutil.rmtree(folder / FOLDER)
    log.info("results: %s and %s", folder / JSON, folder / PAGE)
