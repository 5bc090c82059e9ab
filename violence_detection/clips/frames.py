"""The frames of one clip: evenly spaced in time, RGB, at the network's size."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from av.packet import Packet

from violence_detection.clips.packets import PacketIndex, in_runs, index_packets
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


def read_frames(path: Path, frames: int) -> np.ndarray:
    """Return the frames of `read_timed_frames` without their times."""
    return read_timed_frames(path, frames)[0]


def read_timed_frames(path: Path, frames: int) -> tuple[np.ndarray, Times]:
    """Return `frames` frames of a clip, evenly spaced in time, its first and last among them.

    The packets' times tell which frames these are: of a long clip only the groups of pictures
    that hold one of them are decoded. If that fails, because packets have no times or are damaged,
    the whole clip is decoded, and the frames are spread over those that are found. A clip with
    fewer frames repeats the nearest ones, in time order.

    Args:
        path: the video file.
        frames: how many to return.

    Returns:
        `(frames, 224, 224, 3)` uint8 RGB, and the time of each frame.

    Raises:
        UnreadableClip: the file is empty or not a video, or one of the frames cannot be decoded.
        OSError: the file cannot be read.
    """
    chosen = _read_chosen(path, frames) or _read_all(path, frames)
    if chosen is None:
        raise UnreadableClip("no frame can be decoded")
    clip = np.empty((frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    for index, image in enumerate(chosen.images):
        clip[index] = image
    return clip, chosen.times if min(chosen.times) >= 0 else None


class _Chosen(NamedTuple):
    """The sampled frames of a clip."""

    images: Sequence[np.ndarray]  # (224, 224, 3) uint8 RGB each
    times: tuple[float, ...]  # seconds


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
    usual = float(np.median(periods))
    return bool(np.abs(periods - usual).max() <= EVEN * usual)


def network_image(image: np.ndarray) -> np.ndarray:
    """Return a frame as the network gets it, `(224, 224, 3)` uint8 RGB.

    Args:
        image: `(height, width, 3)` uint8 BGR, as `Video.picture` returns it.
    """
    return cv2.cvtColor(cv2.resize(image, (FRAME_SIZE, FRAME_SIZE)), cv2.COLOR_BGR2RGB)


def _read_chosen(path: Path, frames: int) -> _Chosen | None:
    """Read the frames that the packets' times show to be evenly spaced; None if that fails."""
    with ExitStack() as stack:
        video = stack.enter_context(open_video(path))
        index = index_packets(video)
        if not index.has_times(video.longest_pause):
            return None
        rate = video.info.frames_per_second
        positions = positions_in_time(index.times, frames, rate)
        images = _images_at(video, path, index, positions)
        if images is None:
            images = _images_at(video, path, index, positions, neighbours=True)
    if images is None or set(positions) - images.keys():
        return None
    return _Chosen(
        [images[position] for position in positions],
        tuple(index.times[position] for position in positions),
    )


def _images_at(
    video: Video,
    path: Path,
    index: PacketIndex,
    positions: Sequence[int],
    neighbours: bool = False,
) -> dict[int, np.ndarray] | None:
    """Decode the frames at some positions, and of the others only those that they depend on.

    Args:
        video: open, of `path`.
        index: of its packets.
        positions: of the frames, in the order in which they are shown.
        neighbours: decode the frames around them, too: an interlaced one is deinterlaced with them.

    Returns:
        By position, the images of `network_image`; without those that cannot be decoded. None if
        there are interlaced frames, and `neighbours` is False.
    """
    wanted = {index.shown[position]: position for position in positions}
    around = {n + side for n in positions for side in ((-1, 0, 1) if neighbours else (0,))}
    needed = {index.shown[n] for n in around if 0 <= n < len(index.shown)}
    images: dict[int, np.ndarray] = {}
    with ExitStack() as stack:
        if index.held is None:
            video = stack.enter_context(open_video(path))
        packets = video.packets() if index.held is None else iter(index.held)
        for run in in_runs(packets, index.runs(needed)):
            video.forget_frames()
            for decoded in video.decoded(_skipping(video, run, needed)):
                if decoded.frame.interlaced_frame and not neighbours:
                    return None
                if decoded.frame.pts in wanted:
                    picture = video.picture(decoded)
                    if picture is not None:
                        images[wanted[decoded.frame.pts]] = network_image(picture)
    return images


def _skipping(video: Video, packets: Iterator[Packet], needed: set[int]) -> Iterator[Packet]:
    """Yield packets to decode; let the decoder skip frames that neither we nor others need."""
    for packet in packets:
        video.decode_references_only(packet.pts not in needed)
        yield packet


def _read_all(path: Path, frames: int) -> _Chosen | None:
    """Decode a whole clip, once if the container's frame count is right; None: it has no frame."""
    with open_video(path) as video:
        reported, rate = video.frame_count or 1, video.info.frames_per_second
    images, times = _read_pass(path, set(sample_positions(reported, frames).tolist()))
    if not times:
        return None
    positions = positions_in_time(times, frames, rate)
    if not images.keys() >= set(positions):
        images, times = _read_pass(path, set(positions))
    return _Chosen([images[position] for position in positions], tuple(times[n] for n in positions))


def _read_pass(path: Path, wanted: set[int]) -> tuple[dict[int, np.ndarray], list[float]]:
    """Decode a clip from its first frame to its last.

    Args:
        path: the video file.
        wanted: positions of the frames to return.

    Returns:
        By position, the images of `network_image`; and the times of all frames in seconds. Frames
        that cannot be converted are not counted.
    """
    images: dict[int, np.ndarray] = {}
    times: list[float] = []
    video = open_video(path)
    for frame in frames_of(video, video.info.frames_per_second):
        if len(times) in wanted:
            picture = frame.retrieve()
            if picture is None:
                continue
            images[len(times)] = network_image(picture)
        times.append(frame.time)
    return images, times
