"""TensorBoard's event files: writing them, and reading which steps they have.

Event files are only ever appended to. Where a killed run has left out an epoch, or has gone back
behind one, a new file begins with the message by which TensorBoard discards all from a step on.
"""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compat.v1 import Event, HistogramProto, SessionLog, Summary, SummaryMetadata

from violence_detection.errors import failing_as

BUCKETS = 30  # of a histogram, TensorBoard's own number


class EventFile:
    """An event file that is being written: a TFRecord file of TensorBoard's `Event` messages.

    `tf.summary` cannot write an event with an earlier time, or the message that discards events;
    tensorboardX hangs once the disk is full.

    Args:
        path: of the file.
        written_as: where it is written until it is complete; None: at `path`.

    Raises:
        RunError: also from all methods, if the file cannot be written.
    """

    def __init__(self, path: Path, written_as: Path | None = None):
        self.path = path
        with self._failing():
            self._records = tf.io.TFRecordWriter(str(written_as or path))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @classmethod
    def start_in(cls, folder: Path, first_step: int) -> "EventFile":
        """Start a new file, the last in a folder, that discards all events from a step on."""
        with failing_as(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names: this must be the last, even if the
        # clock was set back.
        name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        file = cls(folder / max([name, *(f"{path.name}.1" for path in event_files(folder))]))
        # Twice: TensorBoard ignores the first such message of a folder.
        for _ in range(2):
            start = SessionLog(status=SessionLog.START)
            file._add(Event(wall_time=time.time(), step=first_step, session_log=start))
        return file

    def write(self, step: int, summary: Summary, wall_time: float | None = None) -> None:
        """Add values of a step, in one record: either all of them are written or none.

        Args:
            step: of the values.
            summary: the values.
            wall_time: seconds since 1970; None: now.
        """
        self._add(Event(wall_time=wall_time or time.time(), step=step, summary=summary))

    def _add(self, event: Event) -> None:
        with self._failing():
            self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Pass all events to the operating system."""
        with self._failing():
            self._records.flush()

    def close(self) -> None:
        """Close the file."""
        with self._failing():
            self._records.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        with failing_as(self.path):
            try:
                yield
            except tf.errors.OpError as error:
                raise OSError(error.message) from error


def event_files(folder: Path) -> list[Path]:
    """Return a folder's event files, in the order in which TensorBoard reads them."""
    return sorted(folder.glob("*tfevents*"))


def steps_in(folder: Path) -> dict[str, set[int]]:
    """Return the steps of each tag in a folder's event files; a torn record ends a file."""
    found: dict[str, set[int]] = defaultdict(set)
    for path in event_files(folder):
        for event in _events_in(path):
            if event.session_log.status == SessionLog.START:
                discard(found, event.step)
            for value in event.summary.value:
                found[value.tag].add(event.step)
    return found


def _events_in(path: Path) -> Iterator[Event]:
    with contextlib.suppress(tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield Event.FromString(record)


def discard(steps_of: dict[str, set[int]], first_step: int) -> None:
    """Remove the steps from `first_step` on, in place."""
    for tag, steps in steps_of.items():
        steps_of[tag] = {step for step in steps if step < first_step}


def scalar_pb(tag: str, value: float) -> Summary:
    """Return a number in a summary."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def histogram_pb(tag: str, values: np.ndarray, description: str) -> Summary:
    """Return a histogram of values of any shape; infinite values and nan are left out."""
    counts, edges = np.histogram(values[np.isfinite(values)], BUCKETS)
    histogram = HistogramProto(
        min=edges[0], max=edges[-1], num=counts.sum(), bucket_limit=edges[1:], bucket=counts
    )
    return _summary_of(tag, description, "histograms", histo=histogram)


def image_pb(tag: str, image: np.ndarray, description: str) -> Summary:
    """Return an image, `(height, width, 3 or 4)` uint8, as a PNG file in a summary."""
    height, width, channels = image.shape
    png = tf.io.encode_png(image).numpy()
    encoded = Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=png
    )
    return _summary_of(tag, description, "images", image=encoded)


def _summary_of(tag: str, description: str, plugin: str, **value: Any) -> Summary:
    shown_by = SummaryMetadata.PluginData(plugin_name=plugin)
    metadata = SummaryMetadata(summary_description=description, plugin_data=shown_by)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, **value)])
