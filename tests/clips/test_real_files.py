"""Files that recorders, phones and archives leave behind, where they are at hand."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from violence_detection.clips.frames import (
    network_image,
    read_clip,
    read_frames,
    sample_positions,
)
from violence_detection.clips.video import UnreadableClip, frames_of, open_video

CASES = ROOT.parent / "shared" / "cases"
BLOCKS = 10  # of a frame's number in binary, from left to right, in the middle of the picture

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"there is no {CASES}")


def numbers(frames: np.ndarray) -> list[int]:
    """Return the numbers that are drawn on frames."""
    size = frames.shape[2] / BLOCKS
    centres = [int(size * (block + 0.5)) for block in range(BLOCKS)]
    bits = frames[:, frames.shape[1] // 2, centres].mean(axis=2) > 128
    return (bits @ (1 << np.arange(BLOCKS))).tolist()


@pytest.mark.parametrize(
    ("file", "length", "tolerance"),
    [
        ("01-interlaced-h264/interlaced264.mp4", 60, 0),
        ("03-video-pause-audio-goes-on/gap150.mkv", 80, 1),
        ("04-one-damaged-packet/one_packet_h264.mp4", 100, 1),
        ("04-one-damaged-packet/one_packet_vp8.webm", 100, 1),
        ("05-av1/av1.mp4", 30, 0),
    ],
)
def test_frames_are_spread_over_all_that_is_there(file: str, length: int, tolerance: int) -> None:
    found = numbers(read_frames(CASES / file, 16))
    assert found == pytest.approx(sample_positions(length, 16).tolist(), abs=tolerance)


def test_picture_of_a_front_camera_is_mirrored() -> None:
    frames = read_frames(CASES / "06-mirrored-display-matrix" / "mirror_h.mp4", 16)
    assert numbers(frames[:, :, ::-1]) == sample_positions(60, 16).tolist()
    corners = [frames[0, y, x].tolist() for y in (5, -5) for x in (5, -5)]
    assert np.array(corners) == pytest.approx(
        np.array([(0, 255, 0), (255, 0, 0), (255, 255, 255), (0, 0, 255)]), abs=20
    )


def test_fields_of_a_dvd_are_pictures() -> None:
    frames = read_frames(CASES / "01-interlaced-h264" / "dvd50i.mpg", 16).astype(int)
    assert frames.mean() > 60
    assert np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).min() > 0.5
    video = open_video(CASES / "01-interlaced-h264" / "dvd50i.mpg")
    whole = [network_image(frame.retrieve()) for frame in frames_of(video, 25.0)]
    np.testing.assert_array_equal(frames, [whole[n] for n in sample_positions(25, 16)])


def test_frames_before_and_after_damaged_ones_are_used(tmp_path: Path) -> None:
    packed = CASES / "04-one-damaged-packet" / "damaged_middle.avi.gz"
    clip = tmp_path / "damaged.avi"
    clip.write_bytes(gzip.decompress(packed.read_bytes()))
    found = numbers(read_frames(clip, 16))
    assert (found[0], found[-1]) == (0, 199)
    assert not set(found) & set(range(30, 120))


@pytest.mark.parametrize(
    "file",
    [
        "11-still-picture-judged/audio_cover.mp4",
        "16-playlists/concat_rel.mp4",
        "16-playlists/gif.mp4",
    ],
)
def test_what_is_no_video_is_refused(file: str) -> None:
    with pytest.raises(UnreadableClip):
        read_frames(CASES / file, 16)


@pytest.mark.parametrize(
    ("file", "frames", "seconds", "still"),
    [
        ("07-vfr-whole-and-window-differ/vfr_screen.mp4", 90, 10, False),
        ("12-long-video-by-16-frames/long700.mp4", 3500, 700, True),  # 16 frames miss its event
        ("14-sparse-frames/gap29s.mkv", 20, 551, False),
    ],
)
def test_what_a_clip_is_like(file: str, frames: int, seconds: float, still: bool) -> None:
    info = read_clip(CASES / file, 16)[1]
    assert (info.frames, info.still) == (frames, still)
    assert info.seconds == pytest.approx(seconds, rel=0.01)


def test_frames_of_a_variable_rate_are_even_in_time() -> None:
    times = read_clip(CASES / "07-vfr-whole-and-window-differ" / "vfr_screen.mp4", 16)[1].times
    assert times is not None
    # Two seconds at 30 frames a second, six without a new frame, two at 15.
    assert [len([t for t in times if start <= t < start + 2]) for start in (0, 2, 8)] == [4, 0, 12]
