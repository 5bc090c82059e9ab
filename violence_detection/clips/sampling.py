"""Samples of a video of any length, read once, from its first frame to its last.

Frames are sampled at an even rate, so that overlapping windows share samples. It runs in a process
of its own (`decoders.stream_from_process`), and imports nothing heavy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from violence_detection.clips.coverage import Coverage
from violence_detection.clips.frames import (
    TIME_TOLERANCE,
    is_sample,
    network_image,
    sample_interval,
)
from violence_detection.clips.stills import block_means, has_moved
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import (
    Frame,
    UnreadableClip,
    VideoInfo,
    frames_of,
    open_video,
)
from violence_detection.errors import UserError
from violence_detection.settings.constants import FRAME_SIZE, SHORTEST_WINDOW


def check_windows(window: float, stride: float) -> None:
    """Raise `UserError` if windows would skip parts of a video, or are too short.

    Args:
        window: the length of a window in seconds.
        stride: from one window's start to the next, in seconds.
    """
    if not window >= SHORTEST_WINDOW:
        raise UserError(f"--window {window:g}: must be at least {SHORTEST_WINDOW:g} seconds")
    if not 0 < stride <= window:
        raise UserError(
            f"--stride {stride:g}: must be above 0 and at most --window ({window:g}), or parts of "
            "the video would be skipped"
        )


Polygon = tuple[tuple[float, float], ...]  # corners, from 0 to 1: left to right, top to bottom


class Sample(NamedTuple):
    """A sampled frame."""

    number: int  # from 0
    time: float  # seconds
    images: np.ndarray | None  # (streams, 224, 224, 3) uint8; None if no window uses them
    moved: bool = True  # something is where it was not when something last moved


class VideoEnd(NamedTuple):
    """A video has been read to its end."""

    share: float  # of it that could be decoded, 0 to 1


@dataclass(frozen=True)
class Sampling:
    """How windows lie over a video, in samples.

    The frames of a window are spaced as those of a clip of its length. Windows start a whole
    number of samples apart, as near to the stride as possible: so each sample is computed once.

    Args:
        window: the length of a window in seconds.
        stride: the requested seconds from one window's start to the next.
        streams: what VGG19 is shown of a frame, some of `STREAMS`.
        frames: samples in a window.
        used: the indices of those that the classifier is given, of `frames`.
        mask: parts of the picture that are not looked at: black in every frame.
    """

    window: float
    stride: float
    streams: tuple[str, ...]
    frames: int
    used: tuple[int, ...]
    mask: tuple[Polygon, ...] = ()

    def interval(self, frames_per_second: float | None) -> float:
        """Return the seconds from sample to sample."""
        if self.frames == 1:
            return self.stride
        return sample_interval(self.window, self.frames, frames_per_second)

    def covers(self, seconds: float | None, frames_per_second: float | None) -> bool:
        """Return whether a window is as long as a whole video, give or take a frame.

        Args:
            seconds: of the video; None if unknown.
            frames_per_second: likewise.
        """
        period = 1 / frames_per_second if frames_per_second else 0.0
        return seconds is not None and seconds <= self.window + period

    @property
    def unit(self) -> int:
        """Every how many samples one is used, if the others only serve to show movement."""
        used = len(self.used)
        return self.frames // used if self.frames % used == 0 else 1

    def is_used(self, number: int) -> bool:
        """Return whether any window uses the images of a sample."""
        return number % self.unit == self.used[0] % self.unit

    def step(self, interval: float) -> int:
        """Return the samples from one window's start to the next.

        Args:
            interval: seconds from sample to sample.
        """
        return self.unit * max(1, round(self.stride / (interval * self.unit)))

    def last_start(self, samples: int) -> int:
        """Return the sample at which the last window starts that fits into `samples`."""
        return (samples - self.frames) // self.unit * self.unit


class Sampler:
    """Turns the frames of a video into samples.

    A sample is the frame nearest to its time, as `is_sample` has it.

    Args:
        sampling: how windows lie over the video.
        frames_per_second: of the video; None if unknown.
    """

    def __init__(self, sampling: Sampling, frames_per_second: float | None):
        self.sampling = sampling
        self.interval = sampling.interval(frames_per_second)
        self._frames_per_second = frames_per_second
        self._start: float | None = None
        self._number = 0
        self._previous: np.ndarray | None = None  # the image of the last sample, RGB
        self._still: tuple[np.ndarray, np.ndarray] | None = None  # an image, and its streams
        self._means: np.ndarray | None = None  # `block_means` when something last moved
        self._pending: tuple[Frame, np.ndarray] | None = None  # may serve later samples, too

    def take(self, frame: Frame) -> Iterator[Sample]:
        """Take the next frame, and yield the samples that are known with it.

        Mostly none; several if frames are rare. Samples after the last frame are never yielded:
        the video is over.
        """
        if self._start is None:
            self._start = frame.time
        if self._pending is not None:
            yield from self._samples(*self._pending, until=frame.time)
            self._pending = None
        if not self._is_nearest(frame):
            return
        decoded = frame.retrieve()
        if decoded is None:
            return
        image = network_image(decoded)
        for polygon in self.sampling.mask:
            corners = np.rint(np.array(polygon) * FRAME_SIZE).astype(np.int32)
            cv2.fillPoly(image, [corners], (0, 0, 0))
        yield from self._samples(frame, image, until=frame.time)
        if self._is_nearest(frame):
            self._pending = frame, image

    def _samples(self, frame: Frame, image: np.ndarray, until: float) -> Iterator[Sample]:
        while self._is_nearest(frame) and self._next_time <= until + TIME_TOLERANCE:
            images = self._images(image) if self.sampling.is_used(self._number) else None
            yield Sample(self._number, frame.time, images, self._has_moved(image))
            self._previous = image
            self._number += 1

    def _has_moved(self, image: np.ndarray) -> bool:
        # Against the frame of the last movement, not the one before: slow movement counts.
        means = block_means(image)
        moved = self._means is not None and has_moved(self._means, means)
        if moved or self._means is None:
            self._means = means
        return moved

    @property
    def _next_time(self) -> float:
        """The time of the next sample, in seconds."""
        assert self._start is not None
        return self._start + self._number * self.interval

    def _is_nearest(self, frame: Frame) -> bool:
        return is_sample(self._next_time, frame.time, frame.position, self._frames_per_second)

    def _images(self, image: np.ndarray) -> np.ndarray:
        if self._still is not None and self._previous is image is self._still[0]:
            return self._still[1]  # a frame that lasts for many samples
        # The first frame of a window has no predecessor: its movement is that of its second.
        pair = np.stack([image if self._previous is None else self._previous, image])
        images = np.stack([stream_images(pair, stream)[1] for stream in self.sampling.streams])
        self._still = (image, images) if self._previous is image else None
        return images


def sample_video(path: Path, sampling: Sampling) -> Iterator[VideoInfo | Sample | VideoEnd]:
    """Yield what a file reports of its video, then its samples, and how much of it was read.

    Raises:
        UnreadableClip: the file is not a video, or none of its frames can be decoded.
    """
    video = open_video(path)
    info = video.info
    yield info
    sampler, coverage = Sampler(sampling, info.frames_per_second), Coverage()
    sampled = False
    for frame in frames_of(video, info.frames_per_second, coverage):
        for sample in sampler.take(frame):
            sampled = True
            yield sample
    if not sampled:
        raise UnreadableClip(video.nothing_decoded)
    yield VideoEnd(video.readable_share(coverage))
