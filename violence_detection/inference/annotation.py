"""A copy of a video with the detector's probability drawn on every frame.

It is written in a decoder process, which loads this module: it imports no heavy library.
"""

import bisect
import contextlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Self, cast

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from violence_detection.clips.decoders import stream_from_process
from violence_detection.clips.video import UnreadableClip, frames_of, open_video
from violence_detection.errors import RunError
from violence_detection.inference.events import Timeline
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import replace_file

YIELD_EVERY = 25  # frames
TICK = Fraction(1, 90_000)  # seconds: the unit of a copy's times
CODECS = {"libx264": "H.264", "mpeg4": "MPEG-4, which few browsers play"}  # the first there is
ENCODING = {"crf": "20", "preset": "veryfast"}  # of H.264
PLAYS_EARLY = {"movflags": "+faststart"}  # in a browser, before all of it is loaded
VIOLENT, NONVIOLENT, INK, BAND = (213, 94, 0), (0, 114, 178), (255, 255, 255), (31, 35, 40)  # RGB


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


class Annotated(NamedTuple):
    """A copy that was written."""

    codec: str
    frames: int

    def __str__(self) -> str:
        count = count_of(self.frames, "frame")
        return f"{self.codec}, {count} at the video's own times, without sound"


def annotate_video(timeline: Timeline, threshold: float, target: Path, timeout: float) -> Annotated:
    """Write a copy of a video, in its size, with the probability on each frame.

    The copy has the times of the video's frames, and no sound. Return what it is.

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

    written = 0

    def write(partial: Path) -> None:
        nonlocal written
        frames = stream_from_process(
            write_annotated, timeline.path, partial, scores, timeout=timeout, ahead=1
        )
        try:
            for written in frames:  # noqa: B007 (the last one counts)
                pass
        except UnreadableClip as error:
            raise RunError(f"--annotate {target}: {timeline.path}: {error}") from error

    replace_file(target, write)
    return Annotated(CODECS[encoder()], written)


def encoder() -> str:
    """Return FFmpeg's name of the encoder of copies: H.264 where there is one."""
    return next(name for name in CODECS if name in av.codecs_available)


def write_annotated(source: Path, target: Path, scores: Scores) -> Iterator[int]:
    """Write the annotated copy of a video, in the process that decodes it.

    Args:
        source: the video.
        target: the copy.
        scores: to draw.

    Yields:
        The number of frames written so far, every 25 frames and at the end: a sign of life.

    Raises:
        UnreadableClip: the video cannot be decoded, or the copy cannot be written.
    """
    video = open_video(source)
    frames = frames_of(video, video.info.frames_per_second)
    image = None
    written = 0
    with contextlib.ExitStack() as stack:
        copy: _Copy | None = None
        for frame in frames:
            decoded = frame.retrieve()
            image = decoded if decoded is not None else image  # a bad frame repeats the previous
            if image is None:
                continue
            if copy is None:
                size = image.shape[1], image.shape[0]
                copy = stack.enter_context(_Copy(target, *size, video.aspect_ratio))
            size = copy.width, copy.height
            shown = cv2.resize(image, size) if image.shape[1::-1] != size else image.copy()
            draw_score(shown, scores.at(frame.time), scores.is_event(frame.time), scores.threshold)
            copy.write(shown, frame.time)
            written += 1
            if written % YIELD_EVERY == 0:
                yield written
    if copy is None:
        raise UnreadableClip(video.nothing_decoded)
    yield written


class _Copy:
    """An mp4 file that is written frame by frame: H.264 where there is an encoder, else MPEG-4.

    Args:
        target: its path.
        width, height: of the frames in pixels. H.264 needs even ones: the last row or column is
            repeated.
        aspect_ratio: width over height as they are displayed: pixels may not be square.
    """

    def __init__(self, target: Path, width: int, height: int, aspect_ratio: float):
        self.width, self.height = width, height
        self._container = av.open(str(target), "w", format="mp4", options=PLAYS_EARLY)
        options = ENCODING if encoder() == "libx264" else {}
        stream = cast(VideoStream, self._container.add_stream(encoder(), options=options))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        pixel = Fraction(aspect_ratio * height / width).limit_denominator(1000)
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = pixel
        stream.codec_context.time_base = stream.time_base = TICK
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._ticks: list[int] = []  # of the last two frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._encode(None)
        self._container.close()

    def write(self, image: np.ndarray, time: float) -> None:
        """Add a frame.

        Args:
            image: `(height, width, 3)` uint8 RGB.
            time: seconds, later than that of the frame before.
        """
        self._ticks = [*self._ticks[-1:], round(time / TICK)]
        odd = self.height % 2, self.width % 2
        if any(odd):
            image = np.pad(image, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.time_base, frame.pts = TICK, self._ticks[-1]
        self._encode(frame)

    def _encode(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._ticks[-1] - self._ticks[0]  # counts for the last one
            self._container.mux(packet)


def draw_score(image: np.ndarray, probability: float, is_event: bool, threshold: float) -> None:
    """Draw the probability as a bar and in words in a band at the bottom of a frame.

    Args:
        image: `(height, width, 3)` uint8 RGB; changed in place.
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
