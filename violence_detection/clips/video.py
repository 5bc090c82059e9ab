"""A video of any length, read once, from its first frame to its last: what VGG19 is shown of it.

Frames are sampled at an even rate, so that windows over the video share what they overlap in. It is
written for a process of its own (`decoding.stream_from_process`), and imports nothing heavy.
"""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from violence_detection.clips.frames import UnreadableClip
from violence_detection.clips.streams import stream_images
from violence_detection.errors import UserError
from violence_detection.settings.constants import FRAME_SIZE

RATES = (1.0, 240.0)  # frames a second; what a file tells beyond that is not believed
USUAL_PERIOD = 1 / 25  # seconds from frame to frame, where neither times nor rate are known
LONGEST_STILL = 60.0  # seconds without a frame; more is a fault of the file's clock
ROUNDING = 1e-5  # seconds
SHORTEST_WINDOW = 0.1  # seconds


def check_windows(window: float, stride: float) -> None:
    """Raise `UserError` if windows would leave parts of a video out, or are too short."""
    if not window >= SHORTEST_WINDOW:
        raise UserError(f"--window {window:g}: must be {SHORTEST_WINDOW:g} seconds or more")
    if not 0 < stride <= window:
        raise UserError(
            f"--stride {stride:g}: must be above 0 and at most --window ({window:g}): else parts "
            "of the video are left out"
        )


class VideoInfo(NamedTuple):
    """What a file tells of its video; None: it does not, or not what can be believed."""

    frames_per_second: float | None
    duration: float | None  # seconds


class Frame(NamedTuple):
    """A frame that is passed by."""

    position: int  # from 0
    time: float  # seconds
    retrieve: Callable[[], np.ndarray | None]  # its image, BGR; None: it cannot be decoded


class Sample(NamedTuple):
    """A frame that was sampled."""

    number: int  # from 0
    time: float  # seconds
    images: np.ndarray | None  # (streams, 224, 224, 3) uint8; None: no window needs them


@dataclass(frozen=True)
class Sampling:
    """How windows lie over a video, in samples.

    A window's frames are spaced as those of a clip of its length. A window begins a whole number of
    samples after the one before, the nearest to the stride that was asked for: so every sample is
    computed once.
    """

    window: float  # seconds
    stride: float  # seconds, as asked for
    streams: tuple[str, ...]
    frames: int  # that are sampled in a window
    used: tuple[int, ...]  # which of these the classifier is given

    def interval(self, frames_per_second: float | None) -> float:
        """Return the seconds from sample to sample."""
        if self.frames == 1:
            return self.stride
        period = 1 / frames_per_second if frames_per_second else 0.0
        return max(self.window - period, self.window / 2) / (self.frames - 1)

    @property
    def unit(self) -> int:
        """Of how many samples one is used, if the others are only there for the movement."""
        used = len(self.used)
        return self.frames // used if self.frames % used == 0 else 1

    def is_used(self, number: int) -> bool:
        """Return whether any window needs the images of a sample."""
        return number % self.unit == self.used[0] % self.unit

    def step(self, interval: float) -> int:
        """Return how many samples after a window the next begins."""
        return self.unit * max(1, round(self.stride / (interval * self.unit)))

    def last_start(self, samples: int) -> int:
        """Return the sample at which the last window begins that fits into `samples`."""
        return (samples - self.frames) // self.unit * self.unit


class Sampler:
    """Takes a video's frames as they come, and makes the samples of them.

    A sample is the frame that is nearest to its time: the first that is shown no earlier than half
    a frame before.
    """

    def __init__(self, sampling: Sampling, frames_per_second: float | None):
        self.sampling = sampling
        self.interval = sampling.interval(frames_per_second)
        self._half = 0.5 / frames_per_second if frames_per_second else 0.0
        self._begin: float | None = None
        self._number = 0
        self._before: np.ndarray | None = None  # the frame of the sample before, RGB
        self._held: tuple[Frame, np.ndarray] | None = None  # nearest to samples after it, too

    def take(self, frame: Frame) -> Iterator[Sample]:
        """Yield the samples that have become known: mostly none; more if frames are rare.

        Those after the last frame of a video are not: it is over.
        """
        if self._begin is None:
            self._begin = frame.time
        if self._held is not None:
            yield from self._samples(*self._held, until=frame.time)
            self._held = None
        if not self._is_nearest(frame):
            return
        decoded = frame.retrieve()
        if decoded is None:
            return
        image = as_network_sees(decoded)
        yield from self._samples(frame, image, until=frame.time)
        if self._is_nearest(frame):
            self._held = frame, image

    def _samples(self, frame: Frame, image: np.ndarray, until: float) -> Iterator[Sample]:
        while self._is_nearest(frame) and self._time <= until + ROUNDING:
            images = self._images(image) if self.sampling.is_used(self._number) else None
            yield Sample(self._number, frame.time, images)
            self._before = image
            self._number += 1

    @property
    def _time(self) -> float:
        """When the next sample is to be, in seconds."""
        assert self._begin is not None
        return self._begin + self._number * self.interval

    def _is_nearest(self, frame: Frame) -> bool:
        early = self._time - frame.time - self._half
        if abs(early) <= ROUNDING and self._half:
            return frame.position % 2 == 0  # in the middle of two: as NumPy rounds
        return early <= ROUNDING

    def _images(self, image: np.ndarray) -> np.ndarray:
        # A window's first frame has none before it, and repeats what its second shows.
        pair = np.stack([image if self._before is None else self._before, image])
        return np.stack([stream_images(pair, stream)[1] for stream in self.sampling.streams])


def as_network_sees(image: np.ndarray) -> np.ndarray:
    """Return a BGR image as `(224, 224, 3)` uint8 RGB."""
    return cv2.cvtColor(cv2.resize(image, (FRAME_SIZE, FRAME_SIZE)), cv2.COLOR_BGR2RGB)


def sample_video(path: Path, sampling: Sampling) -> Iterator[VideoInfo | Sample]:
    """Yield what a file tells of its video, then its samples.

    Raises:
        UnreadableClip: it is no video, or no frame of it can be decoded.
    """
    video = open_video(path)
    info = video_info(video)
    yield info
    sampler = Sampler(sampling, info.frames_per_second)
    sampled = False
    for frame in frames_of(video, info.frames_per_second):
        for sample in sampler.take(frame):
            sampled = True
            yield sample
    if not sampled:
        raise UnreadableClip("no frame can be decoded")


def open_video(path: Path) -> cv2.VideoCapture:
    """Return an open video file; raises `UnreadableClip` if it is none."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UnreadableClip("its name is not valid UTF-8: rename it") from error
    path = path.absolute()  # a name with a colon is not to be taken for a protocol
    if path.stat().st_size == 0:
        raise UnreadableClip("the file is empty")
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not video.isOpened():
        raise UnreadableClip("not a video that FFmpeg can open")
    return video


def video_info(video: cv2.VideoCapture) -> VideoInfo:
    """Return what an open file tells of itself."""
    rate, frames = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    known = math.isfinite(rate) and RATES[0] <= rate <= RATES[1]
    counted = known and math.isfinite(frames) and 1 <= frames < 2**31
    return VideoInfo(rate if known else None, frames / rate if counted else None)


def frames_of(
    video: cv2.VideoCapture, frames_per_second: float | None
) -> Generator[Frame, None, None]:
    """Yield all frames in their order; a time that does not follow the one before is put right."""
    usual = 1 / frames_per_second if frames_per_second else USUAL_PERIOD
    memory: np.ndarray | None = None  # each frame is retrieved into that of the one before

    def retrieve() -> np.ndarray | None:
        nonlocal memory
        decoded, memory = video.retrieve(memory)
        return memory if decoded else None

    time, told_before = 0.0, math.nan
    position = 0
    while video.grab():
        told = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if position == 0:
            time = told if math.isfinite(told) and told > 0 else 0.0
        else:
            passed = told - told_before
            time += passed if 0 < passed <= LONGEST_STILL else usual
        told_before = told
        yield Frame(position, time, retrieve)
        position += 1
    video.release()
