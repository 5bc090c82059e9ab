import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from violence_detection.clips.frames import read_frames, read_timed_frames, sample_positions
from violence_detection.clips.video import UnreadableClip
from violence_detection.settings.constants import FRAME_SIZE


def write_video(path: Path, frames: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Write a video whose frame n is of brightness 4 n."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 4 * number, np.uint8))
    writer.release()
    return path


def frame_numbers(frames: np.ndarray) -> list[int]:
    return np.round(frames.mean(axis=(1, 2, 3)) / 4).astype(int).tolist()


@pytest.mark.parametrize(
    ("length", "frames", "expected"),
    [
        (50, 16, [0, 3, 7, 10, 13, 16, 20, 23, 26, 29, 33, 36, 39, 42, 46, 49]),
        (16, 16, list(range(16))),
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (1, 3, [0, 0, 0]),
        (9, 1, [0]),
    ],
)
def test_positions_are_even_from_first_to_last(
    length: int, frames: int, expected: list[int]
) -> None:
    assert sample_positions(length, frames).tolist() == expected


def test_frames_have_their_times(tmp_path: Path) -> None:
    frames, times = read_timed_frames(write_video(tmp_path / "clip.avi", 50), 4)
    assert times == pytest.approx([0, 16 / 25, 33 / 25, 49 / 25])
    assert frame_numbers(frames) == [0, 16, 33, 49]
    assert read_timed_frames(write_video(tmp_path / "short.avi", 2), 4)[1] == pytest.approx(
        [0, 0, 1 / 25, 1 / 25]
    )


@pytest.mark.parametrize("length", [50, 5, 1])
def test_frames_are_those_at_the_positions(tmp_path: Path, length: int) -> None:
    path = write_video(tmp_path / "clip.avi", length)
    frames = read_frames(path, 16)
    assert frames.shape == (16, FRAME_SIZE, FRAME_SIZE, 3)
    assert frames.dtype == np.uint8
    assert frame_numbers(frames) == sample_positions(length, 16).tolist()


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(
        str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48)
    )
    writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))  # OpenCV's order: blue first
    writer.release()
    red, green, blue = read_frames(tmp_path / "red.avi", 1).mean(axis=(0, 1, 2))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("number", [0, 40, 80])
def test_pixels_equal_those_of_seeking_to_each_frame(real_clips: Path, number: int) -> None:
    """The fast way returns the same pixels as the simple one."""
    path = sorted(real_clips.glob("t*/*/*.mp4"))[number]
    capture, images = cv2.VideoCapture(str(path)), []
    for position in sample_positions(reported_length(path), 16).tolist():
        capture.set(cv2.CAP_PROP_POS_FRAMES, position)
        _, image = capture.read()
        images.append(cv2.cvtColor(cv2.resize(image, (224, 224)), cv2.COLOR_BGR2RGB))
    np.testing.assert_array_equal(read_frames(path, 16), images)


def reported_length(path: Path) -> int:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


@pytest.mark.parametrize("reported", [20, 1000, 0])
def test_wrong_frame_count_in_the_container_is_corrected(tmp_path: Path, reported: int) -> None:
    path = write_video(tmp_path / "clip.avi", 40)
    content = bytearray(path.read_bytes())
    for box, offset in ((b"avih", 24), (b"strh", 40)):  # total frames, stream length
        at = content.index(box) + offset
        content[at : at + 4] = reported.to_bytes(4, "little")
    path.write_bytes(content)
    assert reported_length(path) != 40
    assert frame_numbers(read_frames(path, 16)) == sample_positions(40, 16).tolist()


def test_truncated_clip_is_sampled_over_its_remaining_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 60, size=(320, 240))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    numbers = frame_numbers(read_frames(path, 16))
    assert len(set(numbers)) == 16
    assert numbers == sample_positions(numbers[-1] + 1, 16).tolist()
    assert 15 < numbers[-1] < 45


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"not a video" * 1000, "not a video"), (b"\0" * 5000, "not a video")],
)
def test_unreadable_clip_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(UnreadableClip, match=reason):
        read_frames(tmp_path / "clip.mp4", 16)


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.avi"))
    write_video(tmp_path / "clip.avi", 2).rename(path)
    with pytest.raises(UnreadableClip, match="rename it"):
        read_frames(path, 2)


def test_video_without_frames_is_unreadable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 3)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 4])
    with pytest.raises(UnreadableClip):
        read_frames(path, 16)


@pytest.mark.parametrize("name", ["two words.avi", "драка 战斗.avi", "q\"uo'te%03d.avi", "a:b.avi"])
def test_unusual_names_are_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / name, 4)
    monkeypatch.chdir(tmp_path)
    assert frame_numbers(read_frames(Path(name), 4)) == [0, 1, 2, 3]
