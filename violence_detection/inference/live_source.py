"""A camera, a network stream, or a file played at its own rate: samples as they arrive.

A source is read in a process of its own, which may hang or die; a lost source is reconnected. That
process loads this module: it imports no heavy library.
"""

import contextlib
import functools
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import av

from violence_detection.clips.coverage import Coverage
from violence_detection.clips.decoders import stream_from_process
from violence_detection.clips.frames import share_warnings
from violence_detection.clips.pictures import as_jpeg, shrink
from violence_detection.clips.recorder import Recorder
from violence_detection.clips.sampling import Sample, Sampler, Sampling
from violence_detection.clips.video import Frame, UnreadableClip, Video, frames_of, open_video
from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import Interrupted

# What FFmpeg may use for an address: nothing that an answer could lead it to, such as local files.
PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto",
    "http": "http,https,tcp,tls,crypto,httpproxy",
    "https": "http,https,tcp,tls,crypto,httpproxy",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,tcp,tls,crypto",
    "udp": "udp",
}
SCHEMES = tuple(PROTOCOLS)
COUNT_EVERY = 1.0  # seconds
PICTURE_EVERY = 1.0  # seconds
PICTURE_SIDE, PICTURE_QUALITY = 640, 80  # pixels of the longer side; of JPEG, from 0 to 100
AHEAD = 8  # items between the two processes; few, since they are taken as they arrive
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before reconnecting


@dataclass(frozen=True)
class Source:
    """Where frames come from."""

    name: str  # as given by the user; it may contain a password
    kind: str  # "camera", "network" or "file"

    @property
    def display_name(self) -> str:
        """The name without possible secrets: user, password, query, and path parts like `a=b`."""
        if self.kind == "camera":
            return f"camera {self.name}"
        if self.kind == "file":
            return self.name
        address = urlsplit(self.name)
        parts = ["…" if "=" in part else part for part in address.path.split("/")]
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{'/'.join(parts)}"


def parse_source(name: str) -> Source:
    """Return the source of a name: an address, a camera's number, or a file's path.

    Raises:
        UserError: it is none of these; the message contains no secrets.
    """
    if name.isascii() and name.isdigit():
        return Source(name, "camera")
    if "://" not in name:
        if not Path(name).is_file():
            raise UserError(
                f"--source {name}: no such file. Name a file, a camera's number (0 is the first) "
                "or an address such as rtsp://…"
            )
        return Source(name, "file")
    scheme = name.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise UserError(f"--source {scheme}://…: must start with {'://, '.join(SCHEMES)}://")
    try:
        address = urlsplit(name)
        is_valid = bool(address.hostname) and (address.port is None or address.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid:  # the message leaves the address out: it may contain a password
        raise UserError(f"--source {scheme}://…: no host name, or an invalid port")
    return Source(name, "network")


class NotLive(UnreadableClip):
    """The address is that of a file, which is sent as fast as the network allows."""


class Started(NamedTuple):
    """Frames start to arrive, unrelated to those before."""

    frames_per_second: float | None  # as the source states it


class Arrival(NamedTuple):
    """A sample and the time of its arrival."""

    sample: Sample  # its time is that in the file; of other sources, `arrived`
    arrived: float  # in the clock's seconds; of a file, when the frame was due


class Picture(NamedTuple):
    """What the source shows now, for a person to look at."""

    jpeg: bytes


class FrameCount(NamedTuple):
    """How many frames have arrived since the last count."""

    frames: int


class Warned(NamedTuple):
    """Something about the source makes predictions unreliable."""

    reason: str


class Lost(NamedTuple):
    """The connection to the source is lost."""

    reason: str
    pause: float  # seconds before reconnecting


class Ended(NamedTuple):
    """The source has ended for good."""

    error: UnreadableClip | None  # why it cannot be read; None: the end of a file


Item = Started | Arrival | Picture | FrameCount | Warned | Lost | Ended


def sample_source(
    source: Source,
    sampling: Sampling,
    silence: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    video: Video | None = None,
    recording: Path | None = None,
    with_pictures: bool = False,
) -> Iterator[Started | Arrival | Picture | FrameCount | Warned]:
    """Yield the samples of a source as they arrive, until it ends.

    Cameras and network streams are timed by the arrival of their frames: the times that they state
    are often wrong. A file is timed by its own times, and played at its own rate.

    Args:
        source: to be read.
        sampling: of its windows.
        silence: seconds without a frame after which the source counts as lost.
        clock: returns seconds.
        sleep: waits for some seconds of the clock.
        video: the source, if it has been opened.
        recording: folder for the packets of a stream or a camera; None: they are not kept.
        with_pictures: whether to yield a picture for people every second, too.

    Raises:
        UnreadableClip: the source cannot be read, or is lost.
    """
    video = video or open_source(source, silence)
    rate, coverage = video.info.frames_per_second, Coverage()
    if source.kind == "file":
        frames = _played(frames_of(video, rate, coverage), clock)
    else:
        frames = _arriving(video, silence, clock, recording)
    sampler: Sampler | None = None
    previous, counted, count, pictured = math.nan, clock(), 0, -math.inf
    try:
        for frame, arrived in frames:
            yield from _wait_until(arrived, clock, sleep)
            # The change over a pause longer than a window is not movement.
            has_paused = source.kind != "file" and arrived - previous > sampling.window
            if sampler is None or has_paused:
                sampler = Sampler(sampling, rate)
                yield Started(rate)
            previous = arrived
            for sample in sampler.take(frame):
                yield Arrival(sample, arrived - (frame.time - sample.time))
            if with_pictures and clock() - pictured >= PICTURE_EVERY:
                pictured = clock()
                yield from _picture_of(video, frame)
            count += 1
            if clock() - counted >= COUNT_EVERY:
                yield FrameCount(count)
                counted, count = clock(), 0
    except UnreadableClip:
        yield FrameCount(count)
        raise
    yield FrameCount(count)
    if sampler is None:
        raise UnreadableClip(video.nothing_decoded)
    for warning in share_warnings(video.readable_share(coverage)):  # only a file comes to its end
        yield Warned(warning)


def open_source(source: Source, silence: float) -> Video:
    """Open a source.

    Args:
        source: to be opened.
        silence: seconds that connecting, or a packet, may take.

    Raises:
        NotLive: it is a file on a web server.
        UnreadableClip: it cannot be opened.
    """
    if source.kind == "file":
        return open_video(Path(source.name))
    if source.kind == "camera":
        return _open_camera(source.name, silence)
    scheme = source.name.partition("://")[0].lower()
    options = {"protocol_whitelist": PROTOCOLS[scheme]}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    try:
        video = Video(source.name, options, timeout=silence)
    except (UnreadableClip, OSError) as error:
        raise UnreadableClip("cannot be opened") from error
    if scheme.startswith("http") and video.info.duration is not None:
        video.close()
        raise NotLive("a file, not a live stream: download it and name the local file")
    return video


def _open_camera(number: str, silence: float) -> Video:
    device, container = (
        (number, "avfoundation") if sys.platform == "darwin" else (f"/dev/video{number}", "v4l2")
    )
    try:
        return Video(device, {}, container, timeout=silence)
    except (UnreadableClip, OSError, ValueError) as error:
        raise UnreadableClip("cannot be opened") from error


def _picture_of(video: Video, frame: Frame) -> Iterator[Picture]:
    """Yield a frame as a picture; nothing if it cannot be decoded."""
    image = frame.retrieve()
    if image is not None:
        side = min(PICTURE_SIDE, max(image.shape[:2]))
        yield Picture(as_jpeg(shrink(image, video.aspect_ratio, side), PICTURE_QUALITY))


def _wait_until(
    due: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[FrameCount]:
    """Wait for a time of the clock, with a sign of life now and then."""
    while (seconds := due - clock()) > 0:
        sleep(min(seconds, COUNT_EVERY))
        if seconds > COUNT_EVERY:
            yield FrameCount(0)


def _played(frames: Iterator[Frame], clock: Callable[[], float]) -> Iterator[tuple[Frame, float]]:
    """Yield the frames of a file, each with the time when it is due."""
    start: float | None = None
    for frame in frames:
        if start is None:
            start = clock() - frame.time
        yield frame, start + frame.time


def _arriving(
    video: Video, silence: float, clock: Callable[[], float], recording: Path | None
) -> Iterator[tuple[Frame, float]]:
    """Yield frames with their times of arrival; raise `UnreadableClip` when there are no more."""
    with video:
        try:
            packets = video.packets()
            if recording is not None:
                packets = Recorder(recording, video.stream).record(packets)
            for position, decoded in enumerate(video.decoded(packets)):
                arrived = clock()
                retrieve = functools.partial(video.picture, decoded)
                yield Frame(position, arrived, retrieve), arrived
        except av.ExitError as error:
            raise UnreadableClip(f"no frame for {silence:g} s") from error
    raise UnreadableClip("the stream has ended")


class SourceReader:
    """Reads a source in the background, keeps the newest samples, reconnects when it is lost.

    A context manager, which ends the reading.

    Args:
        source: to be read.
        sampling: of its windows.
        silence: seconds without a frame after which the source counts as lost.
        first_pause: seconds before reconnecting; doubled each time, until the source has
            delivered frames for longer than the pause.
        stream: runs `sample_source` and yields its items, as `stream_from_process` does.
        recording: folder for the packets of a stream or a camera; None: they are not kept.
        with_pictures: whether there are pictures for people among the items.
    """

    def __init__(
        self,
        source: Source,
        sampling: Sampling,
        silence: float,
        first_pause: float = FIRST_PAUSE,
        stream: Callable[..., Generator[Any, None, None]] = stream_from_process,
        recording: Path | None = None,
        with_pictures: bool = False,
    ):
        self._sample = functools.partial(
            sample_source, recording=recording, with_pictures=with_pictures
        )
        self.source = source
        self._sampling = sampling
        self._silence = silence
        self._capacity = 2 * sampling.frames  # samples that are kept until they are taken
        self._first_pause = first_pause
        self._stream = stream
        self._items: deque[Item] = deque()
        self._samples = 0  # among the items
        self._changed = threading.Condition()
        self._started = math.inf  # when the first frame of this connection arrived
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join(2 * COUNT_EVERY)  # a source that hangs is abandoned

    def take(self, wait: float) -> Sequence[Item]:
        """Return the items since the last call; if there are none, wait so many seconds for one."""
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
            if self._samples > self._capacity:
                oldest = next(n for n, old in enumerate(self._items) if isinstance(old, Arrival))
                del self._items[oldest]
                self._samples -= 1
            self._changed.notify()

    def _run(self) -> None:
        pause = self._first_pause
        with contextlib.suppress(Interrupted):  # the main thread handles it
            while not self._stopped.is_set():
                self._started = math.inf
                error = self._read()
                if error is None or isinstance(error, NotLive) or self.source.kind == "file":
                    self._put(Ended(error))
                    return
                if time.monotonic() - self._started > pause:
                    pause = self._first_pause
                self._put(Lost(str(error), pause))
                self._stopped.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _read(self) -> UnreadableClip | None:
        """Read until the source ends; return the reason, or None at the end of a file."""
        items = self._stream(
            *(self._sample, self.source, self._sampling, self._silence),
            timeout=self._silence,
            ahead=AHEAD,
        )
        try:
            with contextlib.closing(items):
                for item in items:
                    if self._stopped.is_set():
                        break
                    if isinstance(item, Started):
                        self._started = min(self._started, time.monotonic())
                    self._put(item)
        except UnreadableClip as error:
            return error
        except OSError as error:
            return UnreadableClip(error.strerror or str(error))
        return None
