"""The frames of one clip: evenly spaced, read in one pass, RGB, at the network's size."""

import os
from itertools import pairwise
from pathlib import Path

# FFmpeg would write about every damaged clip on the terminal; the run reports them itself.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

import cv2
import numpy as np

from violence_detection.settings.constants import FRAME_SIZE

Times = tuple[float, ...] | None  # of frames, in seconds from the start; None: not known


class UnreadableClip(Exception):
    """No frames can be had from a clip; the message says why."""


def read_frames(path: Path, frames: int) -> np.ndarray:
    """Return the frames of `read_timed_frames`."""
    return read_timed_frames(path, frames)[0]


def read_timed_frames(path: Path, frames: int) -> tuple[np.ndarray, Times]:
    """Return `frames` evenly spaced frames of a clip, its first and last among them.

    The clip is read sequentially by one decoder thread; frames that are not wanted are passed
    over without being converted. A clip of fewer frames repeats its nearest ones, in time order.
    The frame count of the container is only believed if the clip bears it out: otherwise the
    clip is read again, spread over the frames that are really there.

    Returns:
        `(frames, 224, 224, 3)` uint8, RGB, and when each of them is shown.

    Raises:
        UnreadableClip: the file is empty, not a video, or has no frame that can be decoded.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UnreadableClip("its name is not valid UTF-8: rename it") from error
    path = path.absolute()  # a name with a colon is not to be taken for a protocol
    if path.stat().st_size == 0:
        raise UnreadableClip("the file is empty")
    images, times, told, length = _read_pass(path, frames)
    if length == 0:
        raise UnreadableClip("no frame can be decoded")
    if length != told:
        images, times, _, length = _read_pass(path, frames, length)
    clip = np.empty((frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    positions = sample_positions(length, frames).tolist()
    for place, position in enumerate(positions):
        if position not in images:
            raise UnreadableClip(f"frame {position} of {length} cannot be decoded")
        cv2.cvtColor(images[position], cv2.COLOR_BGR2RGB, dst=clip[place])
    return clip, _checked_times(positions, times)


def _checked_times(positions: list[int], times: dict[int, float]) -> Times:
    """Return when the frames at `positions` are shown; None if they do not follow each other."""
    shown = [times[position] for position in positions]
    places = sorted(times)
    later = all(times[a] < times[b] for a, b in pairwise(places))
    return tuple(shown) if later and min(shown) >= 0 else None


def even_positions(cached: int, frames: int) -> np.ndarray:
    """Return `(frames,)` int32: the middle of each of `frames` equal parts of `cached` frames."""
    return ((2 * np.arange(frames) + 1) * cached // (2 * frames)).astype(np.int32)


def sample_positions(length: int, frames: int) -> np.ndarray:
    """Return `(frames,)` int64 positions, evenly spaced from 0 to `length - 1`, in time order."""
    return np.linspace(0, max(length, 1) - 1, frames).round().astype(np.int64)


def _read_pass(
    path: Path, frames: int, length: int | None = None
) -> tuple[dict[int, np.ndarray], dict[int, float], int, int]:
    """Read a clip once, from its first frame to its last.

    Returns:
        The images (BGR, at the network's size) at the positions that `length` asks for, by
        position; their times in seconds; `length`, as the container tells it where it is not
        given; and how many frames there really are.
    """
    # One thread: clips are decoded side by side, which costs less than frames side by side.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise UnreadableClip("not a video that FFmpeg can open")
    if length is None:
        told = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        length = int(told) if 1 <= told < 2**31 else 1  # unknown: this pass only counts
    wanted = set(sample_positions(length, frames).tolist())
    images: dict[int, np.ndarray] = {}
    times: dict[int, float] = {}
    image: np.ndarray | None = None  # each frame is retrieved into the memory of the one before
    position = 0
    while capture.grab():
        if position in wanted:
            decoded, image = capture.retrieve(image)
            if decoded and image is not None:
                images[position] = cv2.resize(image, (FRAME_SIZE, FRAME_SIZE))
                times[position] = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        position += 1
    capture.release()
    return images, times, length, position
