from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.browser import launched, needs_browser
from tests.clips.videos import grey, write_clip
from violence_detection.clips.frames import read_clip
from violence_detection.errors import RunError
from violence_detection.inference.annotation import annotate_video
from violence_detection.inference.events import Event, Timeline, Window

TIMEOUT = 60.0  # seconds


def frames_in(path: Path) -> tuple[np.ndarray, float]:
    """Return all frames of a video and its rate."""
    video = cv2.VideoCapture(str(path))
    rate, frames = video.get(cv2.CAP_PROP_FPS), []
    while True:
        decoded, image = video.read()
        if not decoded:
            return np.stack(frames), rate
        frames.append(image)


@pytest.fixture
def clip(drawn_clips: Path) -> Path:
    return drawn_clips / "test" / "violent" / "violent0.mp4"


def test_copy_has_the_size_and_rate_of_the_video_and_the_score(clip: Path, tmp_path: Path) -> None:
    windows = (Window(0.0, 0.9, 0.05), Window(1.0, 1.9, 0.95))
    timeline = Timeline(clip, windows, (Event(1.0, 1.9, 1.45, 0.95),))
    annotate_video(timeline, 0.5, tmp_path / "out.mp4", TIMEOUT)
    (before, rate_before), (after, rate_after) = frames_in(clip), frames_in(tmp_path / "out.mp4")
    assert after.shape == before.shape
    assert rate_after == pytest.approx(rate_before)
    height = before.shape[1]
    band, picture = slice(height - height // 20, height), slice(height // 4, height // 2)
    middle = slice(60, 120)
    changed = np.abs(after.astype(int) - before).mean(axis=(2, 3))
    assert changed[:, picture].mean() < 8  # the picture itself is unchanged
    assert changed[:, band].mean() > 30
    red, blue = after[:, band, middle, 2].mean(axis=(1, 2)), after[:, band, middle, 0].mean((1, 2))
    assert np.all(red[14:] > blue[14:] + 50)  # a long bar in the colour of the violent class
    assert np.all(red[:9] < blue[:9] + 50)


def test_copy_has_the_times_of_the_frames(tmp_path: Path) -> None:
    times = [0, 0.04, 0.08, 1.5, 1.54, 4, 4.04]
    path = write_clip(
        tmp_path / "clip.mkv", [grey(9, (65, 49))] * len(times), codec="ffv1", times=times
    )
    timeline = Timeline(path, (Window(0.0, 4.0, 0.9),))
    annotate_video(timeline, 0.5, tmp_path / "out.mp4", TIMEOUT)
    with av.open(str(tmp_path / "out.mp4")) as copy:
        assert copy.streams.video[0].codec_context.name == "h264"
        assert [frame.time for frame in copy.decode(video=0)] == pytest.approx(times, abs=1e-3)


def test_unreadable_video_leaves_no_copy(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    timeline = Timeline(tmp_path / "empty.mp4", (Window(0.0, 1.0, 0.5),))
    with pytest.raises(RunError, match="the file is empty"):
        annotate_video(timeline, 0.5, tmp_path / "out.mp4", TIMEOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.mp4"]


@needs_browser
def test_copy_plays_in_a_browser(clip: Path, tmp_path: Path) -> None:
    timeline = Timeline(clip, (Window(0.0, 1.9, 0.9),))
    annotate_video(timeline, 0.5, tmp_path / "out.mp4", TIMEOUT)
    with launched() as browser:
        page = browser.new_page()
        (tmp_path / "page.html").write_text('<video src="out.mp4" muted></video>')
        page.goto((tmp_path / "page.html").as_uri())
        played = page.evaluate(
            """async () => {
              const video = document.querySelector("video");
              const ended = new Promise((resolve, reject) => {
                video.onended = resolve;
                video.onerror = () => reject(video.error.message);
              });
              await video.play();
              await ended;
              return [video.currentTime, video.videoWidth, video.getVideoPlaybackQuality()
                .totalVideoFrames];
            }"""
        )
    with av.open(str(clip)) as source:
        width = source.streams.video[0].width
    assert played == [pytest.approx(2.0, abs=0.1), width, pytest.approx(24, abs=4)]


def test_copy_of_pixels_that_are_not_square_looks_like_the_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [grey(9)] * 5, pixel=Fraction(16, 11))
    annotate_video(Timeline(path, (Window(0.0, 0.2, 0.9),)), 0.5, tmp_path / "out.mp4", TIMEOUT)
    assert read_clip(tmp_path / "out.mp4", 2)[1].aspect_ratio == pytest.approx(64 / 48 * 16 / 11)
