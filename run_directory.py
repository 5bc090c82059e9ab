"""The checkpoint directory: what a run leaves behind, and how an interrupted one goes on.

`resume/state.json` is the one place that says which epochs are finished; it is replaced in one
step, after the weights that it names are on disk. The CSV, the best model and the periodic
checkpoints follow from it, and are made good on the next start if a run was killed in between.
"""

import csv
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from clips import Clip, fingerprint, write_splits
from config import FREE_TO_CHANGE, Settings, as_json, flag
from errors import UserError

CONFIG = "training_config.json"
RESULTS = "training_results.json"
HISTORY = "training_history.csv"
BEST_MODEL = "best_model.keras"
LOG = "training.log"
TENSORBOARD = "tensorboard"
SPLITS_FILE = "splits.csv"
PREDICTIONS = "predictions.csv"
RESUME = "resume"
STATE = "state.json"
LEFT_BEHIND = (  # all that a run writes beside its config
    *(RESUME, RESULTS, HISTORY, BEST_MODEL, "checkpoint_epoch_*.keras", LOG),
    *(TENSORBOARD, SPLITS_FILE, PREDICTIONS),
)
PACKAGES = (
    *("tensorflow", "keras", "numpy", "opencv-python-headless"),
    *("scikit-learn", "h5py", "tensorboard"),
)

Row = dict[str, Any]  # one epoch's figures
Inputs = dict[str, str]  # what a run's epochs are computed from, by name


def checkpoint_name(epoch: int) -> str:
    """Return the file name of a periodic checkpoint; the first epoch is 1."""
    return f"checkpoint_epoch_{epoch:03d}.keras"


class RunDirectory:
    """The files of one run, and which of its epochs are finished."""

    def __init__(self, folder: Path):
        self.folder = folder.expanduser().absolute()
        self.history: list[Row] = []  # of the finished epochs
        self.weights: Path | None = None  # after the last of them

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def prepare(self) -> None:
        """Make the folder; raises `UserError` if it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UserError(
                f"--checkpoint-dir {self.folder} cannot be written: {error.strerror}"
            ) from error

    def has_run(self) -> bool:
        """Return whether a run was started here."""
        return (self / CONFIG).exists()

    def is_finished(self) -> bool:
        """Return whether the run here has been trained and tested."""
        return (self / RESULTS).exists()

    def set_aside(self) -> Path:
        """Move an earlier run's files into a folder of their own beside them; return that."""
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
        earlier = self / f"earlier_run_{stamp}"
        earlier.mkdir()
        # The config last: until then this is still a run.
        for pattern in (*LEFT_BEHIND, CONFIG):
            for path in self.folder.glob(pattern):
                path.rename(earlier / path.name)
        return earlier

    def require_same(self, settings: Settings, clips: Sequence[Clip]) -> None:
        """Raise `UserError` naming what differs from the run that was started here."""
        config = read_json(self / CONFIG)
        ours, theirs = as_json(settings), config.get("settings", {})
        kind = "a finished" if self.is_finished() else "an interrupted"
        way_out = "or --fresh to set that run aside (renamed, not deleted) and start anew"
        names = [name for name in ours if name not in FREE_TO_CHANGE]
        different = [name for name in names if ours[name] != theirs.get(name)]
        if different:
            was = ", ".join(f"{flag(name)} {_shown(theirs.get(name))}" for name in different)
            now = ", ".join(_shown(ours[name]) for name in different)
            raise UserError(
                f"{self.folder} holds {kind} run with other settings: it has {was}, this command "
                f"{now}.\nGive the same settings to continue, another --checkpoint-dir, {way_out}"
            )
        if config.get("dataset") != fingerprint(clips):
            raise UserError(
                f"{self.folder} holds {kind} run on other clips than are in "
                f"{settings.dataset_path} now ({self._clips_changed(clips)}).\n"
                f"Restore them to continue, give another --checkpoint-dir, {way_out}"
            )

    def _clips_changed(self, clips: Sequence[Clip]) -> str:
        try:
            with (self / SPLITS_FILE).open(encoding="utf-8", errors="surrogateescape") as file:
                before = {(row["clip"], row["split"]) for row in csv.DictReader(file)}
        except (OSError, KeyError):
            return f"{SPLITS_FILE} would name them, but cannot be read"
        now = {(clip.name, clip.split) for clip in clips}
        changed = sorted(now ^ before)
        return f"{len(now - before)} new, {len(before - now)} gone; the first is {changed[0][0]}"

    def write_config(
        self, settings: Settings, clips: Sequence[Clip], devices: list[str], precision: str
    ) -> None:
        """Write `splits.csv`, then `training_config.json`, which makes this a run."""
        write_splits(clips, self / SPLITS_FILE)
        config = {
            "settings": as_json(settings),
            "dataset": fingerprint(clips),
            "devices": devices,
            "precision": precision,
            "versions": versions(),
            "git_commit": _git_commit(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_json(self / CONFIG, config)

    def restore(self, inputs: Inputs) -> bool:
        """Take up the finished epochs, if any; return whether there are some.

        Raises:
            UserError: what the epochs were computed from is not what it was.
        """
        (self / RESUME).mkdir(exist_ok=True)
        if not (self / RESUME / STATE).exists():
            return False
        state = read_json(self / RESUME / STATE)
        changed = [name for name in inputs if inputs[name] != state["inputs"].get(name)]
        if changed:
            raise UserError(
                f"{self.folder}: the interrupted run cannot go on as it was, since "
                f"{' and '.join(changed)} changed (training.log says what was found).\n"
                "Restore it, or --fresh to set that run aside and start anew"
            )
        self.history = state["history"]
        self.weights = self / RESUME / state["weights"]
        return True

    def finish_epoch(self, row: Row, inputs: Inputs, save_weights: Callable[[Path], None]) -> None:
        """Make an epoch's end durable: its weights, then the state that names them."""
        weights = self / RESUME / f"epoch_{row['epoch']:03d}.weights.h5"
        replace_file(weights, save_weights)
        self.history.append(row)
        state = {
            "weights": weights.name,
            "inputs": inputs,
            "history": self.history,
        }
        write_json(self / RESUME / STATE, state)
        self.weights = weights
        for old in (self / RESUME).glob("*.weights.h5"):
            if old != weights:
                old.unlink()

    def write_history(self) -> None:
        """Bring `training_history.csv` up to the finished epochs: append, or mend it."""
        path, columns = self / HISTORY, list(self.history[0]) if self.history else []
        lines = [",".join(columns), *(_csv_line(row, columns) for row in self.history)]
        try:
            present = path.read_text().splitlines()
        except OSError:
            present = []
        if not self.history:
            path.unlink(missing_ok=True)
        elif present == lines[:-1]:  # as after every epoch: what tails the file goes on
            with path.open("a") as file:
                file.write(("\n".join(lines[len(present) :])) + "\n")
        elif present != lines:
            replace_file(path, lambda partial: partial.write_text("\n".join(lines) + "\n"))

    def best_epoch(self) -> int:
        """Return the epoch (from 1) of highest validation accuracy; of equals, of lowest loss."""
        best = max(self.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
        return best["epoch"]

    def epochs_since_lowest_loss(self) -> int:
        """Return how many epochs ago the validation loss was lowest."""
        if not self.history:
            return 0
        lowest = min(self.history, key=lambda row: row["val_loss"])
        return len(self.history) - lowest["epoch"]


def _csv_line(row: Row, columns: Sequence[str]) -> str:
    return ",".join(
        f"{row[name]:.6g}" if isinstance(row[name], float) else str(row[name]) for name in columns
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not given" if value is None else str(value)


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that matter; None: not installed."""
    packages = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    here = Path(__file__).parent
    if not (here / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; raises `UserError` if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): mend it, or --fresh to start anew"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not what this program wrote: mend it, or --fresh")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # A file name that is not UTF-8 becomes JSON's own escape for it.
    data = text.encode(errors="backslashreplace")
    replace_file(path, lambda partial: partial.write_bytes(data))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file, and put it at `path` in one step once it is on disk."""
    partial = path.with_name(f".partial-{path.name}")  # same suffix: Keras goes by it
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
