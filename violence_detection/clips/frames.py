"""The frames of one clip: evenly spaced in time, RGB, at the network's size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from av.packet import Packet

from violence_detection.clips.clip import Segment, as_time
from violence_detection.clips.coverage import Coverage
from violence_detection.clips.packets import PacketIndex, in_runs, index_packets
from violence_detection.clips.stills import is_still
from violence_detection.clips.video import (
    DEFAULT_PERIOD,
    UnreadableClip,
    Video,
    frames_of,
    increasing_times,
    open_video,
)
from violence_detection.settings.constants import FRAME_SIZE

Times = tuple[float, ...] | None  # of frames, in seconds from the start; None if unknown

TIME_TOLERANCE = 1e-5  # seconds, for times that were rounded
LONGEST_STILL = 60.0  # seconds between two frames; more is a pause of the recording
EVEN = 0.25  # share of the usual period by which the frames of a constant rate may be off
WARNED_SHARE = 0.9  # a clip of which less can be read has a warning
LEAST_SHARE = 0.5  # a clip of which less can be read is bad


class ClipInfo(NamedTuple):
    """What reading a clip has told of it."""

    frames: int  # that it has
    seconds: float  # from its first frame to the end of its last; nan if unknown
    times: Times  # of the frames that were chosen
    share: float  # of it that could be read, 0 to 1
    still: bool  # nothing moves from one of the chosen frames to the next
    aspect_ratio: float  # width over height, as it is displayed

    def warnings(self) -> list[str]:
        """Return why a prediction from these frames is unreliable; mostly nothing."""
        warnings = share_warnings(self.share)
        if self.frames == 1:
            warnings.append("it is one frame: nothing can move in it")
        elif self.still:
            warnings.append("nothing moves in it: its frames are all the same")
        return warnings


def share_warnings(share: float) -> list[str]:
    """Return a warning if only a share of a clip could be read, 0 to 1."""
    return [f"only {share:.0%} of it could be read"] if share < WARNED_SHARE else []


class _Chosen(NamedTuple):
    """The sampled frames of a clip."""

    images: np.ndarray  # (frames, 224, 224, 3) uint8 RGB
    times: tuple[float, ...]  # seconds
    frames: int  # of the clip
    seconds: float
    share: float
    aspect_ratio: float


def read_frames(path: Path, frames: int) -> np.ndarray:
    """Return the frames of `read_clip` alone."""
    return read_clip(path, frames)[0]


def read_clip(
    path: Path, frames: int, segment: Segment | None = None
) -> tuple[np.ndarray, ClipInfo]:
    """Return `frames` frames of a clip, evenly spaced in time, its first and last among them.

    The packets' times tell which frames these are: of a long clip only the groups of pictures
    that hold one of them are decoded. If that fails, because packets have no times or are damaged,
    the whole clip is decoded, and the frames are spread over those that are found. A clip with
    fewer frames repeats the nearest ones, in time order.

    Args:
        path: the video file.
        frames: how many to return.
        segment: the part of the video that is the clip; None: all of it.

    Returns:
        `(frames, 224, 224, 3)` uint8 RGB, and what the clip is like.

    Raises:
        UnreadableClip: the file is empty or not a video, or less than `LEAST_SHARE` of it can be
            decoded; there are no frames in the segment.
        OSError: the file cannot be read.
    """
    chosen = _read_chosen(path, frames, segment) or _read_all(path, frames, segment)
    if chosen.share < LEAST_SHARE:
        raise UnreadableClip(f"only {chosen.share:.0%} of it can be read")
    times = chosen.times if min(chosen.times) >= 0 else None
    return chosen.images, ClipInfo(
        *(chosen.frames, chosen.seconds, times, chosen.share),
        *(is_still(chosen.images), chosen.aspect_ratio),
    )


def choose_frames(pictures: np.ndarray, frames: int) -> tuple[np.ndarray, ClipInfo]:
    """Return `frames` of a clip's frames that are in memory, chosen as `read_clip` does.

    Args:
        pictures: `(n, height, width, 3)` uint8 RGB, at least one, evenly spaced in time.
        frames: how many to return.

    Returns:
        `(frames, 224, 224, 3)` uint8 RGB, and what the clip is like; its length and the frames'
        times are unknown.
    """
    positions = sample_positions(len(pictures), frames)
    images = np.stack([network_image(np.ascontiguousarray(pictures[n])) for n in positions])
    aspect_ratio = pictures.shape[2] / pictures.shape[1]
    info = ClipInfo(len(pictures), math.nan, None, 1.0, is_still(images), aspect_ratio)
    return images, info


def even_positions(cached: int, frames: int) -> np.ndarray:
    """Return `(frames,)` int32: the middle of each of `frames` equal parts of `cached` frames."""
    return ((2 * np.arange(frames) + 1) * cached // (2 * frames)).astype(np.int32)


def sample_positions(length: int, frames: int) -> np.ndarray:
    """Return `(frames,)` int64 positions, evenly spaced from 0 to `length - 1`, in time order."""
    return np.linspace(0, max(length, 1) - 1, frames).round().astype(np.int64)


def sample_interval(window: float, frames: int, frames_per_second: float | None) -> float:
    """Return the seconds between `frames` samples of a window, first and last frame included.

    Args:
        window: seconds, from the first frame to the end of the last.
        frames: at least 2.
        frames_per_second: of the video; None if unknown.
    """
    period = 1 / frames_per_second if frames_per_second else 0.0
    return max(window - period, window / 2) / (frames - 1)


def is_sample(wanted: float, time: float, position: int, frames_per_second: float | None) -> bool:
    """Return whether a frame is the sample of a time, or a later one.

    The sample of a time is the first frame that is shown no earlier than half a period before it.

    Args:
        wanted: the sample's time in seconds.
        time: the frame's.
        position: the frame's, from 0.
        frames_per_second: of the video; None if unknown.
    """
    half_period = 0.5 / frames_per_second if frames_per_second else 0.0
    early = wanted - time - half_period
    if abs(early) <= TIME_TOLERANCE and half_period:
        return position % 2 == 0  # halfway between two frames: as NumPy rounds
    return early <= TIME_TOLERANCE


def positions_in_time(
    times: Sequence[float], frames: int, frames_per_second: float | None
) -> list[int]:
    """Return the positions of `frames` frames that are evenly spaced in time.

    At a constant rate, those of `sample_positions`; otherwise those of a window over the clip.
    Pauses are left out: in a recording that motion starts, nothing was filmed in them.

    Args:
        times: of all frames, ascending, in seconds.
        frames: how many to choose.
        frames_per_second: on average; None if unknown.
    """
    if len(times) < 3 or frames < 2 or is_constant(times):
        return sample_positions(len(times), frames).tolist()
    period = 1 / frames_per_second if frames_per_second else DEFAULT_PERIOD
    times = list(increasing_times(times, period, LONGEST_STILL))
    window = times[-1] - times[0] + period
    interval = sample_interval(window, frames, frames_per_second)
    positions, position = [], 0
    for number in range(frames):
        wanted = times[0] + number * interval
        while position < len(times) - 1 and not is_sample(
            wanted, times[position], position, frames_per_second
        ):
            position += 1
        positions.append(position)
    return positions


def is_constant(times: Sequence[float]) -> bool:
    """Return whether frames follow each other at a constant rate, but for rounded times."""
    periods = np.diff(times)
    usual = float(np.sort(periods)[len(periods) // 2])
    return bool(np.abs(periods - usual).max() <= EVEN * usual)


def network_image(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a frame as the network gets it, `(224, 224, 3)` uint8 RGB.

    Args:
        image: `(height, width, 3)` uint8 RGB, as `Video.picture` returns it.
        out: where to write it; None: new memory.
    """
    return cv2.resize(image, (FRAME_SIZE, FRAME_SIZE), out)


def _read_chosen(path: Path, frames: int, segment: Segment | None) -> _Chosen | None:
    """Read the frames that the packets' times show to be evenly spaced; None if that fails."""
    with ExitStack() as stack:
        video = stack.enter_context(open_video(path))
        index = index_packets(video, segment)
        if not index.has_times(video.longest_pause) or not index.times:
            return None
        rate = video.info.frames_per_second
        positions = positions_in_time(index.times, frames, rate)
        images = np.empty((frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        rows = {position: images[row] for row, position in enumerate(positions)}
        for neighbours in (False, True):
            reader = video if index.held is not None else stack.enter_context(open_video(path))
            found = _read_into(rows, reader, index, neighbours, segment)
            if found is not None:
                break
        if found != rows.keys():
            return None
        for row, position in enumerate(positions[:-1]):
            if position == positions[row + 1]:  # repeated: the last of its rows was written
                images[row] = rows[position]
        return _Chosen(
            images,
            tuple(index.times[position] for position in positions),
            len(index.times),
            _length(index.times, rate),
            video.present_share(index.times, segment),
            reader.aspect_ratio,
        )


def _length(times: Sequence[float], frames_per_second: float | None) -> float:
    """Return the seconds from the first of some frames to the end of the last."""
    return times[-1] - times[0] + (1 / frames_per_second if frames_per_second else DEFAULT_PERIOD)


def _read_into(
    images: Mapping[int, np.ndarray],
    video: Video,
    index: PacketIndex,
    neighbours: bool,
    segment: Segment | None,
) -> set[int] | None:
    """Decode some frames, and of the others only those that they depend on.

    Args:
        images: by the frames' positions in the order in which they are shown, where to write what
            `network_image` makes of them.
        video: open; of which nothing has been read if the index does not hold the packets.
        index: of its packets.
        neighbours: decode the frames around them, too: an interlaced one is deinterlaced with them.
        segment: which the index is of.

    Returns:
        The positions of the frames that could be decoded. None if there are interlaced frames, and
        `neighbours` is False.
    """
    wanted = {index.shown[position]: position for position in images}
    around = {n + side for n in images for side in ((-1, 0, 1) if neighbours else (0,))}
    needed = {index.shown[n] for n in around if 0 <= n < len(index.shown)}
    found: set[int] = set()
    again = video.packets_of(segment) if segment else video.packets()
    packets = again if index.held is None else iter(index.held)
    for run in in_runs(packets, index.runs(needed)):
        video.forget_frames()
        for decoded in video.decoded(_skipping(video, run, needed)):
            if decoded.frame.interlaced_frame and not neighbours:
                return None
            if decoded.frame.pts in wanted:
                picture = video.picture(decoded)
                if picture is not None:
                    position = wanted[decoded.frame.pts]
                    network_image(picture, out=images[position])
                    found.add(position)
    return found


def _skipping(video: Video, packets: Iterator[Packet], needed: set[int]) -> Iterator[Packet]:
    """Yield packets to decode; let the decoder skip frames that neither we nor others need."""
    for packet in packets:
        video.decode_references_only(packet.pts not in needed)
        yield packet


def _read_all(path: Path, frames: int, segment: Segment | None) -> _Chosen:
    """Decode a whole clip, once if the container's frame count is right.

    Raises:
        UnreadableClip: no frame can be decoded, or none is in the segment.
    """
    with open_video(path) as video:
        reported, rate = video.frame_count or 1, video.info.frames_per_second
    whole = _read_pass(path, set(sample_positions(reported, frames).tolist()))
    inside = [n for n, time in enumerate(whole.times) if segment is None or segment.has(time)]
    if segment and not inside:
        raise UnreadableClip(_no_frames_in(segment, whole.times))
    times = [whole.times[n] for n in inside]
    positions = [inside[n] for n in positions_in_time(times, frames, rate)]
    if not whole.images.keys() >= set(positions):
        whole = _read_pass(path, set(positions))
    # If one of them cannot be converted after all, the nearest one stands for it.
    found = [min(whole.images, key=lambda n: abs(n - position)) for position in positions]
    return _Chosen(
        np.stack([whole.images[position] for position in found]),
        tuple(whole.times[position] for position in found),
        len(times),
        _length(times, rate),
        whole.share,
        whole.aspect_ratio,
    )


def _no_frames_in(segment: Segment, times: Sequence[float]) -> str:
    return (
        f"no frame of it is in its segment {segment}: its last one is shown after "
        f"{as_time(times[-1])} s"
    )


class _Pass(NamedTuple):
    """A clip that was decoded from its first frame to its last."""

    images: dict[int, np.ndarray]  # by position, those of `network_image` that were wanted
    times: list[float]  # of all frames, in seconds
    share: float  # of the clip that could be read
    aspect_ratio: float


def _read_pass(path: Path, wanted: set[int]) -> _Pass:
    """Decode a clip from its first frame to its last; not counting those that are not converted.

    Args:
        path: the video file.
        wanted: positions of the frames to return.

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    images: dict[int, np.ndarray] = {}
    times: list[float] = []
    video, coverage = open_video(path), Coverage()
    for frame in frames_of(video, video.info.frames_per_second, coverage):
        if len(times) in wanted:
            picture = frame.retrieve()
            if picture is None:
                continue
            images[len(times)] = network_image(picture)
        times.append(frame.time)
    if not images:
        raise UnreadableClip(video.nothing_decoded)
    return _Pass(images, times, video.readable_share(coverage), video.aspect_ratio)
