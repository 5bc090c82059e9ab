"""Windows of long videos, whose frames are read to see what is in them."""

from pathlib import Path

import numpy as np
import pytest

from tests.clips.videos import write_clip
from violence_detection.clips.clip import Clip, Segment
from violence_detection.clips.video_windows import windows_of

FRAMES, RATE = 70, 10  # the file says 6.94 s


@pytest.fixture
def video(tmp_path: Path) -> Path:
    images = [np.full((48, 64, 3), 3 * number, np.uint8) for number in range(FRAMES)]
    path = tmp_path / "video.mp4"
    write_clip(path, images, times=[number / RATE for number in range(FRAMES)])
    return path


def spans(video: Path, window: float, segment: Segment | None = None) -> list[tuple | None]:
    clip = Clip(video.parent, video.name, 1, "train", "gate", segment=segment)
    (windows,) = windows_of([clip], window, 60).values()
    assert {(w.file, w.label, w.split, w.group) for w in windows} == {
        ("video.mp4", 1, "train", "gate")
    }
    return [w.segment and (w.segment.start, round(w.segment.end or 0, 3)) for w in windows]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (3.5, [(0, 3.5), (3.5, 6.94)]),
        (3, [(0, 3), (3, 6.94)]),  # a rest of less than half a window belongs to the last one
        (1.5, [(0, 1.5), (1.5, 3), (3, 4.5), (4.5, 6), (6, 6.94)]),
        (6, [None]),
        (100, [None]),
    ],
)
def test_windows_cover_the_video(video: Path, window: float, expected: list) -> None:
    assert spans(video, window) == expected


def test_windows_of_a_segment_are_within_it(video: Path) -> None:
    assert spans(video, 2, Segment(1.5, 5.5)) == [(1.5, 3.5), (3.5, 5.5)]
    assert spans(video, 2, Segment(3, None)) == [(3, 5), (5, 6.94)]


def test_video_that_cannot_be_read_is_its_only_window(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"no video")
    assert spans(tmp_path / "video.mp4", 2) == [None]
