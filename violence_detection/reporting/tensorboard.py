"""What a run shows in TensorBoard: curves, images, histograms, its settings, a profile.

The history of the run says which epochs there are. Event files are only ever added to: where a
killed run left an epoch out, or went back behind one, a new file begins with the message by which
TensorBoard discards what it has from that step on, and the epochs follow from the history. An
epoch's step is its number from 0, as in Keras's own callback.
"""

import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.util.tensor_util import make_tensor_proto

from violence_detection.errors import failing_as
from violence_detection.models.classifier import with_attention
from violence_detection.reporting.plots import as_image, four_panels
from violence_detection.runs.directory import Row, RunDirectory
from violence_detection.runs.files import TENSORBOARD
from violence_detection.settings.constants import CHECKPOINT_EVERY
from violence_detection.settings.schema import CHANGES_ON_RESUME
from violence_detection.storage.files import replace_file
from violence_detection.training.batches import (
    ClipFeatures,
    evaluation_batches,
    read_errors,
    steps_per_epoch,
)
from violence_detection.training.trainer import Trainer

log = logging.getLogger(__name__)

SIDES = ("train", "validation")  # the folders: TensorBoard draws them into one chart
PREDICTED_CLIPS = 256  # of validation, for images and attention: a look must not cost an epoch
BUCKETS = 30  # of a histogram, as many as TensorBoard makes itself
HPARAMS_FILE = "events.out.tfevents.hparams"


class TensorBoardLog(keras.callbacks.Callback):
    """Writes each epoch's figures; every 5 epochs and at the last, images and histograms, too.

    It has to stand after what finishes the epoch and what stops the training.

    Args:
        run: whose history is written, into its folder `tensorboard`.
        validation: clips that the curves and the attention are of; of more than 256, so many,
            evenly spread.
        batch_size: that they are judged in.
    """

    def __init__(self, run: RunDirectory, validation: ClipFeatures, batch_size: int):
        super().__init__()
        self.run = run
        judged = min(len(validation), PREDICTED_CLIPS)
        self.clips = validation.of(np.linspace(0, len(validation) - 1, judged).astype(int))
        self.batch_size = batch_size
        self.which = f"{judged:,} of {len(validation):,} validation clips" + (
            ", evenly spread" if judged < len(validation) else ""
        )
        self._judge: keras.Model | None = None
        self._files: dict[str, _EventFile] = {}
        # Drawn beside the next epoch, and written with it: drawing takes as long as many steps.
        self._artist = ThreadPoolExecutor(1, thread_name_prefix="artist")
        self._drawing: tuple[int, Future[tuple[Summary, Summary]]] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Bring the log to the finished epochs: nothing of them is missing, nothing is ahead."""
        self._begin(self.model, last=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch, which the history has by now."""
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
        """Write what a killed run left out, where no epoch is left to train.

        Args:
            trainer: as it is after the last epoch.
        """
        self._begin(trainer, last=True)
        self.on_train_end()

    def _begin(self, trainer: Trainer, last: bool) -> None:
        """Open a new file for each side, and write what is missing of the finished epochs.

        Args:
            last: no epoch follows: the last finished one gets its images in any case.
        """
        held = {side: self._begin_side(side) for side in SIDES}
        epochs = len(self.run.history)
        drawn = epochs - 1 in held["validation"]["attention"]
        if epochs and not drawn and (last or epochs % CHECKPOINT_EVERY == 0):
            self._draw(trainer, epochs - 1)
        self._flush()

    def _begin_side(self, side: str) -> dict[str, set[int]]:
        """Open a side's file and write the missing epochs; return the steps that were there."""
        history, folder = self.run.history, self.run / TENSORBOARD / side
        held = steps_held(folder)
        first = 0
        while first < len(history) and all(
            first in held[tag] for tag in scalars_of(history[first])[side]
        ):
            first += 1
        _discard(held, first)
        self._files[side] = _EventFile.begun_in(folder, first)
        for row in history[first:]:
            self._write_row(row, side)
        return held

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
        """Begin to draw the weights, the attention and the curves of the validation clips."""
        weights = {
            f"weights/{weight.path}": np.array(keras.ops.convert_to_numpy(weight))
            for weight in trainer.classifier.trainable_weights
        }
        judged = self._judged(trainer)
        self._drawing = step, self._artist.submit(self._drawn, weights, *judged)

    def _drawn(
        self, weights: Mapping[str, np.ndarray], probabilities: np.ndarray, attention: np.ndarray
    ) -> tuple[Summary, Summary]:
        """Return the histograms of the weights; the curves and the histogram of the attention."""
        of_weights = Summary()
        for tag, values in weights.items():
            of_weights.MergeFrom(histogram_pb(tag, values, " x ".join(map(str, values.shape))))
        image = as_image(four_panels(self.clips.labels, probabilities))
        of_clips = image_pb("curves", image, f"Threshold 0.5; {self.which}")
        words = f"Weight of each frame of {self.which}: those of a clip sum to 1"
        of_clips.MergeFrom(histogram_pb("attention", attention, words))
        return of_weights, of_clips

    def _write_drawing(self) -> None:
        """Write what was drawn last, once it is there."""
        if self._drawing is None:
            return
        step, drawn = self._drawing
        self._drawing = None
        for side, summary in zip(SIDES, drawn.result(), strict=True):
            self._files[side].write(step, summary)

    def _judged(self, trainer: Trainer) -> tuple[np.ndarray, np.ndarray]:
        """Return `(clips,)` probabilities of violence and `(clips, frames)` attention weights."""
        if self._judge is None:  # kept, so that it is traced once
            # Of several workers, this one alone judges: not by what waits for the others.
            strategy = trainer.distribute_strategy
            alone = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
            with contextlib.nullcontext() if alone else strategy.scope():
                self._judge = with_attention(trainer.classifier)
        batches = evaluation_batches(self.clips, self.batch_size)
        steps = steps_per_epoch(len(self.clips), self.batch_size)
        with read_errors([self.clips]):
            judged = self._judge.predict(batches.map(lambda x, *_: x), steps=steps, verbose=0)
        count = len(self.clips)
        return judged["violence"][:count, 0], judged["attention"][:count]


class _EventFile:
    """An event file: a TFRecord file of TensorBoard's `Event` messages.

    `tf.summary` would give an epoch that is filled in the time of its filling in, and has no word
    for discarding.
    """

    def __init__(self, path: Path, written_as: Path | None = None):
        self.path = path
        with self._failing():
            self._records = tf.io.TFRecordWriter(str(written_as or path))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @classmethod
    def begun_in(cls, folder: Path, first_step: int) -> "_EventFile":
        """Return a new file, the last in a folder; what the others have from a step on is void."""
        with failing_as(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads them in the order of their names: it has to be the last, also if the
        # clock was set back.
        name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        file = cls(folder / max([name, *(f"{path.name}.1" for path in event_files(folder))]))
        # Twice: TensorBoard takes the first of a folder for the beginning, and discards nothing.
        for _ in range(2):
            start = SessionLog(status=SessionLog.START)
            file._add(Event(wall_time=time.time(), step=first_step, session_log=start))
        return file

    def write(self, step: int, summary: Summary, wall_time: float | None = None) -> None:
        """Add values of a step: all in one record, so that they are there together or not at all.

        Args:
            wall_time: seconds since 1970; None: now.
        """
        self._add(Event(wall_time=wall_time or time.time(), step=step, summary=summary))

    def _add(self, event: Event) -> None:
        with self._failing():
            self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Hand everything to the operating system."""
        with self._failing():
            self._records.flush()

    def close(self) -> None:
        """End the file."""
        with self._failing():
            self._records.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        with failing_as(self.path):
            try:
                yield
            except tf.errors.OpError as error:
                raise OSError(error.message) from error


def scalars_of(row: Row) -> dict[str, dict[str, float]]:
    """Return an epoch's figures by side and tag; what is not known is left out."""
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


def event_files(folder: Path) -> list[Path]:
    """Return a folder's event files, in the order in which TensorBoard reads them."""
    return sorted(folder.glob("*tfevents*"))


def steps_held(folder: Path) -> dict[str, set[int]]:
    """Return the steps that a folder's event files have of each tag; a torn record ends a file."""
    held: dict[str, set[int]] = defaultdict(set)
    for path in event_files(folder):
        for event in EventFileLoader(str(path)).Load():
            if event.session_log.status == SessionLog.START:
                _discard(held, event.step)
            for value in event.summary.value:
                held[value.tag].add(event.step)
    return held


def _discard(held: dict[str, set[int]], first_step: int) -> None:
    for tag, steps in held.items():
        held[tag] = {step for step in steps if step < first_step}


def histogram_pb(tag: str, values: np.ndarray, description: str) -> Summary:
    """Return a histogram of values of any shape; those that are no finite numbers are left out.

    TensorBoard's own function of this name compares every value with every bucket.
    """
    counts, edges = np.histogram(values[np.isfinite(values)], BUCKETS)
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    tensor = make_tensor_proto(buckets, dtype=np.float64)
    kind = histogram_metadata.create_summary_metadata(display_name=None, description=description)
    return _summary_of(tag, tensor, kind)


def image_pb(tag: str, image: np.ndarray, description: str) -> Summary:
    """Return an image, `(height, width, 3 or 4)` uint8, as a PNG."""
    height, width, _ = image.shape
    png = tf.io.encode_png(image).numpy()
    tensor = make_tensor_proto([str(width).encode(), str(height).encode(), png])
    kind = image_metadata.create_summary_metadata(display_name=None, description=description)
    return _summary_of(tag, tensor, kind)


def _summary_of(tag: str, tensor: Any, kind: SummaryMetadata) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=kind)])


def write_hparams(
    folder: Path, settings: Mapping[str, Any], metrics: Mapping[str, float | None]
) -> None:
    """Write a run's settings and its final figures, a line of TensorBoard's table of runs.

    Done again, it takes the place of what was written before.

    Args:
        folder: TensorBoard's of this run; what it shows is one or several such folders.
        settings: by name. Those that decide nothing in the training are left out.
        metrics: by tag; None: not defined, left out.
    """
    shown = {
        name: _shown(value) for name, value in settings.items() if name not in CHANGES_ON_RESUME
    }
    # The trial is named after its folder: two runs of the same settings are two lines.
    summary = hparams.hparams_pb(shown, trial_id="")
    for tag, value in metrics.items():
        if value is not None:
            summary.MergeFrom(scalar_pb(tag, value))
    # Of TensorFlow's class for the same message.
    summary.MergeFromString(session_end_pb(STATUS_SUCCESS).SerializeToString())
    path = folder / HPARAMS_FILE

    def write(partial: Path) -> None:
        file = _EventFile(path, written_as=partial)
        file.write(0, summary)
        file.close()

    with failing_as(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def _shown(value: Any) -> bool | float | str:
    """Return a setting as the table can show it: of a path its last part."""
    if value is None or value in ((), []):
        return "none"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    if isinstance(value, Path) or (isinstance(value, str) and os.sep in value):
        return Path(value).name
    return value


class Profile(keras.callbacks.Callback):
    """Records the second call of the device in detail: the first one traces.

    A call makes up to 16 steps; where that is an epoch, it is the second epoch.

    Args:
        folder: TensorBoard's of this run.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._calls = 0
        self._first_step: int | None = None  # of those that are being recorded

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin to record, the second time."""
        self._calls += 1
        if self._calls == 2:
            self._first_step = batch
            with failing_as(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            tf.profiler.experimental.start(str(self.folder))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write what was recorded, and say how to look at it."""
        if self._first_step is None:
            return
        self.model.optimizer.iterations.numpy()  # once the device has made the steps
        steps = min(batch + 1, self.params["steps"]) - self._first_step
        self.end()
        log.info(
            "profile of %d steps: pip install xprof, then tensorboard --logdir %s, page Profile",
            steps,
            self.folder,
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Say so if there was nothing to record."""
        if self._calls == 1:
            log.warning(
                "--profile: the first steps, in which the program is traced, were the only ones: "
                "nothing was recorded. Give more --epochs"
            )

    def end(self) -> None:
        """Stop recording; to be called if the training fails, or the recording would go on."""
        if self._first_step is not None:
            self._first_step = None
            tf.profiler.experimental.stop()
