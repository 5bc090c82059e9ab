"""The checkpoint directory: the files of a run, and how an interrupted run is resumed.

`resume/state.json` alone records which epochs are finished. It is replaced in one step, after the
weights that it names are on disk. The CSV, the best model and the periodic checkpoints follow from
it, and are restored on the next start if a run was killed in between. Files that a later start
relies on have checksums. State and weights of the last but one epoch are kept, too, so that damage
to the last ones costs one epoch.
"""

import csv
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from violence_detection.clips.clip import Clip
from violence_detection.clips.loading import GROUPS_PROPOSED
from violence_detection.clips.splits import fingerprint, write_splits
from violence_detection.errors import RunError, UserError, failing_as, require_room
from violence_detection.runs.files import (
    BEST_MODEL,
    CONFIG,
    DETECTOR,
    EVENT_FIGURES,
    HISTORY,
    LABEL_ISSUES,
    LEAKAGE,
    LOG,
    MEMBER,
    MEMBER_MODEL,
    MODEL_CARDS,
    MODELS,
    PLOTS,
    PREDICTIONS,
    PRETRAINED,
    PSEUDO_LABELS,
    REPORT,
    RESULTS,
    RESUME,
    SPLITS_FILE,
    STATE,
    STATE_BEFORE,
    TEACHER,
    TENSORBOARD,
    WORKER_LOG,
)
from violence_detection.runs.selection import Selection
from violence_detection.runs.versions import git_commit, versions
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import CHANGES_ON_RESUME, Settings
from violence_detection.settings.setting import flag
from violence_detection.settings.values import format_value
from violence_detection.storage.files import (
    file_checksum,
    read_json,
    remove_partial_files,
    replace_file,
    write_json,
    write_text,
)
from violence_detection.storage.locks import locked

log = logging.getLogger(__name__)

RUN_FILES = (  # patterns of everything that a run writes beside its config
    *(RESUME, RESULTS, HISTORY, BEST_MODEL, "checkpoint_epoch_*.keras", LOG),
    *(TENSORBOARD, SPLITS_FILE, PREDICTIONS, DETECTOR, LEAKAGE, GROUPS_PROPOSED, REPORT, PLOTS),
    *(LABEL_ISSUES, *MODEL_CARDS),
    WORKER_LOG.format("*"),
    EVENT_FIGURES,
    *(MEMBER_MODEL, "ensemble.keras", f"{MEMBER}*", f"{TEACHER}*", PSEUDO_LABELS, "wandb"),
    PRETRAINED,
)
SINGLE_WORKER = Worker()
Row = dict[str, Any]  # one epoch's figures
Inputs = dict[str, str]  # fingerprints of what the epochs are computed from, by name
NAMES_OF_INPUTS = {  # in messages, of those that are stored under another name
    "the clips that are used": "the set of usable clips",
    "their content or the VGG19 weights": "the contents of the clips or the VGG19 weights",
}


class RunDirectory:
    """The files of a run, and its finished epochs. As a context, it locks the folder.

    Args:
        folder: the checkpoint directory; entering the context makes it.
        worker: of several workers, only the chief locks the folder and writes. For the others,
            methods that write do nothing, and the history is what they have recorded themselves.
        keeps_checkpoints: of every few epochs, for the user; not in a folder that will be removed.

    Raises:
        UserError: on entering, if the folder cannot be written or another process has locked it.
    """

    def __init__(
        self, folder: Path, worker: Worker = SINGLE_WORKER, keeps_checkpoints: bool = True
    ):
        self.folder = folder.expanduser().absolute()
        self.best_model = BEST_MODEL  # file of the selected epoch's model
        self.selection = Selection()  # of the epoch whose weights become `best_model`
        self.writes = worker.is_chief
        self.keeps_checkpoints = keeps_checkpoints
        self.history: list[Row] = []  # of the finished epochs
        self._checksums: dict[str, str] = {}  # of the epochs' weights that are kept
        self._lock = ExitStack()

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            if not self.writes:
                return self
            self._lock.enter_context(locked(self.folder, self._refuse))
        except OSError as error:
            require_room(error, self.folder)
            raise UserError(
                f"--checkpoint-dir {self.folder} cannot be written: {error.strerror}"
            ) from error
        for folder in (self.folder, self / RESUME):
            remove_partial_files(folder)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def _refuse(self, holder: str) -> NoReturn:
        raise UserError(
            f"--checkpoint-dir {self.folder} is in use by {holder}: wait for it to end, or use "
            "another --checkpoint-dir"
        )

    def has_run(self) -> bool:
        """Return whether a run was started here."""
        return (self / CONFIG).exists()

    def is_finished(self, threshold_for: str, subgroups: Sequence[str] = ()) -> bool:
        """Return whether the run is trained and tested, with intact files.

        Args:
            threshold_for: what the threshold must have been chosen for (--threshold-for).
            subgroups: columns by which the test must have been broken down (--subgroup).
        """
        if not (self / RESULTS).exists():
            return False
        try:
            results = read_json(self / RESULTS)
            goals = {results["chosen_for"], read_json(self / DETECTOR)["chosen_for"]}
        except UserError as error:
            log.warning("%s: testing again", error)
            return False
        for name in {BEST_MODEL, read_json(self / DETECTOR)["model"]}:
            if not self.is_intact(name):
                log.warning("%s is damaged or missing: testing again", self / name)
                return False
        return goals == {threshold_for} and {*subgroups} <= {*results.get("by_subgroup", ())}

    def set_aside(self) -> Path:
        """Move the files of an earlier run into a folder `earlier_run_…` here; return that."""
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
        earlier = self / f"earlier_run_{stamp}"
        earlier.mkdir()
        # The config last: until then this is still a run.
        for pattern in (*RUN_FILES, CONFIG):
            for path in self.folder.glob(pattern):
                path.rename(earlier / path.name)
        return earlier

    def require_same(self, settings: Settings, clips: Sequence[Clip]) -> None:
        """Raise `UserError` that names what differs from the run that was started here."""
        config = read_json(self / CONFIG)
        ours, theirs = settings.as_json(), config.get("settings", {})
        kind = "a finished" if (self / RESULTS).exists() else "an interrupted"
        fresh = "or use --fresh to set that run aside (renamed, not deleted)"
        names = [name for name in ours if name not in CHANGES_ON_RESUME]
        different = [name for name in names if ours[name] != theirs.get(name)]
        if different:
            old = ", ".join(f"{flag(name)} {format_value(theirs.get(name))}" for name in different)
            new = ", ".join(f"{flag(name)} {format_value(ours[name])}" for name in different)
            raise UserError(
                f"{self.folder} contains {kind} run with other settings: {old}; now {new}.\n"
                f"Use the same settings to resume it, another --checkpoint-dir, {fresh}"
            )
        if config.get("dataset") != fingerprint(clips):
            raise UserError(
                f"{self.folder} contains {kind} run that was started with different clips; "
                f"{self._clips_changed(clips, settings.data.dataset_path)}.\n"
                f"Restore them to resume it, use another --checkpoint-dir, {fresh}"
            )

    def _clips_changed(self, clips: Sequence[Clip], dataset_path: Path | str) -> str:
        try:
            with (self / SPLITS_FILE).open(encoding="utf-8", errors="surrogateescape") as file:
                before = {(row["clip"], row["split"]) for row in csv.DictReader(file)}
        except (OSError, KeyError):
            return f"{SPLITS_FILE}, which lists them, cannot be read"
        now = {(clip.name, clip.split) for clip in clips}
        changed = sorted(now ^ before)
        counts = f"{len(now - before)} new, {len(before - now)} missing"
        return f"in {dataset_path}: {counts}, first {changed[0][0]}"

    def bad_clips(self) -> dict[str, str]:
        """Return the clips that could not be read when the run was started: reasons by name."""
        return read_json(self / CONFIG)["bad_clips"]

    def write_config(
        self,
        settings: Settings,
        clips: Sequence[Clip],
        bad_clips: dict[str, str],
        devices: list[str],
        precision: str,
    ) -> None:
        """Write `splits.csv`, then `training_config.json`, which makes this a run.

        Args:
            settings: of the run.
            clips: of the dataset.
            bad_clips: reasons by name, of the clips that cannot be read.
            devices: a description of each.
            precision: of the computation.
        """
        if not self.writes:
            return
        write_splits(clips, self / SPLITS_FILE)
        config = {
            "settings": settings.as_json(),
            "dataset": fingerprint(clips),
            "bad_clips": bad_clips,
            "devices": devices,
            "precision": precision,
            "versions": versions(),
            "git_commit": git_commit(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_json(self / CONFIG, config)

    def update_config(self, settings: Settings) -> None:
        """Write the settings of a resumed run, some of which may have changed."""
        config = read_json(self / CONFIG)
        if self.writes and config["settings"] != settings.as_json():
            write_json(self / CONFIG, config | {"settings": settings.as_json()})

    def restore(self, inputs: Inputs) -> Path | None:
        """Read the finished epochs into `history`; return the weights after the last one.

        Args:
            inputs: what the next epochs will be computed from.

        Returns:
            The file of the weights; None if no epoch is finished.

        Raises:
            UserError: the inputs have changed since, or all copies of the weights are damaged.
        """
        with failing_as(self / RESUME):
            (self / RESUME).mkdir(exist_ok=True)
        paths = [self / RESUME / STATE, self / RESUME / STATE_BEFORE]
        if not any(path.exists() for path in paths):
            return None
        for path in paths:
            try:
                state = read_json(path)
            except UserError as error:
                log.warning("%s", error)
                continue
            self._require_same_inputs(inputs, state["inputs"])
            self._checksums = state["weights"]
            history = state["history"]
            for finished in range(len(history), max(0, len(history) - 2), -1):
                weights = self.weights_after(finished)
                if self._is_intact_weights(weights):
                    self.history = history[:finished]
                    # Else the next epoch would keep the damaged one as the state before.
                    if self.writes and path != paths[0]:
                        write_json(paths[0], state)
                    return weights
                log.warning("%s is damaged or missing: going back one epoch", weights)
        raise UserError(
            f"{self / RESUME} is damaged: the interrupted run cannot be resumed. Restore it, or "
            "use --fresh to set that run aside"
        )

    def read_history(self) -> None:
        """Read the epochs of a finished run into `history`.

        Raises:
            UserError: they are not there, or damaged.
        """
        self.history = read_json(self / RESUME / STATE)["history"]

    def _require_same_inputs(self, inputs: Inputs, before: Inputs) -> None:
        names = dict.fromkeys((*inputs, *before))
        changed = [
            NAMES_OF_INPUTS.get(name, name)
            for name in names
            if inputs.get(name) != before.get(name)
        ]
        if changed:
            raise UserError(
                f"{self.folder}: the interrupted run cannot be resumed, because "
                f"{' and '.join(changed)} changed (details are in {LOG}).\n"
                "Restore what changed, or use --fresh to set that run aside"
            )

    def _is_intact_weights(self, weights: Path) -> bool:
        return weights.exists() and file_checksum(weights).hex() == self._checksums.get(
            weights.name
        )

    def weights_after(self, epoch: int) -> Path:
        """Return the path of the weights after an epoch (from 1), whether they are kept or not."""
        return self / RESUME / f"epoch_{epoch:03d}.weights.npz"

    def intact_weights_after(self, epoch: int) -> Path:
        """Return the path of an epoch's weights; raise `RunError` if they are not intact."""
        weights = self.weights_after(epoch)
        if not self._is_intact_weights(weights):
            raise RunError(
                f"{self / self.best_model} and the weights to restore it from, {weights}, are "
                "damaged or missing: restore one of them, or use --fresh to start again"
            )
        return weights

    def finish_epoch(self, row: Row, inputs: Inputs, save_state: Callable[[Path], None]) -> None:
        """Record an epoch as finished: write its weights, then the state that names them.

        Kept are the weights after this epoch, after the one before, and after those that are or
        may be selected.

        Args:
            row: the epoch's figures, for the history.
            inputs: what the epoch was computed from.
            save_state: writes model and optimizer to a path.
        """
        if not self.writes:
            self.history.append(row)
            return
        weights = self.weights_after(row["epoch"])
        replace_file(weights, save_state)
        kept = {row["epoch"] - 1, row["epoch"]}
        kept |= self._selectable() if self.history else set()
        self.history.append(row)
        kept |= self._selectable()
        checksums = self._checksums | {weights.name: file_checksum(weights).hex()}
        names = [self.weights_after(epoch).name for epoch in sorted(kept)]
        self._checksums = {name: checksums[name] for name in names if name in checksums}
        state = {"weights": self._checksums, "inputs": inputs, "history": self.history}
        path, before = self / RESUME / STATE, self / RESUME / STATE_BEFORE
        if path.exists():
            replace_file(before, lambda partial: shutil.copyfile(path, partial))
        write_json(path, state)
        for old in (self / RESUME).glob("epoch_*.weights.npz"):
            if old.name not in self._checksums:
                old.unlink()

    def record_checksum(self, name: str, epoch: int) -> None:
        """Record the checksum of a model that was written, and its epoch (from 1)."""
        models = self._models() | {
            name: {"epoch": epoch, "checksum": file_checksum(self / name).hex()}
        }
        write_json(self / RESUME / MODELS, models)

    def is_intact(self, name: str, epoch: int | None = None) -> bool:
        """Return whether a model is as it was written, and from `epoch` if that is given."""
        model = self._models().get(name)
        return (
            model is not None
            and epoch in (None, model["epoch"])  # cheaper than the checksum
            and (self / name).exists()
            and model["checksum"] == file_checksum(self / name).hex()
        )

    def damaged_checkpoints(self) -> list[Path]:
        """Return the models beside the best one that are missing or not as they were written."""
        names = [name for name in self._models() if name not in (BEST_MODEL, self.best_model)]
        return [self / name for name in names if not self.is_intact(name)]

    def _models(self) -> dict[str, Any]:
        path = self / RESUME / MODELS
        try:
            return read_json(path) if path.exists() else {}
        except UserError as error:
            log.warning("%s: the models cannot be checked", error)
            return {}

    def write_history(self) -> None:
        """Write the finished epochs to `training_history.csv`: append, or repair it."""
        if not self.writes:
            return
        path = self / HISTORY
        # A run that is resumed on other devices has other columns.
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        lines = [",".join(columns), *(_csv_line(row, columns) for row in self.history)]
        try:
            present = path.read_text().splitlines()
        except OSError:
            present = []
        if not self.history:
            path.unlink(missing_ok=True)
        elif present == lines[:-1]:  # as after every epoch; appending keeps `tail -f` working
            with failing_as(path), path.open("a") as file:
                file.write(("\n".join(lines[len(present) :])) + "\n")
        elif present != lines:
            write_text(path, "\n".join(lines) + "\n")

    def best_epoch(self) -> int:
        """Return the selected epoch (from 1)."""
        return self.selection.best_epoch(self.history)

    def _selectable(self) -> set[int]:
        return {self.best_epoch(), self.selection.leading_epoch(self.history)}

    def epochs_since_lowest_loss(self) -> int:
        """Return how many epochs ago the validation loss was lowest."""
        if not self.history:
            return 0
        lowest = min(self.history, key=lambda row: row["val_loss"])
        return len(self.history) - lowest["epoch"]


def _csv_line(row: Row, columns: Sequence[str]) -> str:
    """Return a row as CSV; unknown figures are empty cells."""
    values = [row.get(name) for name in columns]
    return ",".join(
        f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
        for value in values
    )
