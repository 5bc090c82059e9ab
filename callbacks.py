"""What happens at an epoch's end: checkpoints, CSV, early stopping."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import keras

from clips import Clip
from config import CHECKPOINT_EVERY
from errors import RunError
from run_directory import BEST_MODEL, RunDirectory, checkpoint_name, replace_file
from training import Trainer


class EpochFigures(keras.callbacks.Callback):
    """Adds the learning rate, the seconds and the clips per second to an epoch's figures."""

    def __init__(self, clips: int):
        super().__init__()
        self.clips = clips

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stop the clock of training: validation has begun."""
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Add the figures; raises `RunError` if the loss is no number any more."""
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs["seconds"] = time.perf_counter() - self._started
        logs["clips_per_second"] = self.clips / (self._trained - self._started)
        if logs["loss"] != logs["loss"]:
            raise RunError(
                f"the loss of epoch {epoch + 1} is not a number: lower --learning-rate or "
                "--clipnorm (--fresh to start anew)"
            )


class Checkpoints(keras.callbacks.Callback):
    """Makes every finished epoch durable, and keeps the best and the periodic models."""

    def __init__(self, run: RunDirectory, usable_clips: Sequence[Clip]):
        super().__init__()
        self.run = run
        self.usable_clips = usable_clips

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Commit the epoch, then write what follows from it."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        row = {"epoch": epoch + 1, "time": now} | {name: float(logs[name]) for name in logs}
        self.run.finish_epoch(row, self.usable_clips, self.model.save_weights)
        write_models_of_last_epoch(self.run, self.model)


def write_models_of_last_epoch(run: RunDirectory, trainer: Trainer) -> None:
    """Write the CSV and the models that the last finished epoch calls for.

    To be called again after a resume, with the restored weights: the run may have been killed
    between the epoch's end and these files.
    """
    run.write_history()
    epoch = run.history[-1]["epoch"]
    if run.best_epoch() == epoch:
        replace_file(run / BEST_MODEL, trainer.classifier.save)
    if epoch % CHECKPOINT_EVERY == 0 and not (run / checkpoint_name(epoch)).exists():
        replace_file(run / checkpoint_name(epoch), trainer.classifier.save)


class EarlyStopping(keras.callbacks.Callback):
    """Stops after `patience` epochs without a lower validation loss; 0: never.

    Goes by the run's history, so that an interrupted run stops where it would have.
    """

    def __init__(self, run: RunDirectory, patience: int):
        super().__init__()
        self.run = run
        self.patience = patience

    def due(self) -> bool:
        """Return whether the finished epochs are enough."""
        return 0 < self.patience <= self.run.epochs_since_lowest_loss()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End the training if it is due."""
        self.model.stop_training = self.due()
