"""The packets of a clip: when their frames are shown, which ones some frames depend on."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from av.packet import Packet

from violence_detection.clips.clip import Segment
from violence_detection.clips.video import Video

HELD_BYTES = 2**28  # packets up to this size are kept, and not read a second time


@dataclass(frozen=True)
class PacketIndex:
    """What a clip's packets tell before any is decoded.

    Args:
        stamps: of each packet in the order of the file: its frame's time stamp, and whether it is
            a keyframe.
        shown: the time stamps of the clip's frames, in the order in which they are shown.
        times: the same in seconds.
        held: the packets; None if they are too large to be kept.
    """

    stamps: list[tuple[int | None, bool]]
    shown: list[int]
    times: list[float]
    held: list[Packet] | None

    def has_times(self, longest_pause: float) -> bool:
        """Return whether the time stamps can be those of the frames, each of another.

        Args:
            longest_pause: seconds between two frames above which the clock must have jumped.
        """
        stamps = {pts for pts, _ in self.stamps}
        return (
            bool(stamps)
            and None not in stamps
            and len(stamps) == len(self.stamps)
            and all(b - a <= longest_pause for a, b in pairwise(self.times))
        )

    def runs(self, needed: set[int]) -> list[range]:
        """Return which packets must be decoded: runs that begin with a keyframe.

        Args:
            needed: time stamps of frames.
        """
        runs: list[range] = []
        keyframes = [0]
        for index, (pts, is_keyframe) in enumerate(self.stamps):
            if is_keyframe:
                keyframes.append(index)
            if pts is None or pts not in needed:
                continue
            # A frame that is shown before the keyframe it follows needs the keyframe before, too.
            start = next(
                (k for k in reversed(keyframes) if (self.stamps[k][0] or 0) <= pts), keyframes[0]
            )
            if runs and start <= runs[-1].stop:
                runs[-1] = range(runs[-1].start, index + 1)
            else:
                runs.append(range(start, index + 1))
        return runs


def index_packets(video: Video, segment: Segment | None = None) -> PacketIndex:
    """Read the packets of an open video, or those that the frames of a segment depend on.

    Args:
        video: of which nothing has been read.
        segment: of the video; None: all of it.
    """
    stamps: list[tuple[int | None, bool]] = []
    held: list[Packet] = []
    size = 0
    for packet in video.packets_of(segment) if segment else video.packets():
        stamps.append((packet.pts, packet.is_keyframe))
        size += packet.size
        if size <= HELD_BYTES:
            held.append(packet)
    shown = sorted(pts for pts, _ in stamps if pts is not None)
    if segment:
        shown = [pts for pts in shown if segment.has(video.time_of(pts))]
    times = [video.time_of(pts) for pts in shown]
    return PacketIndex(stamps, shown, times, held if size <= HELD_BYTES else None)


def in_runs(packets: Iterator[Packet], runs: list[range]) -> Iterator[Iterator[Packet]]:
    """Yield the packets of each run, which have to be taken before the next run is.

    Args:
        packets: all of a clip, in the order of the file.
        runs: ascending, of their positions.
    """
    position = 0
    for run in runs:
        while position < run.start:
            next(packets)
            position += 1

        def of_run(count: int = len(run)) -> Iterator[Packet]:
            for _ in range(count):
                yield next(packets)

        yield of_run()
        position = run.stop
