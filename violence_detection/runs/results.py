"""What a finished run writes: `predictions.csv`, `detector.json`, `training_results.json`."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.evaluation.calibration import OperatingPoint
from violence_detection.evaluation.metrics import format_figure
from violence_detection.evaluation.verdict import verdict_lines
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.checked_clips import CheckedClips
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import BEST_MODEL, DETECTOR, MODEL_CARDS, REPORT, RESULTS
from violence_detection.runs.usage import Usage
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import failing_as, file_checksum, write_csv, write_json

Figures = dict[str, Any]  # as `evaluation.metrics.evaluate` returns them


@dataclass(frozen=True)
class Tested:
    """How the detector did on the split that it was tested on."""

    split: str  # "test"; "val" if there is no test split
    figures: Figures  # calibrated, at the chosen threshold
    at_half: Figures  # calibrated, at threshold 0.5
    uncalibrated: Figures  # at threshold 0.5
    members: Sequence[Figures] = ()  # of an ensemble, each alone, uncalibrated, at threshold 0.5
    verdict: Sequence[str] = ()  # what the figures amount to, sentences
    by_subgroup: Mapping[str, Mapping[str, Figures]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingData:
    """How the training clips were drawn and weighted."""

    sampling: str  # in words
    augmentation: Sequence[str]  # the values of --augment
    class_factors: Sequence[float]  # the weight of a clip in the loss: nonviolent, violent
    pseudo_labels: Sequence[Mapping[str, Any]] = ()  # by round: {"unlabeled": N, "taken": {…}}
    folds: int = 1  # into which the clips were divided, a classifier for each
    fusion: Mapping[str, float] = field(default_factory=dict)  # weights of kinds


def describe_test(tested: Tested) -> list[str]:
    """Return the verdict and the two most telling figures as lines for the console."""
    figures = tested.figures
    return [
        *verdict_lines(tested.verdict),
        f"{tested.split} accuracy {format_figure(figures, 'accuracy')}, "
        f"ROC-AUC {format_figure(figures, 'roc_auc')}",
    ]


def write_predictions(
    clips: Sequence[Clip],
    probabilities: np.ndarray,
    threshold: float,
    attention: np.ndarray,
    path: Path,
    windows: Sequence[str] = (),
) -> None:
    """Write `clip,group,label,probability,verdict,attention_1,…`, a row per clip.

    Of videos in windows, `window` is the most violent one, whose attention it is.

    Args:
        clips: that were tested.
        probabilities: `(clips,)`, of violence.
        threshold: a clip of at least this probability is predicted violent.
        attention: `(clips, frames)`: the weight of each frame.
        path: of the CSV file.
        windows: of each video; none: clips are predicted as a whole.
    """
    frames = [f"attention_{number}" for number in range(1, attention.shape[1] + 1)]
    rows = [
        (
            *(clip.name, clip.group or "", CLASS_NAMES[clip.label]),
            *(f"{p:.6f}", CLASS_NAMES[int(p >= threshold)], *windows[index : index + 1]),
            *(f"{weight:.4f}" for weight in weights),
        )
        for index, (clip, p, weights) in enumerate(
            zip(clips, probabilities, attention, strict=True)
        )
    ]
    window = ["window"] if windows else []
    header = ("clip", "group", "label", "probability", "verdict", *window, *frames)
    write_csv(path, header, rows)


def write_detector(
    run: RunDirectory,
    frames: int,
    recipes: Sequence[Recipe],
    untrained_vgg19: bool,
    point: OperatingPoint,
    clip_seconds: float | None = None,
) -> None:
    """Write `detector.json`: what is needed to predict with the model.

    Args:
        run: in whose directory the model is.
        frames: per clip.
        recipes: how the model's features are computed. Those of mirrored clips are left out: they
            are used in training alone.
        untrained_vgg19: whether VGG19 had random weights.
        point: temperature and threshold.
        clip_seconds: how long a training clip is, in the median; None: unknown.
    """
    write_json(
        run / DETECTOR,
        {
            "model": BEST_MODEL,
            "model_checksum": file_checksum(run / BEST_MODEL).hex(),
            "frames": frames,
            "features": [dataclasses.asdict(recipe) for recipe in recipes if not recipe.flipped],
            "untrained_vgg19": untrained_vgg19,
            "clip_seconds": clip_seconds,
            **dataclasses.asdict(point),
        },
    )


def write_results(
    run: RunDirectory,
    *,
    epochs: int,
    point: OperatingPoint,
    promised: Figures,
    tested: Tested,
    clips: CheckedClips,
    training: TrainingData,
    untrained_vgg19: bool,
    used: Usage,
    seconds_by_stage: Mapping[str, float],
) -> None:
    """Write `training_results.json`, which makes this a finished run.

    Report and model card of an earlier test, whose figures they show, are removed.

    Args:
        run: whose history has all epochs.
        epochs: that were asked for (--epochs).
        point: temperature and threshold, chosen on the validation clips.
        promised: the figures of the clips that they were chosen on.
        tested: the figures of the test.
        clips: of the dataset, and what was found wrong with them.
        training: how the training clips were drawn and weighted.
        untrained_vgg19: whether VGG19 had random weights.
        used: time, energy and cost of the whole run.
        seconds_by_stage: where the time of this command went.
    """
    best_epoch = run.best_epoch()
    for name in (REPORT, *MODEL_CARDS):
        with failing_as(run / name):
            (run / name).unlink(missing_ok=True)
    write_json(
        run / RESULTS,
        {
            "best_epoch": best_epoch,
            "epochs_trained": len(run.history),
            "selection": {
                **dataclasses.asdict(run.selection),
                "reason": run.selection.describe(run.history),
            },
            "folds": training.folds,
            "fusion": dict(training.fusion),
            "stopped_early": len(run.history) < epochs,
            "validation": run.history[best_epoch - 1],
            "evaluated_split": tested.split,
            "verdict": list(tested.verdict),
            **dataclasses.asdict(point),
            "chosen_on": promised,
            "evaluation": tested.figures,
            "evaluation_at_0.5": tested.at_half,
            "evaluation_uncalibrated": tested.uncalibrated,
            "members_at_0.5": list(tested.members),
            "by_subgroup": dict(tested.by_subgroup),
            "pseudo_labels": list(training.pseudo_labels),
            "untrained_vgg19": untrained_vgg19,
            "sampling": training.sampling,
            "augmentation": list(training.augmentation),
            "class_factors": dict(zip(CLASS_NAMES, training.class_factors, strict=True)),
            **_clip_results(clips),
            "usage": used,
            "seconds_by_stage": dict(seconds_by_stage),
        },
    )


def _clip_results(clips: CheckedClips) -> dict[str, Any]:
    return {
        "clips": clips.counts,
        "clips_and_groups": clips.groups,
        "bad_clips": [
            {"clip": clip.name, "split": clip.split, "reason": reason}
            for clip, reason in clips.bad.items()
        ],
        "on_bad_clip": clips.on_bad_clip,
        "leakage": [leak.as_json() for leak in clips.leaks],
        "clips_left_out_for_leakage": sorted(clip.name for clip in clips.left_out),
        "groups_on_two_sides": clips.groups_on_two_sides,
        "one_file_under_both_labels": [
            [clip.name for clip in copies] for copies in clips.under_both_labels
        ],
        "static_clips": [clip.name for clip in clips.static],
        "partly_read_clips": [
            {"clip": clip.name, "share": round(share, 3)}
            for clip, share in clips.partly_read.items()
        ],
        "clip_seconds": clips.clip_seconds,
        "long_clips": [
            {"clip": clip.name, "seconds": round(seconds, 1)}
            for clip, seconds in clips.long.items()
        ],
    }
