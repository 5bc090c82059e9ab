"""A video written anew with the detector's score on every frame.

It is written in a process of its own, as reading is, and imports nothing heavy.
"""

import bisect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from violence_detection.clips.decoders import stream_from_process
from violence_detection.clips.frames import UnreadableClip
from violence_detection.clips.video import USUAL_PERIOD, frames_of, open_video, video_info
from violence_detection.errors import RunError
from violence_detection.inference.events import Timeline
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import replace_file

REPORT_EVERY = 25  # frames
VIOLENT, NONVIOLENT, INK, BAND = (0, 94, 213), (178, 114, 0), (255, 255, 255), (40, 35, 31)  # BGR


class Scores(NamedTuple):
    """A timeline as plain numbers."""

    middles: Sequence[float]  # seconds, of the windows
    probabilities: Sequence[float]
    events: Sequence[tuple[float, float]]  # start and end, seconds, in their order
    threshold: float

    def at(self, time: float) -> float:
        """Return the probability of the window whose middle is nearest."""
        after = bisect.bisect(self.middles, time)
        near = range(max(0, after - 1), min(len(self.middles), after + 1))
        return self.probabilities[min(near, key=lambda n: abs(self.middles[n] - time))]

    def is_event(self, time: float) -> bool:
        """Return whether violence was found at that time."""
        before = bisect.bisect(self.events, (time, math.inf)) - 1
        return before >= 0 and time <= self.events[before][1]


def annotate_video(timeline: Timeline, threshold: float, target: Path, timeout: float) -> None:
    """Write a video's pictures again, in their size and at their rate, with the score on each.

    Without sound. A video of uneven rate is written at its mean rate.

    Args:
        timeline: of at least one window.
        target: a name ending in .mp4.
        timeout: seconds that some frames may take.

    Raises:
        RunError: it cannot be written, or not be read again.
    """
    scores = Scores(
        [window.middle for window in timeline.windows],
        [window.probability for window in timeline.windows],
        [(event.start, event.end) for event in timeline.events],
        threshold,
    )

    def write(partial: Path) -> None:
        frames = stream_from_process(
            write_annotated, timeline.path, partial, *scores, timeout=timeout, ahead=1
        )
        try:
            for _ in frames:
                pass
        except UnreadableClip as error:
            raise RunError(f"--annotate {target}: {timeline.path}: {error}") from error

    replace_file(target, write)


def write_annotated(source: Path, target: Path, *numbers: object) -> Iterator[int]:
    """Write a video with scores on it; yield how many frames are written, now and then."""
    scores = Scores(*numbers)  # type: ignore[arg-type]
    video = open_video(source)
    rate = video_info(video).frames_per_second
    writer = None
    image = None
    written = 0
    for frame in frames_of(video, rate):
        decoded = frame.retrieve()
        image = decoded if decoded is not None else image  # else the one before once more
        if image is None:
            continue
        if writer is None:
            size = image.shape[1], image.shape[0]
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(target), codec, rate or 1 / USUAL_PERIOD, size)
            if not writer.isOpened():
                raise UnreadableClip("OpenCV cannot write mp4 video of that size here")
        shown = cv2.resize(image, size) if image.shape[1::-1] != size else image.copy()
        draw_score(shown, scores.at(frame.time), scores.is_event(frame.time), scores.threshold)
        writer.write(shown)
        written += 1
        if written % REPORT_EVERY == 0:
            yield written
    if writer is None:
        raise UnreadableClip("no frame can be decoded")
    writer.release()
    _require_whole(target, written)


def _require_whole(target: Path, written: int) -> None:
    """Raise if a file lacks frames: OpenCV does not tell of a disk that is full."""
    video = cv2.VideoCapture(str(target), cv2.CAP_FFMPEG)
    found = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    if found != written:
        raise UnreadableClip(f"of {written} frames, {found} were written: is the disk full?")


def draw_score(image: np.ndarray, probability: float, is_event: bool, threshold: float) -> None:
    """Draw the score on a frame: a band at its foot with a bar, the threshold, and in words.

    Args:
        image: `(height, width, 3)` uint8 BGR; it is drawn on.
        is_event: also draw a border.
    """
    height, width = image.shape[:2]
    band = max(12, height // 14)
    top = height - band
    image[top:] = BAND
    colour = VIOLENT if probability >= threshold else NONVIOLENT
    image[top + band // 6 : height - band // 6, : round(probability * width)] = colour
    place = min(width - 1, round(threshold * width))
    image[top:, max(0, place - 1) : place + 1] = INK
    words = f"{CLASS_NAMES[int(probability >= threshold)]} {probability:.2f}"
    size, thick = band / 32, max(1, band // 20)
    left, foot = band // 3, height - band // 3
    cv2.putText(image, words, (left, foot), cv2.FONT_HERSHEY_SIMPLEX, size, INK, thick, cv2.LINE_AA)
    if is_event:
        cv2.rectangle(image, (0, 0), (width - 1, top - 1), VIOLENT, max(2, height // 120))
