"""What a run writes for TensorBoard: curves, images, histograms, settings and a profile.

The run's history decides which epochs are logged: after a crash, missing epochs are added from it
and surplus ones discarded. The step of an epoch is its number from 0, as in Keras's own callback.
"""

import contextlib
import logging
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorflow.compat.v1 import Summary

from violence_detection.errors import failing_as
from violence_detection.models.classifier import with_attention
from violence_detection.reporting.event_files import (
    EventFile,
    discard,
    histogram_pb,
    image_pb,
    scalar_pb,
    steps_in,
)
from violence_detection.reporting.plots import as_image, four_panels
from violence_detection.runs.directory import Row, RunDirectory
from violence_detection.runs.files import HPARAMS, TENSORBOARD
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CHECKPOINT_EVERY
from violence_detection.settings.schema import CHANGES_ON_RESUME
from violence_detection.storage.files import replace_file
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.predictions import Predicted, predict_with_attention
from violence_detection.training.trainer import Trainer

log = logging.getLogger(__name__)

SIDES = ("train", "validation")  # folders, which TensorBoard draws into one chart
PREDICTED_CLIPS = 256  # for images and attention: they must cost little beside an epoch


class TensorBoardLog(keras.callbacks.Callback):
    """Writes each epoch's figures; every 5 epochs and after the last, images and histograms, too.

    It must come after the callbacks that finish an epoch and that stop the training.

    Args:
        run: whose history is written, into its folder `tensorboard`.
        validation: the validation clips, for the images and the attention.
        batch_size: of the predictions.
        most_clips: if there are more validation clips, an evenly spread sample is predicted.
    """

    def __init__(
        self,
        run: RunDirectory,
        validation: ClipFeatures,
        batch_size: int,
        most_clips: int = PREDICTED_CLIPS,
    ):
        super().__init__()
        self.run = run
        count = min(len(validation), most_clips)
        self.clips = validation.select(np.linspace(0, len(validation) - 1, count).astype(int))
        self.batch_size = batch_size
        self.sample = f"{count:,} of {len(validation):,} validation clips" + (
            ", evenly spread" if count < len(validation) else ""
        )
        self._predictor: keras.Model | None = None
        self._files: dict[str, EventFile] = {}
        # Drawing takes as long as many steps: it is done during the next epoch, and written then.
        self._artist = ThreadPoolExecutor(1, thread_name_prefix="artist")
        self._drawing: tuple[int, Future[tuple[Summary, Summary]]] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Add the finished epochs that are missing; discard what is ahead of the history."""
        self._begin(self.model, last=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch, which is in the history by now."""
        for side in SIDES:
            self._write_row(self.run.history[epoch], side)
        self._write_drawing()
        last = self.model.stop_training or epoch + 1 == self.params["epochs"]
        if last or (epoch + 1) % CHECKPOINT_EVERY == 0:
            self._draw(self.model, epoch)
        self._flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the files."""
        self._write_drawing()
        self._artist.shutdown()
        for file in self._files.values():
            file.close()

    def catch_up(self, trainer: Trainer) -> None:
        """Write what a killed run has left out, if there are no epochs left to train.

        Args:
            trainer: in the state after the last epoch.
        """
        self._begin(trainer, last=True)
        self.on_train_end()

    def _begin(self, trainer: Trainer, last: bool) -> None:
        """Open a new file for each side, and write what is missing of the finished epochs.

        Args:
            last: whether no epoch follows: then the last finished one gets its images in any case.
        """
        steps = {side: self._begin_side(side) for side in SIDES}
        epochs = len(self.run.history)
        drawn = epochs - 1 in steps["validation"]["attention"]
        if epochs and not drawn and (last or epochs % CHECKPOINT_EVERY == 0):
            self._draw(trainer, epochs - 1)
        self._flush()

    def _begin_side(self, side: str) -> dict[str, set[int]]:
        """Open a side's file and write the missing epochs; return the steps of each tag before."""
        history, folder = self.run.history, self.run / TENSORBOARD / side
        steps = steps_in(folder)
        first = 0
        while first < len(history) and all(
            first in steps[tag] for tag in scalars_of(history[first])[side]
        ):
            first += 1
        discard(steps, first)
        self._files[side] = EventFile.start_in(folder, first)
        for row in history[first:]:
            self._write_row(row, side)
        return steps

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()

    def _write_row(self, row: Row, side: str) -> None:
        summary = Summary()
        for tag, value in scalars_of(row)[side].items():
            summary.MergeFrom(scalar_pb(tag, value))
        wall_time = datetime.fromisoformat(row["time"]).timestamp()
        self._files[side].write(row["epoch"] - 1, summary, wall_time)

    def _draw(self, trainer: Trainer, step: int) -> None:
        """Start drawing the weights, the attention and the curves of the validation clips."""
        weights = {
            f"weights/{weight.path}": np.array(keras.ops.convert_to_numpy(weight))
            for weight in trainer.classifier.trainable_weights
        }
        predicted = self._predict(trainer)
        self._drawing = step, self._artist.submit(self._drawn, weights, predicted)

    def _drawn(
        self, weights: Mapping[str, np.ndarray], predicted: Predicted
    ) -> tuple[Summary, Summary]:
        """Return the histograms of the weights, and the curves and attention of the clips."""
        of_weights = Summary()
        for tag, values in weights.items():
            of_weights.MergeFrom(histogram_pb(tag, values, " x ".join(map(str, values.shape))))
        image = as_image(four_panels(self.clips.labels, predicted.probabilities))
        of_clips = image_pb("curves", image, f"Threshold 0.5; {self.sample}")
        words = f"Attention weights of the frames of {self.sample}; a clip's weights sum to 1"
        of_clips.MergeFrom(histogram_pb("attention", predicted.attention, words))
        return of_weights, of_clips

    def _write_drawing(self) -> None:
        """Write what was drawn last; wait for it."""
        if self._drawing is None:
            return
        step, drawn = self._drawing
        self._drawing = None
        for side, summary in zip(SIDES, drawn.result(), strict=True):
            self._files[side].write(step, summary)

    def _predict(self, trainer: Trainer) -> Predicted:
        """Return what the classifier says of the validation clips now."""
        if self._predictor is None:  # kept, so that it is traced once
            # Of several workers, only this one predicts: a strategy of all would wait for them.
            strategy = trainer.distribute_strategy
            alone = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
            with contextlib.nullcontext() if alone else strategy.scope():
                self._predictor = with_attention(trainer.classifier)
        return predict_with_attention(self._predictor, self.clips, self.batch_size)


def scalars_of(row: Row) -> dict[str, dict[str, float]]:
    """Return an epoch's figures by side and tag; unknown ones are left out."""
    scalars: dict[str, dict[str, float]] = {side: {} for side in SIDES}
    for name, value in row.items():
        if name in ("epoch", "time", "seconds") or value is None:
            continue
        if name.startswith("val_"):
            scalars["validation"]["epoch_" + name.removeprefix("val_")] = value
        elif name in ("loss", "accuracy", "auc", "learning_rate"):
            scalars["train"]["epoch_" + name] = value
        elif name in ("loss_scale", "clips_per_second"):
            scalars["train"][name] = value
        else:
            scalars["train"]["hardware/" + name] = value
    return scalars


def write_hparams(
    folder: Path, settings: Mapping[str, Any], metrics: Mapping[str, float | None]
) -> None:
    """Write a run's settings and final figures: a row of TensorBoard's table of runs.

    They replace those that were written before.

    Args:
        folder: TensorBoard's folder of this run.
        settings: by name. Those that do not affect the training are left out.
        metrics: by tag; None for undefined ones, which are left out.

    Raises:
        RunError: they cannot be written.
    """
    values = {
        name: _hparam(value) for name, value in settings.items() if name not in CHANGES_ON_RESUME
    }
    # Without an id, the trial is named after its folder: two runs with equal settings are two rows.
    summary = Summary.FromString(hparams.hparams_pb(values, trial_id="").SerializeToString())
    for tag, value in metrics.items():
        if value is not None:
            summary.MergeFrom(scalar_pb(tag, value))
    # Serialized: these are TensorBoard's own classes of the same messages.
    summary.MergeFromString(session_end_pb(STATUS_SUCCESS).SerializeToString())
    path = folder / HPARAMS

    def write(partial: Path) -> None:
        file = EventFile(path, written_as=partial)
        file.write(0, summary)
        file.close()

    with failing_as(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def _hparam(value: Any) -> bool | float | str:
    """Return a setting as a type that the table accepts; of a path, the last part."""
    if value is None or value in ((), []):
        return "none"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    if isinstance(value, Path) or (isinstance(value, str) and os.sep in value):
        return Path(value).name
    return value


class Profile(keras.callbacks.Callback):
    """Profiles the second call of the training function: the first one traces.

    A call executes up to 16 steps; if that is an epoch, the second epoch is profiled.

    Args:
        folder: TensorBoard's folder of this run.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._calls = 0
        self._first_step: int | None = None  # of the steps that are being profiled

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the profiler at the second call."""
        self._calls += 1
        if self._calls == 2:
            self._first_step = batch
            with failing_as(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            tf.profiler.experimental.start(str(self.folder))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the profile, and log how to view it."""
        if self._first_step is None:
            return
        self.model.optimizer.iterations.numpy()  # waits until the device has finished the steps
        steps = min(batch + 1, self.params["steps"]) - self._first_step
        self.end()
        log.info(
            "profiled %s; to view: pip install xprof\n  tensorboard --logdir %s",
            *(count_of(steps, "step"), quote(str(self.folder))),
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Warn if there was nothing to profile."""
        if self._calls == 1:
            # All were in the first call, which traces.
            log.warning("--profile: too few steps to profile; use more --epochs")

    def end(self) -> None:
        """Stop the profiler; to be called even if the training fails."""
        if self._first_step is not None:
            self._first_step = None
            tf.profiler.experimental.stop()
