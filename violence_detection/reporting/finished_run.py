"""What a finished run has left in its checkpoint directory, read and checked."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.clips.clip import group_key
from violence_detection.errors import UserError
from violence_detection.runs.files import (
    CONFIG,
    HISTORY,
    LABEL_ISSUES,
    PREDICTIONS,
    RESULTS,
    SPLITS_FILE,
)
from violence_detection.runs.label_issues import YES
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import read_json

# What a report needs. Other things that an earlier version did not write are shown as unknown.
NEEDED_RESULTS = (
    *("best_epoch", "epochs_trained", "evaluated_split", "threshold", "clips"),
    *("evaluation", "evaluation_at_0.5", "evaluation_uncalibrated"),
)
NEEDED_SETTINGS = ("dataset_path", "frames", "seed")
ALL_SPLITS = "all"


@dataclass(frozen=True)
class PredictedClip:
    """A clip of the test, and the detector's prediction for it."""

    name: str  # below the dataset folder, with slashes
    label: int  # 1 is violent
    probability: float  # of violence
    predicted: int  # 1 is violent
    group: str | None = None
    attention: tuple[float, ...] | None = None  # of each frame, sums to 1; None: unknown
    window: str | None = None  # the most violent one, of a video that was predicted in windows

    @property
    def shown(self) -> str:
        """The name of the clip or the window that the attention is of."""
        return self.window or self.name

    @property
    def is_correct(self) -> bool:
        """Whether the predicted class is the label."""
        return self.predicted == self.label

    @property
    def error(self) -> float:
        """The distance of the probability from the label, 0 to 1."""
        return abs(self.probability - self.label)


@dataclass(frozen=True)
class Suspects:
    """The clips whose labels are probably wrong, of those that were predicted out of fold."""

    clips: list[PredictedClip]  # the most suspect first
    of: int  # clips


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as its files describe it."""

    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    history: list[dict[str, float | None]]  # a row per epoch
    clips: list[PredictedClip]  # of the split that was tested
    splits: dict[str, str]  # of all clips, by name
    suspects: Suspects | None = None  # None: no clips were predicted out of fold
    sources: Mapping[str, int] = field(default_factory=dict)  # groups by split, and of all

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, as JSON values."""
        return self.config["settings"]

    @property
    def labels(self) -> np.ndarray:
        """`(clips,)` int64."""
        return np.array([clip.label for clip in self.clips])

    @property
    def probabilities(self) -> np.ndarray:
        """`(clips,)` float64."""
        return np.array([clip.probability for clip in self.clips])

    @property
    def predicted(self) -> np.ndarray:
        """`(clips,)` int64."""
        return np.array([clip.predicted for clip in self.clips])


def read_run(folder: Path) -> FinishedRun:
    """Return the finished run in a checkpoint directory.

    Raises:
        UserError: there is none, or one of its files is missing or damaged.
    """
    folder = folder.expanduser().absolute()
    require_finished(folder)
    config, results = read_json(folder / CONFIG), read_json(folder / RESULTS)
    _require(config.get("settings", {}), NEEDED_SETTINGS, folder / CONFIG)
    _require(results, NEEDED_RESULTS, folder / RESULTS)
    with _table(folder / HISTORY) as rows:
        history = [
            {name: float(cell) if cell else None for name, cell in row.items() if name != "time"}
            for row in rows
        ]
    with _table(folder / PREDICTIONS) as rows:
        clips = [_predicted_clip(row) for row in rows]
    with _table(folder / SPLITS_FILE) as rows:
        listed = [(row["clip"], row["split"], row.get("group")) for row in rows]
        splits = {clip: split for clip, split, _ in listed}
        keys = {(split, group_key(clip, group)) for clip, split, group in listed}
    for path, found, expected in (
        (folder / PREDICTIONS, len(clips), results["evaluation"]["clips"]),
        (folder / HISTORY, len(history), results["epochs_trained"]),
    ):
        if found != expected:
            raise UserError(
                f"{path} has {found} rows, {expected} are expected from {RESULTS}: restore it"
            )
    return FinishedRun(
        *(folder, config, results, history, clips, splits, read_suspects(folder)),
        sources=Counter(split for split, _ in keys) | {ALL_SPLITS: len({key for _, key in keys})},
    )


def read_suspects(folder: Path) -> Suspects | None:
    """Return the suspect labels that a run or a cross-validation has listed; None: neither did.

    Raises:
        UserError: the list is damaged.
    """
    if not (folder / LABEL_ISSUES).exists():
        return None
    with _table(folder / LABEL_ISSUES) as rows:
        listed = [(row["suspect"] == YES, _predicted_clip(row, "predicted")) for row in rows]
    return Suspects([clip for suspect, clip in listed if suspect], len(listed))


def require_finished(folder: Path) -> None:
    """Raise `UserError` if there is no finished run in a folder."""
    if not folder.is_dir():
        raise UserError(f"--checkpoint-dir {folder}: no such folder")
    if not (folder / CONFIG).exists():
        raise UserError(
            f"--checkpoint-dir {folder} contains no run (no {CONFIG}): give the "
            "--checkpoint-dir of a training command"
        )
    if not (folder / RESULTS).exists():
        raise UserError(
            f"--checkpoint-dir {folder}: the run is not finished (no {RESULTS}). Run its training "
            "command again to resume"
        )


def _require(values: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    if missing := [name for name in names if name not in values]:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: it was written by an earlier version of this "
            "program. Train again (--fresh) for a report"
        )


@contextmanager
def _table(path: Path) -> Iterator[Iterator[dict[str, str]]]:
    """Yield the rows of a CSV file; raise `UserError` if it is missing or a cell is invalid."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            try:
                yield iter(rows)
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise UserError(
                    f"{path}, line {rows.line_num}, is damaged ({type(error).__name__}: {error}): "
                    "restore it"
                ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore it") from error


def _predicted_clip(row: Mapping[str, str], predicted: str = "verdict") -> PredictedClip:
    weights = [row[name] for name in row if name and name.startswith("attention_")]
    return PredictedClip(
        name=row["clip"],
        label=CLASS_NAMES.index(row["label"]),
        probability=float(row["probability"]),
        predicted=CLASS_NAMES.index(row[predicted]),
        group=row.get("group") or None,
        attention=tuple(map(float, weights)) if weights and all(weights) else None,
        window=row.get("window"),
    )
