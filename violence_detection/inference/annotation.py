"""A copy of a video with the detector's probability drawn on every frame.

It is written in a decoder process, which loads this module: it imports no heavy library.
"""

import bisect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from violence_detection.clips.decoders import stream_from_process
from violence_detection.clips.video import (
    DEFAULT_PERIOD,
    UnreadableClip,
    frames_of,
    open_video,
)
from violence_detection.errors import RunError
from violence_detection.inference.events import Timeline
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import replace_file

YIELD_EVERY = 25  # frames
VIOLENT, NONVIOLENT, INK, BAND = (0, 94, 213), (178, 114, 0), (255, 255, 255), (40, 35, 31)  # BGR


class Scores(NamedTuple):
    """A timeline as plain numbers, to be sent to another process."""

    middles: Sequence[float]  # of the windows, in seconds, ascending
    probabilities: Sequence[float]  # of the windows
    events: Sequence[tuple[float, float]]  # start and end in seconds, ascending
    threshold: float

    def at(self, time: float) -> float:
        """Return the probability of the window whose middle is nearest to a time in seconds."""
        after = bisect.bisect(self.middles, time)
        near = range(max(0, after - 1), min(len(self.middles), after + 1))
        return self.probabilities[min(near, key=lambda n: abs(self.middles[n] - time))]

    def is_event(self, time: float) -> bool:
        """Return whether a time in seconds is part of an event."""
        before = bisect.bisect(self.events, (time, math.inf)) - 1
        return before >= 0 and time <= self.events[before][1]


def annotate_video(timeline: Timeline, threshold: float, target: Path, timeout: float) -> None:
    """Write a copy of a video, in its size and frame rate, with the probability on each frame.

    The copy has no sound. If the frame rate varies, it has the mean rate.

    Args:
        timeline: of the video, with at least one window.
        threshold: of the probability.
        target: the copy's path, ending in .mp4.
        timeout: seconds that 25 frames may take.

    Raises:
        RunError: the copy cannot be written, or the video cannot be read again.
    """
    scores = Scores(
        [window.middle for window in timeline.windows],
        [window.probability for window in timeline.windows],
        [(event.start, event.end) for event in timeline.events],
        threshold,
    )

    def write(partial: Path) -> None:
        frames = stream_from_process(
            write_annotated, timeline.path, partial, scores, timeout=timeout, ahead=1
        )
        try:
            for _ in frames:
                pass
        except UnreadableClip as error:
            raise RunError(f"--annotate {target}: {timeline.path}: {error}") from error

    replace_file(target, write)


def write_annotated(source: Path, target: Path, scores: Scores) -> Iterator[int]:
    """Write the annotated copy of a video, in the process that decodes it.

    Args:
        source: the video.
        target: the copy.
        scores: to draw.

    Yields:
        The number of frames written so far, every 25 frames: a sign of life.

    Raises:
        UnreadableClip: the video cannot be decoded, or the copy cannot be written.
    """
    video = open_video(source)
    rate = video.info.frames_per_second
    writer = None
    image = None
    written = 0
    for frame in frames_of(video, rate):
        decoded = frame.retrieve()
        image = decoded if decoded is not None else image  # a damaged frame repeats the previous
        if image is None:
            continue
        if writer is None:
            size = image.shape[1], image.shape[0]
            writer = _open_writer(target, rate or 1 / DEFAULT_PERIOD, size)
        shown = cv2.resize(image, size) if image.shape[1::-1] != size else image.copy()
        draw_score(shown, scores.at(frame.time), scores.is_event(frame.time), scores.threshold)
        writer.write(shown)
        written += 1
        if written % YIELD_EVERY == 0:
            yield written
    if writer is None:
        raise UnreadableClip("no frame can be decoded")
    writer.release()
    _require_complete(target, written)


def _open_writer(target: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise UnreadableClip("OpenCV cannot write an mp4 video of this size")
    return writer


def _require_complete(target: Path, written: int) -> None:
    """Raise if frames are missing: OpenCV does not report a full disk."""
    video = cv2.VideoCapture(str(target), cv2.CAP_FFMPEG)
    found = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    if found != written:
        raise UnreadableClip(f"only {found} of {written} frames were written: is the disk full?")


def draw_score(image: np.ndarray, probability: float, is_event: bool, threshold: float) -> None:
    """Draw the probability as a bar and in words in a band at the bottom of a frame.

    Args:
        image: `(height, width, 3)` uint8 BGR; changed in place.
        probability: of violence.
        is_event: whether to draw a border.
        threshold: drawn as a mark on the bar.
    """
    height, width = image.shape[:2]
    band = max(12, height // 14)
    top = height - band
    image[top:] = BAND
    colour = VIOLENT if probability >= threshold else NONVIOLENT
    image[top + band // 6 : height - band // 6, : round(probability * width)] = colour
    mark = min(width - 1, round(threshold * width))
    image[top:, max(0, mark - 1) : mark + 1] = INK
    text = f"{CLASS_NAMES[int(probability >= threshold)]} {probability:.2f}"
    font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, band / 32, max(1, band // 20)
    origin = band // 3, height - band // 3
    cv2.putText(image, text, origin, font, scale, INK, thickness, cv2.LINE_AA)
    if is_event:
        cv2.rectangle(image, (0, 0), (width - 1, top - 1), VIOLENT, max(2, height // 120))
