"""Settings and training, for programs."""

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from violence_detection.api.processes import require_main_program
from violence_detection.errors import RESUME, UserError
from violence_detection.settings import schema
from violence_detection.settings.keywords import parse_keywords

NO_TRAINING = ("extract_only", "cross_validate", "find_lr", "tune", "grid")


@dataclass(frozen=True, init=False, repr=False)
class Settings:
    """The settings of a training, by the names of its flags: `batch_size` is `--batch-size`.

    Each is an attribute: `settings.batch_size`. A switch is True or False, a list is a tuple, a
    list or a text with commas; None leaves a setting at its default.

    Args:
        **flags: see docs/flags.md.

    Raises:
        UserError: a name is no flag, a value is out of its range, or two settings contradict each
            other.

    Example:
        >>> settings = Settings(dataset_path="clips", epochs=20, streams=("rgb", "flow"))
        >>> settings
        Settings(dataset_path='clips', streams=('rgb', 'flow'), epochs=20)
        >>> settings.batch_size
        64
    """

    by_group: schema.Settings

    def __init__(self, **flags: Any):
        object.__setattr__(self, "by_group", parse_keywords(flags))

    def __getattr__(self, name: str) -> Any:
        if name not in schema.FIELDS:
            raise AttributeError(f"there is no setting {name!r}")
        return self.by_group.by_name()[name]

    def __repr__(self) -> str:
        defaults = schema.Settings().by_name()
        changed = [
            f"{name}={str(value) if isinstance(value, Path) else value!r}"
            for name, value in self.by_group.by_name().items()
            if value != defaults[name]
        ]
        return f"Settings({', '.join(changed)})"


@dataclass(frozen=True)
class TrainedRun:
    """A finished run. Figures are those of the test; None where they are undefined."""

    folder: Path  # the checkpoint directory, for `Detector.load`
    verdict: str  # what the figures amount to, in sentences
    split: str  # that was tested: "test", or "val" if there is no test split
    clips: int  # of that split
    accuracy: float | None  # at the threshold
    accuracy_low: float | None  # from here
    accuracy_high: float | None  # to here: 95 % interval
    roc_auc: float | None
    roc_auc_low: float | None
    roc_auc_high: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float  # probability from which a clip is predicted violent
    best_epoch: int  # from 1
    epochs: int  # that were trained
    model: Path
    history: Path  # CSV, a row per epoch
    predictions: Path  # CSV, a row per clip of the test
    results: Path  # JSON, all figures
    report: Path | None  # HTML; None with `report=False`


def train(settings: Settings) -> TrainedRun:
    """Train and test a detector; return the finished run.

    The same call resumes a run that was interrupted, and returns one that is finished as it is.
    Ctrl-C, or a notebook's interrupt, ends it after the current step, with `KeyboardInterrupt`.

    Args:
        settings: at least `dataset_path`, or `demo=True`.

    Raises:
        UserError: a setting is wrong, or the clips are.
        RunError: something underneath fails: a disk, a device.
    """
    from train_rtx5000_dual_optimized import train as run_training
    from violence_detection.runtime.interrupts import Interrupted, recording_interrupts
    from violence_detection.runtime.logs import end_log
    from violence_detection.runtime.worker import find_worker

    require_main_program()
    resolved = settings.by_group
    for name in NO_TRAINING:
        if resolved.by_name()[name]:
            raise UserError(f"{name} trains no detector: give it on the command line")
    if find_worker(resolved.devices.cluster).count > 1:
        raise UserError("train() is for one host: start several from the command line")
    received = None
    try:
        with recording_interrupts(), contextlib.ExitStack() as stack:
            run_training(resolved, stack)
    except Interrupted as interrupt:
        received = interrupt.number
    finally:
        end_log()
    if received is not None:
        signal.raise_signal(received)  # to the program's own handler
        raise KeyboardInterrupt(RESUME)
    return _trained_run(resolved)


def _trained_run(settings: schema.Settings) -> TrainedRun:
    from violence_detection.runs import files
    from violence_detection.storage.files import read_json

    folder = settings.data.checkpoint_dir.resolve()
    results = read_json(folder / files.RESULTS)
    figures = results["evaluation"]

    def interval(name: str) -> tuple[float | None, float | None]:
        low, high = figures["intervals"].get(name) or (None, None)
        return low, high

    accuracy, roc_auc = interval("accuracy"), interval("roc_auc")
    return TrainedRun(
        folder=folder,
        verdict=" ".join(results["verdict"]),
        split=results["evaluated_split"],
        clips=figures["clips"],
        accuracy=figures["accuracy"],
        accuracy_low=accuracy[0],
        accuracy_high=accuracy[1],
        roc_auc=figures["roc_auc"],
        roc_auc_low=roc_auc[0],
        roc_auc_high=roc_auc[1],
        precision=figures["precision"],
        recall=figures["recall"],
        f1=figures["f1"],
        threshold=results["threshold"],
        best_epoch=results["best_epoch"],
        epochs=results["epochs_trained"],
        model=folder / files.BEST_MODEL,
        history=folder / files.HISTORY,
        predictions=folder / files.PREDICTIONS,
        results=folder / files.RESULTS,
        report=folder / files.REPORT if settings.monitoring.report else None,
    )
