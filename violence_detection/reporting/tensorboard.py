"""What a run writes for TensorBoard: curves, images, histograms, settings and a profile.

The run's history decides which epochs are logged: after a crash, missing epochs are added from it
and surplus ones discarded. Steps are epochs, counted from 1 as everywhere else.

TensorBoard sorts groups of charts by their names, the part of a tag before the slash: loss,
accuracy and learning rate are the first group, `epoch`. What a run is compared by has a folder
of its own: otherwise every curve would be a column of the table of runs.
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
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalars
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
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import HPARAMS, HPARAMS_BEGUN, SESSION, TENSORBOARD
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CHECKPOINT_EVERY
from violence_detection.settings.schema import CHANGES_ON_RESUME
from violence_detection.storage.files import replace_file
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.predictions import Predicted, predict_with_attention
from violence_detection.training.trainer import Trainer

log = logging.getLogger(__name__)

SIDES = ("train", "validation")  # folders, which TensorBoard draws into one chart
FOLDERS = (*SIDES, SESSION)
TAGS = {  # of the figures in a row; others are readings of the hardware
    "loss": "epoch/loss",
    "accuracy": "epoch/accuracy",
    "learning_rate": "epoch/learning_rate",
    "auc": "ranking/auc",
    "loss_scale": "training/loss_scale",
    "clips_per_second": "training/clips_per_second",
}
OF_MODEL = ("val_accuracy", "val_auc", "val_loss")  # figures of the best epoch, by which to compare
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
        number = epoch + 1
        for folder in self._files:
            self._write_epoch(number, folder)
        self._write_drawing()
        last = self.model.stop_training or number == self.params["epochs"]
        if last or number % CHECKPOINT_EVERY == 0:
            self._draw(self.model, number)
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
        """Open a new file in each folder, and write what is missing of the finished epochs.

        Args:
            last: whether no epoch follows: then the last finished one gets its images in any case.
        """
        steps = {folder: self._begin_folder(folder) for folder in FOLDERS}
        epochs = len(self.run.history)
        drawn = epochs in steps["validation"]["validation/attention"]
        if epochs and not drawn and (last or epochs % CHECKPOINT_EVERY == 0):
            self._draw(trainer, epochs)
        self._flush()

    def _begin_folder(self, name: str) -> dict[str, set[int]]:
        """Open a folder's file and write the missing epochs; return the steps of each tag before.

        A log of an earlier version has other tags: all of it is discarded and written anew.
        """
        epochs, folder = len(self.run.history), self.run / TENSORBOARD / name
        steps = steps_in(folder)
        first = 1
        while first <= epochs and all(
            first in steps[tag] for tag in scalars_after(self.run, first)[name]
        ):
            first += 1
        discard(steps, first)
        # Earlier versions counted steps from 0; the settings of the run are at step 0.
        discards_all = first == 1 and name != SESSION
        self._files[name] = EventFile.start_in(folder, 0 if discards_all else first)
        for epoch in range(first, epochs + 1):
            self._write_epoch(epoch, name)
        return steps

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()

    def _write_epoch(self, epoch: int, folder: str) -> None:
        summary = Summary()
        for tag, value in scalars_after(self.run, epoch)[folder].items():
            summary.MergeFrom(scalar_pb(tag, value))
        wall_time = datetime.fromisoformat(self.run.history[epoch - 1]["time"]).timestamp()
        self._files[folder].write(epoch, summary, wall_time)

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
        of_clips = image_pb("validation/curves", image, f"Threshold 0.5; {self.sample}")
        words = f"Attention weights of the frames of {self.sample}; a clip's weights sum to 1"
        of_clips.MergeFrom(histogram_pb("validation/attention", predicted.attention, words))
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


def scalars_after(run: RunDirectory, epoch: int) -> dict[str, dict[str, float]]:
    """Return an epoch's figures by folder and tag, the epoch from 1; unknown ones are left out."""
    scalars: dict[str, dict[str, float]] = {folder: {} for folder in FOLDERS}
    for name, value in run.history[epoch - 1].items():
        if name in ("epoch", "time", "seconds") or value is None:
            continue
        figure, folder = name.removeprefix("val_"), SIDES[name.startswith("val_")]
        scalars[folder][TAGS.get(figure, f"hardware/{figure}")] = value
    best = run.selection.best_epoch(run.history[:epoch])
    for name in OF_MODEL:
        scalars[SESSION][f"model/{name}"] = run.history[best - 1][name]
    return scalars


def begin_hparams(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write a run's settings: a row of TensorBoard's table of runs, also if the run never ends.

    Beside them stands what the tab "custom scalars" draws; that of a resumed run is there already.

    Args:
        folder: TensorBoard's folder of this run.
        settings: by name. Those that do not affect the training are left out.

    Raises:
        RunError: they cannot be written.
    """
    if not (folder / HPARAMS_BEGUN).exists():
        summary = _session_start(settings)
        layout = chart_layout(gpus=bool(tf.config.list_physical_devices("GPU")))
        summary.MergeFromString(custom_scalars.pb(layout).SerializeToString())
        _write_summary(folder / HPARAMS_BEGUN, summary, step=0)


def write_hparams(
    folder: Path, settings: Mapping[str, Any], metrics: Mapping[str, float | None], step: int = 0
) -> None:
    """Write a run's settings and final figures: a row of TensorBoard's table of runs.

    They replace those that were written before.

    Args:
        folder: TensorBoard's folder of this run.
        settings: by name. Those that do not affect the training are left out.
        metrics: by name; None for undefined ones, which are left out.
        step: the number of finished epochs.

    Raises:
        RunError: they cannot be written.
    """
    summary = _session_start(settings)
    for name, value in metrics.items():
        if value is not None:
            summary.MergeFrom(scalar_pb(f"model/{name}", value))
    # Serialized: these are TensorBoard's own classes of the same messages.
    summary.MergeFromString(session_end_pb(STATUS_SUCCESS).SerializeToString())
    _write_summary(folder / HPARAMS, summary, step)
    (folder / Path(HPARAMS).name).unlink(missing_ok=True)  # where an earlier version has put it


def _session_start(settings: Mapping[str, Any]) -> Summary:
    values = {
        name: _hparam(value) for name, value in settings.items() if name not in CHANGES_ON_RESUME
    }
    # Without an id, the trial is named after its folder: two runs with equal settings are two rows.
    return Summary.FromString(hparams.hparams_pb(values, trial_id="").SerializeToString())


def _write_summary(path: Path, summary: Summary, step: int) -> None:
    def write(partial: Path) -> None:
        file = EventFile(path, written_as=partial)
        file.write(step, summary)
        file.close()

    with failing_as(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def chart_layout(gpus: bool) -> layout_pb2.Layout:
    """Return the charts of the tab "custom scalars": several curves in one, and in this order.

    Args:
        gpus: whether power and temperature are known.
    """

    def chart(title: str, *tags: str) -> layout_pb2.Chart:
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))

    of_epochs = [
        chart(title, f"^{tag}$")
        for title, tag in (
            ("loss", TAGS["loss"]),
            ("accuracy", TAGS["accuracy"]),
            ("learning rate", TAGS["learning_rate"]),
            ("ROC-AUC", TAGS["auc"]),
        )
    ]
    of_hardware = [  # all GPUs in one chart, which are a chart each in other tabs
        chart("utilization, %", r"^hardware/(gpu\d+|cpu)_utilization$"),
        chart("memory, MB", r"^hardware/(gpu\d+_)?memory_mb$"),
    ]
    if gpus:
        of_hardware.append(chart("power, W", r"^hardware/gpu\d+_power$"))
        of_hardware.append(chart("temperature, °C", r"^hardware/gpu\d+_temperature$"))
    categories = {"by epoch": of_epochs, "hardware": of_hardware}
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=charts) for title, charts in categories.items()
        ]
    )


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
