"""A video file: opened, what it reports of itself, and its frames with their times."""

import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

FRAME_RATES = (1.0, 240.0)  # frames per second; a file that reports others is not believed
DEFAULT_PERIOD = 1 / 25  # seconds between frames, if neither times nor rate are known
LONGEST_PAUSE = 60.0  # seconds between two frames; more is a fault of the file's clock
MAX_FRAMES = 2**31  # reported frame counts from here on are not believed


class UnreadableClip(Exception):
    """A clip has no frames that can be read; the message is the reason."""


class VideoInfo(NamedTuple):
    """What a file reports of its video; None where it reports nothing plausible."""

    frames_per_second: float | None
    duration: float | None  # seconds


class Frame(NamedTuple):
    """A frame of a video, decoded but not converted yet."""

    position: int  # from 0
    time: float  # seconds
    retrieve: Callable[[], np.ndarray | None]  # (height, width, 3) uint8 BGR; None: undecodable


def open_video(path: Path) -> cv2.VideoCapture:
    """Open a video file, with one decoder thread: clips are decoded side by side.

    Raises:
        UnreadableClip: the file is empty or not a video, or its name is not valid UTF-8.
        OSError: there is no such file.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UnreadableClip("its name is not valid UTF-8: rename it") from error
    path = path.absolute()  # FFmpeg would take the start of "a:b.mp4" for a protocol
    if path.stat().st_size == 0:
        raise UnreadableClip("the file is empty")
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not video.isOpened():
        raise UnreadableClip("not a video that FFmpeg can open")
    return video


def frame_count(video: cv2.VideoCapture) -> int | None:
    """Return how many frames an open file reports; None if that is not plausible."""
    count = video.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and 1 <= count < MAX_FRAMES else None


def video_info(video: cv2.VideoCapture) -> VideoInfo:
    """Return what an open file reports of itself."""
    rate = video.get(cv2.CAP_PROP_FPS)
    if not (math.isfinite(rate) and FRAME_RATES[0] <= rate <= FRAME_RATES[1]):
        return VideoInfo(None, None)
    count = frame_count(video)
    return VideoInfo(rate, count / rate if count else None)


def reported_duration(path: Path) -> float | None:
    """Return a file's own statement of its duration in seconds, which may be false.

    Raises:
        UnreadableClip: as `open_video` does.
    """
    video = open_video(path)
    duration = video_info(video).duration
    video.release()
    return duration


def aspect_ratio(path: Path) -> float:
    """Return the width over the height of a video's picture as it is displayed.

    Raises:
        UnreadableClip: as `open_video` does; also if the size is unknown.
    """
    video = open_video(path)
    width, height = map(video.get, (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    # The sample aspect ratio is that of one pixel; where it is unknown, pixels are square.
    wide, high = (video.get(side) or 1.0 for side in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
    video.release()
    if not width * height > 0:
        raise UnreadableClip("its width and height are unknown")
    return width * wide / (height * high)


def frames_of(
    video: cv2.VideoCapture, frames_per_second: float | None
) -> Generator[Frame, None, None]:
    """Yield all frames in order, and release the video.

    Args:
        frames_per_second: None if unknown.

    Yields:
        Frames whose times increase: a time that the file reports out of order is replaced by the
        time before it plus the usual period. A frame can be retrieved until the next is yielded.
    """
    period = 1 / frames_per_second if frames_per_second else DEFAULT_PERIOD
    buffer: np.ndarray | None = None  # each frame is retrieved into the memory of the last

    def retrieve() -> np.ndarray | None:
        nonlocal buffer
        decoded, buffer = video.retrieve(buffer)
        return buffer if decoded else None

    time, reported_before = 0.0, math.nan
    position = 0
    while video.grab():
        reported = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if position == 0:
            time = reported if math.isfinite(reported) and reported > 0 else 0.0
        else:
            passed = reported - reported_before
            time += passed if 0 < passed <= LONGEST_PAUSE else period
        reported_before = reported
        yield Frame(position, time, retrieve)
        position += 1
    video.release()
