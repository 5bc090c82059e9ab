"""What happens at an epoch's end: checkpoints, CSV, early stopping."""

import logging
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import keras
import numpy as np

from config import CHECKPOINT_EVERY
from durable_files import replace_file
from errors import RunError, end_if_told
from model_architecture import as_plain_keras
from run_directory import BEST_MODEL, Inputs, RunDirectory, checkpoint_name
from run_log import log
from training import Trainer

WRITTEN_AGAIN = (
    "%s is damaged, gone or of another run (its checksum differs): it is written again from %s"
)


class EndIfTold(keras.callbacks.Callback):
    """Ends the training between two calls of the device when a signal has told it to."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End in the middle of an epoch."""
        end_if_told()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End in the middle of a validation."""
        end_if_told()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End before the next epoch."""
        end_if_told()


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
        started: when the command was, by `time.perf_counter`.
        on_screen: else only in the log.
    """

    def __init__(self, started: float, on_screen: bool):
        super().__init__()
        self.started: float | None = started
        self.level = logging.INFO if on_screen else logging.DEBUG

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Say it, if it was not said."""
        if self.started is not None:
            log.log(self.level, "first step after %.1f s", time.perf_counter() - self.started)
            self.started = None


class FinishEpoch(keras.callbacks.Callback):
    """Makes every epoch durable as it ends, with its figures, the best and the periodic models.

    Args:
        run: where to.
        inputs: what the run is computed from; it may only be resumed on the same.
        clips: trained on in an epoch.
        on_screen: say each epoch in a line on the screen, too (it is in the log in any case).
    """

    def __init__(self, run: RunDirectory, inputs: Inputs, clips: int, on_screen: bool):
        super().__init__()
        self.run = run
        self.inputs = inputs
        self.clips = clips
        self.level = logging.INFO if on_screen else logging.DEBUG

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
            "seconds": time.perf_counter() - self._started,
            "clips_per_second": self.clips / (self._trained - self._started),
        }
        self.run.finish_epoch(row, self.inputs, self.model.save_state)
        write_models_of_last_epoch(self.run, self.model)
        log.log(
            self.level,
            "epoch %3d  loss %.4f accuracy %.3f  validation %.4f %.3f  rate %.1e  %.1f s%s",
            epoch + 1,
            *(row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")),
            row["learning_rate"],
            row["seconds"],
            "  best" if self.run.best_epoch() == epoch + 1 else "",
        )


def write_models_of_last_epoch(run: RunDirectory, trainer: Trainer) -> None:
    """Write the CSV and the models that the last finished epoch calls for.

    To be called again after a resume, with the restored weights: the run may have been killed
    between the epoch's end and these files.
    """
    run.write_history()
    epoch = run.history[-1]["epoch"]
    names = [BEST_MODEL] if run.best_epoch() == epoch else []
    if epoch % CHECKPOINT_EVERY == 0:
        names.append(checkpoint_name(epoch))
    names = [name for name in names if not run.is_vouched_for(name, epoch)]
    for name in names:
        if (run / name).exists() and not run.is_vouched_for(name):
            log.warning(WRITTEN_AGAIN, run / name, "the last epoch's weights")
    if names:
        write_models(run, trainer, names, epoch)


def write_models(run: RunDirectory, trainer: Trainer, names: Sequence[str], epoch: int) -> None:
    """Write the trainer's classifier, as it is after `epoch`, under each name."""
    model = as_plain_keras(trainer.classifier)
    for name in names:
        replace_file(run / name, model.save)
        run.vouch_for(name, epoch)


def make_good_best_model(run: RunDirectory, trainer: Trainer) -> None:
    """Write the best model again, from its epoch's weights, if it is not as it was written.

    Raises:
        RunError: those weights are damaged, too.
    """
    epoch = run.best_epoch()
    if run.is_vouched_for(BEST_MODEL, epoch):
        return
    weights = run.whole_weights_after(epoch)
    log.warning(WRITTEN_AGAIN, run / BEST_MODEL, weights)
    trainer.load_state(weights)
    write_models(run, trainer, [BEST_MODEL], epoch)


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
