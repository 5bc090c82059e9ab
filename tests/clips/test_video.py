import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from violence_detection.clips.frames import read_clip
from violence_detection.clips.video import (
    UnreadableClip,
    frames_of,
    increasing_times,
    open_video,
    reported_duration,
)


def write_video(path: Path, frames: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Write a video of 10 frames a second, whose frame n has brightness 4 n."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 4 * number, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("reported", "times"),
    [
        ([1.4, 1.5, 1.6], [1.4, 1.5, 1.6]),
        ([0, 0, 0], [0, 0.1, 0.2]),  # no times
        ([0, 0.1, 7000, 7000.1], [0, 0.1, 0.2, 0.3]),  # its clock jumps
        ([5, 5.1, 0, 0.1], [5, 5.1, 5.2, 5.3]),  # its clock restarts
        ([-1, math.nan, 0.1], [0, 0.1, 0.2]),
    ],
)
def test_times_increase_whatever_the_file_reports(
    reported: list[float], times: list[float]
) -> None:
    assert list(increasing_times(reported, 0.1, longest_pause=60.0)) == pytest.approx(times)


def test_frames_are_all_there_in_order(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "clip.avi", 30))
    frames = [
        (frame.position, frame.time, round(frame.retrieve().mean() / 4))
        for frame in frames_of(video, 10.0)
    ]
    assert frames == [(n, pytest.approx(n / 10), n) for n in range(30)]


def test_file_reports_its_rate_and_duration(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 30)
    assert open_video(path).info == (10.0, 3.0)
    assert reported_duration(path) == 3.0


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (320, 64)])
def test_aspect_ratio_is_width_over_height(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "clip.avi", 2, size=size)
    assert read_clip(path, 2)[1].aspect_ratio == pytest.approx(size[0] / size[1])


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"hello" * 99, "not a video")])
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    for read in (open_video, reported_duration):
        with pytest.raises(UnreadableClip, match=reason):
            read(tmp_path / "clip.mp4")
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path / "missing.mp4")
