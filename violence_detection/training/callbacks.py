"""Keras callbacks of the training: checkpoints, CSV, progress, timing, early stopping."""

import logging
import math
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import keras
import numpy as np

from violence_detection.errors import RunError
from violence_detection.runs.directory import Inputs, Row, RunDirectory
from violence_detection.runs.files import checkpoint_name
from violence_detection.runtime.cluster import Cluster
from violence_detection.runtime.hardware import HardwareMonitor, utilization
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.progress import Progress
from violence_detection.runtime.stage_clock import (
    TRAINING,
    VALIDATION,
    WRITING,
    StageClock,
    bottleneck,
)
from violence_detection.settings.constants import CHECKPOINT_EVERY
from violence_detection.storage.files import replace_file
from violence_detection.training.batches import Supply
from violence_detection.training.trainer import Trainer

log = logging.getLogger(__name__)

TITLES_EVERY = 20  # epochs: their lines scroll away
WIDTHS = (7, 6, 10, 8, 6, 9, 8, 5)  # of the columns of an epoch's line

REWRITTEN = "%s is missing or does not match its checksum: rewriting it from %s"


class StopOnInterrupt(keras.callbacks.Callback):
    """Ends the training between two calls of the device after an interrupt signal."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End in the middle of an epoch."""
        raise_if_interrupted()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End in the middle of a validation."""
        raise_if_interrupted()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End before the next epoch."""
        raise_if_interrupted()


class SeedEpoch(keras.callbacks.Callback):
    """Makes dropout's random numbers a function of seed and epoch, like the order of the clips.

    Keras does not save their state, so a resumed run would draw different ones.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the state of every dropout layer."""
        for number, layer in enumerate(self.model.classifier.layers):
            if isinstance(layer, keras.layers.Dropout):
                words = np.random.SeedSequence([self.seed, epoch, number]).generate_state(2)
                layer.seed_generator.state.assign(words >> 1)  # fits any integer dtype


class LogFirstStep(keras.callbacks.Callback):
    """Logs once how long the first steps took to arrive, including start-up and tracing.

    Args:
        started: time of the command's start, by `time.perf_counter`; None: nothing is logged.
    """

    def __init__(self, started: float | None):
        super().__init__()
        self.started = started

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Log it after the first steps."""
        if self.started is not None:
            log.info("first step after %.1f s", time.perf_counter() - self.started)
            self.started = None


class ShowProgress(keras.callbacks.Callback):
    """Shows the progress of the training and the time left.

    Args:
        progress: over the clips of all epochs.
        clips: number of training clips in an epoch.
        batch_size: clips per step.
    """

    def __init__(self, progress: Progress, clips: int, batch_size: int):
        super().__init__()
        self.progress = progress
        self.clips = clips
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the number of the epoch."""
        self._done = 0
        self.progress.update(0, f"epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the clips of the last steps."""
        done = min(self.clips, (batch + 1) * self.batch_size)
        self.progress.update(done - self._done)
        self._done = done

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the bar."""
        self.progress.close()


class TimeStages(keras.callbacks.Callback):
    """Measures the time of training, validation and writing; logs the bottleneck.

    It has to be the first callback, so that the others' writing is included.

    Args:
        run: its history has the utilization of the GPUs.
        clock: adds up the seconds of each stage.
        supply: of the training batches.
    """

    def __init__(self, run: RunDirectory, clock: StageClock, supply: Supply):
        super().__init__()
        self.run = run
        self.clock = clock
        self.supply = supply
        self._first_epoch: int | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Training begins; its first epoch is ignored: tracing takes most of that time."""
        self.clock.begin(TRAINING)
        if self._first_epoch is None:
            self._first_epoch = epoch
        elif epoch == self._first_epoch + 1:
            self._before = self.clock.seconds
            self.supply.reset()
        self._used = epoch * self.params["steps"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record whether the next batches are ready."""
        self.supply.observe(self._used + batch + 1)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Validation begins."""
        self.clock.begin(VALIDATION)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writing begins."""
        self.clock.begin(WRITING)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Log the bottleneck if GPUs were not used well after the first epoch."""
        rows = self.run.history[(self._first_epoch or 0) + 1 :]
        used = [figure for row in rows if (figure := utilization(row)) is not None]
        if not used:
            return
        now = self.clock.seconds
        seconds = {stage: now[stage] - self._before.get(stage, 0.0) for stage in now}
        mean = sum(used) / len(used)
        if stage := bottleneck(mean, seconds, self.supply.starved_share):
            log.warning("GPU utilization in training %.0f %%; bottleneck: %s", mean, stage)


class FinishEpoch(keras.callbacks.Callback):
    """Saves every epoch as it ends: state, metrics, the best and the periodic models.

    Args:
        run: the directory to write to.
        inputs: fingerprints of the inputs; the run can only be resumed with the same ones.
        clips: number of training clips in an epoch.
        monitor: measures the use of the hardware.
    """

    def __init__(self, run: RunDirectory, inputs: Inputs, clips: int, monitor: HardwareMonitor):
        super().__init__()
        self.run = run
        self.inputs = inputs
        self.clips = clips
        self.monitor = monitor

        self._lines = 0  # logged

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Discard measurements from before the training."""
        self.monitor.take()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stop the clock of training: validation has begun."""
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Commit the epoch, then write the files derived from it.

        Args:
            epoch: counted from 0.
            logs: the metrics of the epoch by name.

        Raises:
            RunError: the loss is not finite; a file cannot be written.
        """
        for name in ("loss", "val_loss"):
            if not math.isfinite(logs[name]):
                raise RunError(
                    f"{name} of epoch {epoch + 1} is {logs[name]}: training diverged. Start over "
                    "(--fresh) with --no-mixed-precision or a lower --learning-rate"
                )
        row = {
            "epoch": epoch + 1,
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "loss_scale": float(getattr(self.model.optimizer, "dynamic_scale", 1.0)),
            "seconds": time.perf_counter() - self._started,
            "clips_per_second": self.clips / (self._trained - self._started),
            **self.monitor.take(),
        }
        self.run.finish_epoch(row, self.inputs, self.model.save_state)
        write_models_of_last_epoch(self.run, self.model)
        leads = self.run.selection.leading_epoch(self.run.history) == epoch + 1
        if self._lines % TITLES_EVERY == 0:
            log.info("%s", epoch_titles(row, self.params["epochs"]))
        self._lines += 1
        log.info("%s", epoch_line(row, self.params["epochs"], leads))


def epoch_line(row: Row, epochs: int, is_best: bool) -> str:
    """Return an epoch's metrics as a line of less than 80 columns, below `epoch_titles`."""
    used = utilization(row)
    losses = [f"{row[name]:.4f}"[:6] for name in ("loss", "val_loss")]
    seconds = f"{row['seconds']:.1f}" if row["seconds"] < 100 else f"{row['seconds']:.0f}"
    cells = [
        *(losses[0], f"{row['accuracy']:.3f}", losses[1]),
        *(f"{row['val_accuracy']:.3f}", f"{row['val_auc']:.3f}"),
        *(f"{row['learning_rate']:.1e}", f"{seconds} s"),
    ]
    if used is not None:
        cells.append(f"{used:.0f}%")
    number = f"epoch {row['epoch']:>{_digits(epochs)}}/{epochs:<{_digits(epochs)}}"
    return number + _in_columns(cells) + (" best" if is_best else "")


def epoch_titles(row: Row, epochs: int) -> str:
    """Return what stands above lines of `epoch_line`, in the same columns."""
    titles = ["loss", "acc", "val loss", "val acc", "auc", "rate", "time"]
    if utilization(row) is not None:
        titles.append("gpu")
    return " " * (7 + 2 * _digits(epochs)) + _in_columns(titles)


def _digits(epochs: int) -> int:
    return max(3, len(str(epochs)))


def _in_columns(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=False))


def write_models_of_last_epoch(run: RunDirectory, trainer: Trainer) -> None:
    """Write the CSV and the models that are due after the last finished epoch.

    Called again on resuming, with the restored weights: the run may have been killed between the
    epoch's commit and these files.

    Args:
        run: its history ends with that epoch.
        trainer: with the weights after that epoch.

    Raises:
        RunError: a file cannot be written.
    """
    if not run.writes:
        return
    run.write_history()
    epoch = run.history[-1]["epoch"]
    names = []
    if run.keeps_checkpoints and epoch % CHECKPOINT_EVERY == 0:
        # A selected epoch of those in between has its weights, for `complete_best_model`.
        names = [run.best_model] if run.best_epoch() == epoch else []
        names.append(checkpoint_name(epoch))
    names = [name for name in names if not run.is_intact(name, epoch)]
    for name in names:
        if (run / name).exists() and not run.is_intact(name):
            log.warning(REWRITTEN, run / name, "the last epoch's weights")
    if names:
        write_models(run, trainer, names, epoch)


def write_models(run: RunDirectory, trainer: Trainer, names: Sequence[str], epoch: int) -> None:
    """Write the trainer's classifier, with the weights after `epoch`, under each name."""
    first, *others = names
    replace_file(run / first, trainer.plain_classifier().save)
    for name in others:  # saving takes longer than a small epoch
        replace_file(run / name, lambda partial: shutil.copyfile(run / first, partial))
    for name in names:
        run.record_checksum(name, epoch)


def complete_best_model(run: RunDirectory, trainer: Trainer) -> None:
    """Write the best model from its epoch's weights if it is of another epoch, or damaged.

    Args:
        run: the directory of the model.
        trainer: gets the weights of the best epoch if the model is rewritten.

    Raises:
        RunError: those weights are damaged, too.
    """
    epoch = run.best_epoch()
    name = run.best_model
    if not run.writes or run.is_intact(name, epoch):
        return
    weights = run.intact_weights_after(epoch)
    if (run / name).exists() and not run.is_intact(name):
        log.warning(REWRITTEN, run / name, weights)
    trainer.load_state(weights)
    write_models(run, trainer, [name], epoch)


class EarlyStopping(keras.callbacks.Callback):
    """Stops after `patience` epochs without a lower validation loss; 0: never.

    Decides by the run's history, so that an interrupted run stops at the same epoch. With several
    workers, the chief decides for all.
    """

    def __init__(self, run: RunDirectory, patience: int, cluster: Cluster):
        super().__init__()
        self.run = run
        self.patience = patience
        self.cluster = cluster

    def due(self) -> bool:
        """Return whether to stop after the finished epochs."""
        due = 0 < self.patience <= self.run.epochs_since_lowest_loss()
        return self.cluster.broadcast("early-stopping decision", due)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop the training if that is due."""
        self.model.stop_training = self.due()
