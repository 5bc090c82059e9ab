"""A source's own packets, kept for a while in short files: an event's clip needs no encoding.

It runs in the process that reads the source, and imports nothing heavy.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.packet import Packet

SEGMENT_SECONDS = 2.0  # at least; a segment begins with a keyframe
LONGEST_SEGMENT = 60.0  # seconds; a stream with rarer keyframes is cut where it is
LONGEST_GAP = 10.0  # seconds between two packets, above which their times have jumped
PARTIAL = ".partial"
SUFFIX = ".nut"  # keeps both time stamps of a packet, of any codec


class Segment(NamedTuple):
    """A file of packets, and when they arrived, in seconds since 1970."""

    path: Path
    start: float
    end: float


def segments_in(folder: Path) -> list[Segment]:
    """Return the complete segments in a folder, the oldest first."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(ValueError):  # another file
            start, end = path.stem.split("_")
            found.append(Segment(path, int(start) / 1000, int(end) / 1000))
    return sorted(found, key=lambda segment: segment.start)


@dataclass
class _Open:
    container: Any
    stream: Any
    path: Path
    start: float  # seconds since 1970
    first: int  # the time stamp of its first packet
    last: int  # of its last one
    end: float


class Recorder:
    """Writes the packets of a source into segments.

    A disk that is full or gone ends the recording of a segment, not the reading of the source.

    Args:
        folder: of the segments; created.
        source: the stream that the packets are of.
        clock: returns seconds since 1970.
    """

    def __init__(self, folder: Path, source: Any, clock: Callable[[], float] = time.time):
        self._folder = folder
        self._clock = clock
        self._source = source
        self._open: _Open | None = None
        self.failure: str | None = None  # why the last segment could not be written

    def record(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """Yield the packets as they come, and record them."""
        try:
            for packet in packets:
                try:
                    self._take(packet, self._clock())
                except (OSError, av.FFmpegError, ValueError) as error:
                    self.failure = getattr(error, "strerror", None) or str(error)
                    self._discard()
                yield packet
        finally:
            with contextlib.suppress(OSError, av.FFmpegError):
                self._close()

    def _take(self, packet: Packet, arrived: float) -> None:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or packet.time_base is None:
            return
        now = self._open
        if now is not None:
            seconds = float((stamp - now.last) * packet.time_base)
            length = arrived - now.start
            is_complete = packet.is_keyframe and length >= SEGMENT_SECONDS
            if is_complete or not 0 < seconds < LONGEST_GAP or length > LONGEST_SEGMENT:
                self._close()
        if self._open is None:
            if not packet.is_keyframe:
                return
            self._begin(stamp, arrived)
        self._write(packet, stamp, arrived)

    def _begin(self, stamp: int, arrived: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{int(arrived * 1000)}{SUFFIX}{PARTIAL}"
        container = av.open(str(path), "w", format="nut")
        stream = container.add_stream_from_template(self._source)
        self._open = _Open(container, stream, path, arrived, stamp, stamp, arrived)

    def _write(self, packet: Packet, stamp: int, arrived: float) -> None:
        segment = self._open
        assert segment is not None
        copy = Packet(bytes(packet))
        copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
        copy.dts = stamp - segment.first
        shown = packet.pts if packet.pts is not None else stamp
        copy.pts = shown - segment.first
        copy.stream = segment.stream
        segment.container.mux(copy)
        segment.last, segment.end = stamp, arrived

    def _close(self) -> None:
        segment, self._open = self._open, None
        if segment is not None:
            segment.container.close()
            name = f"{int(segment.start * 1000)}_{int(segment.end * 1000)}{SUFFIX}"
            segment.path.rename(self._folder / name)

    def _discard(self) -> None:
        segment, self._open = self._open, None
        if segment is not None:
            with contextlib.suppress(OSError, av.FFmpegError):
                segment.container.close()
            with contextlib.suppress(OSError):
                segment.path.unlink(missing_ok=True)


def join(segments: list[Segment], path: Path) -> None:
    """Write segments, one after the other, into one file, without encoding.

    Args:
        segments: of one source, the oldest first.
        path: of the new file; its ending decides the format.

    Raises:
        OSError: a segment cannot be read, or the file not be written.
    """
    with av.open(str(path), "w") as out:
        stream: Any = None
        last = -1  # the time stamp of the packet before
        for segment in segments:
            with av.open(str(segment.path)) as container:
                source = container.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(source)
                offset = segment.start - segments[0].start
                packets = [packet for packet in container.demux(source) if packet.size]
                for packet, stamp in zip(packets, _decoding_times(packets), strict=True):
                    shift = round(offset / packet.time_base)
                    # A segment may begin a little before the one before it ends.
                    packet.dts = last = max(stamp + shift, last + 1)
                    shown = packet.dts if packet.pts is None else packet.pts + shift
                    packet.pts = max(shown, packet.dts)
                    packet.stream = stream
                    out.mux(packet)


def _decoding_times(packets: list[Packet]) -> list[int]:
    """Return the time stamps by which packets are in order; of the first ones none is known."""
    stamps = [packet.dts for packet in packets]
    known = [(number, stamp) for number, stamp in enumerate(stamps) if stamp is not None]
    if not known:
        return [packet.pts or 0 for packet in packets]
    first, began = known[0]
    early = range(began - first, began)
    return [*early, *(stamp for stamp in stamps[first:] if stamp is not None)]
