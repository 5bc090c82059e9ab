"""What happens at an epoch's end: checkpoints, CSV, early stopping."""

import logging
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import keras
import numpy as np

from violence_detection.errors import RunError
from violence_detection.models.classifier import as_plain_keras
from violence_detection.runs.directory import Inputs, Row, RunDirectory
from violence_detection.runs.files import BEST_MODEL, checkpoint_name
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

WRITTEN_AGAIN = (
    "%s is damaged, gone or of another run (its checksum differs): it is written again from %s"
)


class StopOnInterrupt(keras.callbacks.Callback):
    """Ends the training between two calls of the device when a signal has told it to."""

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
    """Makes dropout's random numbers a function of seed and epoch, as the order of the clips is.

    Keras does not save their state, so that a resumed run would draw other ones.
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


class SayFirstStep(keras.callbacks.Callback):
    """Says once how long it took until the first steps were done: tracing and all.

    Args:
        started: when the command was, by `time.perf_counter`; None: it is not said.
    """

    def __init__(self, started: float | None):
        super().__init__()
        self.started = started

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Say it, if it was not said."""
        if self.started is not None:
            log.info("first step after %.1f s", time.perf_counter() - self.started)
            self.started = None


class ShowProgress(keras.callbacks.Callback):
    """Shows how far the training is, and when it will end.

    Args:
        progress: over the clips of all epochs.
        clips: trained on in an epoch.
        batch_size: clips of a step.
    """

    def __init__(self, progress: Progress, clips: int, batch_size: int):
        super().__init__()
        self.progress = progress
        self.clips = clips
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say which epoch it is."""
        self._done = 0
        self.progress.update(0, f"epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the clips of the last steps."""
        done = min(self.clips, (batch + 1) * self.batch_size)
        self.progress.update(done - self._done)
        self._done = done

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the bar away."""
        self.progress.close()


class TimeStages(keras.callbacks.Callback):
    """Counts the time of training, validation and writing; names what keeps GPUs waiting.

    It has to be the first: what the others write is counted, too.

    Args:
        run: whose rows say how much the GPUs computed.
        clock: counts.
        supply: of the training batches.
    """

    def __init__(self, run: RunDirectory, clock: StageClock, supply: Supply):
        super().__init__()
        self.run = run
        self.clock = clock
        self.supply = supply
        self._first_epoch: int | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Training begins; in its first epoch, tracing takes most of the time."""
        self.clock.begin(TRAINING)
        if self._first_epoch is None:
            self._first_epoch = epoch
        elif epoch == self._first_epoch + 1:
            self._before = self.clock.seconds
            self.supply.begin()
        self._used = epoch * self.params["steps"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look whether the next batches are there."""
        self.supply.look(self._used + batch + 1)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Validation begins."""
        self.clock.begin(VALIDATION)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writing begins."""
        self.clock.begin(WRITING)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Name what held the GPUs up, if they were not used well after the first epoch."""
        rows = self.run.history[(self._first_epoch or 0) + 1 :]
        used = [figure for row in rows if (figure := utilization(row)) is not None]
        if not used:
            return
        now = self.clock.seconds
        seconds = {stage: now[stage] - self._before.get(stage, 0.0) for stage in now}
        mean = sum(used) / len(used)
        if held_up := bottleneck(mean, seconds, self.supply.starved_share):
            log.warning(
                "GPUs computed %.0f %% of the training's time. Held up by %s", mean, held_up
            )


class FinishEpoch(keras.callbacks.Callback):
    """Makes every epoch durable as it ends, with its figures, the best and the periodic models.

    Args:
        run: where to.
        inputs: what the run is computed from; it may only be resumed on the same.
        clips: trained on in an epoch.
        monitor: tells how the hardware was used meanwhile.
    """

    def __init__(self, run: RunDirectory, inputs: Inputs, clips: int, monitor: HardwareMonitor):
        super().__init__()
        self.run = run
        self.inputs = inputs
        self.clips = clips
        self.monitor = monitor

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Leave out what was used before."""
        self.monitor.take()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stop the clock of training: validation has begun."""
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Commit the epoch, then write what follows from it.

        Raises:
            RunError: the loss is no number any more.
        """
        for name in ("loss", "val_loss"):
            if not math.isfinite(logs[name]):
                raise RunError(
                    f"{name} of epoch {epoch + 1} is not a number: start anew (--fresh) with "
                    "--no-mixed-precision or a lower --learning-rate"
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
        is_best = self.run.best_epoch() == epoch + 1
        log.info("%s", epoch_line(row, self.params["epochs"], is_best))


def epoch_line(row: Row, epochs: int, is_best: bool) -> str:
    """Return an epoch's figures in a line of at most 100 columns."""
    used = utilization(row)
    losses = [f"{row[name]:.4f}"[:6] for name in ("loss", "val_loss")]
    seconds = f"{row['seconds']:.1f}" if row["seconds"] < 100 else f"{row['seconds']:.0f}"
    return (
        f"epoch {row['epoch']:>3}/{epochs:<3} loss {losses[0]} acc {row['accuracy']:.3f}"
        f"  val {losses[1]} acc {row['val_accuracy']:.3f} auc {row['val_auc']:.3f}"
        f"  lr {row['learning_rate']:.1e} {seconds} s"
        f"{'' if used is None else f' gpu {used:.0f}%'}{' best' if is_best else ''}"
    )


def write_models_of_last_epoch(run: RunDirectory, trainer: Trainer) -> None:
    """Write the CSV and the models that the last finished epoch calls for.

    To be called again after a resume, with the restored weights: the run may have been killed
    between the epoch's end and these files.
    """
    if not run.writes:
        return
    run.write_history()
    epoch = run.history[-1]["epoch"]
    names = [BEST_MODEL] if run.best_epoch() == epoch else []
    if epoch % CHECKPOINT_EVERY == 0:
        names.append(checkpoint_name(epoch))
    names = [name for name in names if not run.is_intact(name, epoch)]
    for name in names:
        if (run / name).exists() and not run.is_intact(name):
            log.warning(WRITTEN_AGAIN, run / name, "the last epoch's weights")
    if names:
        write_models(run, trainer, names, epoch)


def write_models(run: RunDirectory, trainer: Trainer, names: Sequence[str], epoch: int) -> None:
    """Write the trainer's classifier, as it is after `epoch`, under each name."""
    model = as_plain_keras(trainer.classifier)
    for name in names:
        replace_file(run / name, model.save)
        run.record_checksum(name, epoch)


def make_good_best_model(run: RunDirectory, trainer: Trainer) -> None:
    """Write the best model again, from its epoch's weights, if it is not as it was written.

    Raises:
        RunError: those weights are damaged, too.
    """
    epoch = run.best_epoch()
    if not run.writes or run.is_intact(BEST_MODEL, epoch):
        return
    weights = run.intact_weights_after(epoch)
    log.warning(WRITTEN_AGAIN, run / BEST_MODEL, weights)
    trainer.load_state(weights)
    write_models(run, trainer, [BEST_MODEL], epoch)


class EarlyStopping(keras.callbacks.Callback):
    """Stops after `patience` epochs without a lower validation loss; 0: never.

    Goes by the run's history, so that an interrupted run stops where it would have. Of several
    workers, all go by what the chief says.
    """

    def __init__(self, run: RunDirectory, patience: int, cluster: Cluster):
        super().__init__()
        self.run = run
        self.patience = patience
        self.cluster = cluster

    def due(self) -> bool:
        """Return whether the finished epochs are enough."""
        due = 0 < self.patience <= self.run.epochs_since_lowest_loss()
        return self.cluster.broadcast("whether to train on", due)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End the training if it is due."""
        self.model.stop_training = self.due()
