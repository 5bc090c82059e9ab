"""The frames of one clip: evenly spaced, read in one pass, RGB, at the network's size."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from violence_detection.clips.video import UnreadableClip, frame_count, open_video
from violence_detection.settings.constants import FRAME_SIZE

Times = tuple[float, ...] | None  # of frames, in seconds from the start; None if unknown


def read_frames(path: Path, frames: int) -> np.ndarray:
    """Return the frames of `read_timed_frames` without their times."""
    return read_timed_frames(path, frames)[0]


def read_timed_frames(path: Path, frames: int) -> tuple[np.ndarray, Times]:
    """Return `frames` evenly spaced frames of a clip, its first and last among them.

    The clip is read sequentially; frames that are not needed are skipped without conversion. A
    clip with fewer frames repeats the nearest ones, in time order. The container's frame count may
    be wrong: then the clip is read again, with positions spread over the frames that were found.

    Args:
        path: the video file.
        frames: how many to return.

    Returns:
        `(frames, 224, 224, 3)` uint8 RGB, and the time of each frame.

    Raises:
        UnreadableClip: the file is empty or not a video, or one of the frames cannot be decoded.
    """
    images, times, reported, length = _read_pass(path, frames)
    if length == 0:
        raise UnreadableClip("no frame can be decoded")
    if length != reported:
        images, times, _, length = _read_pass(path, frames, length)
    positions = sample_positions(length, frames).tolist()
    clip = np.empty((frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    for index, position in enumerate(positions):
        if position not in images:
            raise UnreadableClip(f"frame {position} of {length} cannot be decoded")
        clip[index] = images[position]
    return clip, _checked_times(positions, times)


def _checked_times(positions: list[int], times: dict[int, float]) -> Times:
    """Return the times of the frames at `positions`; None if they do not increase."""
    shown = [times[position] for position in positions]
    increasing = all(times[a] < times[b] for a, b in pairwise(sorted(times)))
    return tuple(shown) if increasing and min(shown) >= 0 else None


def even_positions(cached: int, frames: int) -> np.ndarray:
    """Return `(frames,)` int32: the middle of each of `frames` equal parts of `cached` frames."""
    return ((2 * np.arange(frames) + 1) * cached // (2 * frames)).astype(np.int32)


def sample_positions(length: int, frames: int) -> np.ndarray:
    """Return `(frames,)` int64 positions, evenly spaced from 0 to `length - 1`, in time order."""
    return np.linspace(0, max(length, 1) - 1, frames).round().astype(np.int64)


def network_image(image: np.ndarray) -> np.ndarray:
    """Return a frame as the network gets it, `(224, 224, 3)` uint8 RGB.

    Args:
        image: `(height, width, 3)` uint8 BGR, as OpenCV decodes it.
    """
    return cv2.cvtColor(cv2.resize(image, (FRAME_SIZE, FRAME_SIZE)), cv2.COLOR_BGR2RGB)


def _read_pass(
    path: Path, frames: int, length: int | None = None
) -> tuple[dict[int, np.ndarray], dict[int, float], int, int]:
    """Read a clip once, from its first frame to its last.

    Args:
        path: the video file.
        frames: how many are sampled.
        length: over how many frames the samples are spread; None: as many as the file reports.

    Returns:
        By position, the images of `network_image` and their times in seconds; `length`; and how
        many frames were found.
    """
    video = open_video(path)
    if length is None:
        length = frame_count(video) or 1  # if it is unknown, this pass only counts
    wanted = set(sample_positions(length, frames).tolist())
    images: dict[int, np.ndarray] = {}
    times: dict[int, float] = {}
    buffer: np.ndarray | None = None  # each frame is retrieved into the memory of the last
    position = 0
    while video.grab():
        if position in wanted:
            decoded, buffer = video.retrieve(buffer)
            if decoded and buffer is not None:
                images[position] = network_image(buffer)
                times[position] = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        position += 1
    video.release()
    return images, times, length, position
