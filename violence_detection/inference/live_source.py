"""A camera, a stream of the network, or a file played at its own rate: samples as they arrive.

It is read in a process of its own, which may hang or die: a source that is lost is connected to
again, and the program goes on. Imports nothing heavy.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import cv2
import numpy as np

from violence_detection.clips.decoders import stream_from_process
from violence_detection.clips.sampling import Sample, Sampler, Sampling
from violence_detection.clips.video import Frame, UnreadableClip, frames_of, open_video, video_info
from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import Interrupted

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp")
TALLY_EVERY = 1.0  # seconds
AHEAD = 8  # items between the two processes: they are taken at once
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a lost source is connected to again


@dataclass(frozen=True)
class Source:
    """Where frames come from."""

    name: str  # as the user gave it: it may hold a password
    kind: str  # "camera", "network" or "file"

    @property
    def display_name(self) -> str:
        """The name without what may be secret: user, password, and parts of the form a=b."""
        if self.kind == "camera":
            return f"camera {self.name}"
        if self.kind == "file":
            return self.name
        address = urlsplit(self.name)
        parts = ["…" if "=" in part else part for part in address.path.split("/")]
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{'/'.join(parts)}"


def parse_source(name: str) -> Source:
    """Return the source that is named: an address, a camera's number, or a file.

    Raises:
        UserError: it is none of these.
    """
    if name.isascii() and name.isdigit():
        return Source(name, "camera")
    if "://" not in name:
        if not Path(name).is_file():
            raise UserError(
                f"--source {name}: no such file (or a camera's number, 0 is the first, or an "
                "address as rtsp://…)"
            )
        return Source(name, "file")
    scheme = name.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise UserError(f"--source {scheme}://…: must begin with {'://, '.join(SCHEMES)}://")
    try:
        address = urlsplit(name)
        is_known = bool(address.hostname) and (address.port is None or address.port > 0)
    except ValueError:
        is_known = False
    if not is_known:  # what it is, is not shown: it may hold a password
        raise UserError(f"--source {scheme}://…: there is no server's name in it, or a wrong port")
    return Source(name, "network")


class NotLive(UnreadableClip):
    """An address of a file, which comes as fast as it can be sent."""


class Begun(NamedTuple):
    """Frames begin to come; what came before does not belong to them."""

    frames_per_second: float | None  # as the source tells it


class Arrival(NamedTuple):
    """A sample, and when its frame was there."""

    sample: Sample  # its time: of a file, the file's; else the same as `arrived`
    arrived: float  # seconds, of `time.monotonic`; of a file, when it was due


class Tally(NamedTuple):
    """How many frames have come since the last tally."""

    frames: int


class Lost(NamedTuple):
    """The source is gone."""

    reason: str
    pause: float  # seconds, after which it is connected to again


class Over(NamedTuple):
    """There will be no more."""

    error: UnreadableClip | None  # why it cannot be read; None: the file has ended


Item = Begun | Arrival | Tally | Lost | Over


def sample_source(
    source: Source,
    sampling: Sampling,
    silence: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Begun | Arrival | Tally]:
    """Yield samples of a source as they arrive, until it ends.

    A camera and a stream of the network go by the time at which their frames arrive: what they tell
    is often wrong. A file goes by its own times, and is played at its own rate.

    Args:
        silence: seconds without a frame, after which it is lost.
        clock, sleep: seconds that pass.

    Raises:
        UnreadableClip: it cannot be read, or is lost.
    """
    video = _open(source, silence)
    rate = video_info(video).frames_per_second
    if source.kind == "file":
        frames = _played(frames_of(video, rate), clock)
    else:
        frames = _arriving(video, silence, clock)
    sampler: Sampler | None = None
    before, tallied, count = math.nan, clock(), 0
    try:
        for frame, arrived in frames:
            while (early := arrived - clock()) > 0:
                sleep(min(early, TALLY_EVERY))
                if early > TALLY_EVERY:
                    yield Tally(0)
            # A picture that stands still for longer than a window is no movement.
            stood_still = source.kind != "file" and arrived - before > sampling.window
            if sampler is None or stood_still:
                sampler = Sampler(sampling, rate)
                yield Begun(rate)
            before = arrived
            for sample in sampler.take(frame):
                yield Arrival(sample, arrived - (frame.time - sample.time))
            count += 1
            if clock() - tallied >= TALLY_EVERY:
                yield Tally(count)
                tallied, count = clock(), 0
    except UnreadableClip:
        yield Tally(count)
        raise
    yield Tally(count)
    if sampler is None:
        raise UnreadableClip("no frame can be decoded")


def _open(source: Source, silence: float) -> cv2.VideoCapture:
    if source.kind == "file":
        return open_video(Path(source.name))
    if source.kind == "camera":
        video = cv2.VideoCapture(int(source.name))
    else:
        milliseconds = round(1000 * silence)
        limits = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds),
            *(cv2.CAP_PROP_N_THREADS, 1),  # more threads hold frames back
        ]
        video = cv2.VideoCapture(source.name, cv2.CAP_FFMPEG, limits)
    if not video.isOpened():
        raise UnreadableClip("it cannot be opened")
    of_known_length = video_info(video).duration is not None
    if source.kind == "network" and source.name.lower().startswith("http") and of_known_length:
        raise NotLive("it is a file, not a live stream: download it, and name the file")
    return video


def _played(frames: Iterator[Frame], clock: Callable[[], float]) -> Iterator[tuple[Frame, float]]:
    """Yield the frames of a file, and when each is due."""
    begin: float | None = None
    for frame in frames:
        if begin is None:
            begin = clock() - frame.time
        yield frame, begin + frame.time


def _arriving(
    video: cv2.VideoCapture, silence: float, clock: Callable[[], float]
) -> Iterator[tuple[Frame, float]]:
    """Yield frames as they arrive, and when; raises `UnreadableClip` when there are no more."""

    def retrieve() -> np.ndarray | None:
        decoded, image = video.retrieve()
        return image if decoded else None

    position, asked = 0, clock()
    while video.grab():
        arrived = clock()
        yield Frame(position, arrived, retrieve), arrived
        position, asked = position + 1, clock()
    waited = clock() - asked
    video.release()
    raise UnreadableClip(
        f"no frame has come for {silence:g} s" if waited > 0.9 * silence else "it has ended"
    )


class SourceReader:
    """Reads a source in the background, keeps the newest, connects again when it is lost.

    Args:
        silence: seconds without a frame, after which it is lost.
        first_pause: seconds before it is connected to again; each further time twice as many, until
            it has given frames for longer than that.
    """

    def __init__(
        self,
        source: Source,
        sampling: Sampling,
        silence: float,
        first_pause: float = FIRST_PAUSE,
    ):
        self.source = source
        self._sampling = sampling
        self._silence = silence
        self._room = 2 * sampling.frames  # samples that are kept, if nobody takes them
        self._first_pause = first_pause
        self._items: deque[Item] = deque()
        self._samples = 0  # of these
        self._changed = threading.Condition()
        self._began = math.inf  # when this time's first frames came
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join(2 * TALLY_EVERY)  # a source that hangs is left behind

    def take(self, wait: float) -> Sequence[Item]:
        """Return what has come since the last time; if nothing has, wait so many seconds for it."""
        with self._changed:
            if not self._items and wait:
                self._changed.wait(wait)
            items = list(self._items)
            self._items.clear()
            self._samples = 0
        return items

    def _put(self, item: Item) -> None:
        with self._changed:
            self._items.append(item)
            self._samples += isinstance(item, Arrival)
            if self._samples > self._room:
                oldest = next(n for n, old in enumerate(self._items) if isinstance(old, Arrival))
                del self._items[oldest]
                self._samples -= 1
            self._changed.notify()

    def _run(self) -> None:
        pause = self._first_pause
        with contextlib.suppress(Interrupted):  # told to the main thread, too
            while not self._stopped.is_set():
                self._began = math.inf
                error = self._read()
                if error is None or isinstance(error, NotLive) or self.source.kind == "file":
                    self._put(Over(error))
                    return
                if time.monotonic() - self._began > pause:
                    pause = self._first_pause
                self._put(Lost(str(error), pause))
                self._stopped.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _read(self) -> UnreadableClip | None:
        """Read until the source ends; return why, unless it is the end of a file."""
        items = stream_from_process(
            *(sample_source, self.source, self._sampling, self._silence),
            timeout=self._silence,
            ahead=AHEAD,
        )
        try:
            with contextlib.closing(items):
                for item in items:
                    if self._stopped.is_set():
                        break
                    if isinstance(item, Begun):
                        self._began = min(self._began, time.monotonic())
                    self._put(item)
        except UnreadableClip as error:
            return error
        except OSError as error:
            return UnreadableClip(error.strerror or str(error))
        return None
