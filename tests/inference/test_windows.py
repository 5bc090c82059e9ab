from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.inference.detectors import as_variant
from violence_detection.clips.dataset import video_files
from violence_detection.clips.sampling import Sample, Sampler
from violence_detection.clips.video import UnreadableClip, frames_of, open_video
from violence_detection.inference.detector import Detector
from violence_detection.inference.events import Window
from violence_detection.inference.windows import (
    WindowPredictor,
    predict_timeline,
    predict_video,
    window_sampling,
)

TIMEOUT = 60.0  # seconds


@pytest.fixture(scope="module")
def long_video(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 12 s: three nonviolent clips, two violent ones, one nonviolent one."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    test = drawn_clips / "test"
    names = ["nonviolent0", "nonviolent1", "nonviolent3", "violent0", "violent1", "nonviolent0"]
    write_joined([test / name.rstrip("0123") / f"{name}.mp4" for name in names], path)
    return path


def write_joined(clips: Sequence[Path], path: Path) -> None:
    writer = None
    for clip in clips:
        capture = cv2.VideoCapture(str(clip))
        while True:
            decoded, image = capture.read()
            if not decoded:
                break
            writer = writer or cv2.VideoWriter(
                str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, image.shape[1::-1]
            )
            writer.write(image)
    writer.release()


@pytest.mark.parametrize("window", [2.0, 60.0])  # as long as the clips, and longer
def test_window_that_covers_a_clip_is_predicted_as_the_clip(
    detector: Detector, drawn_clips: Path, window: float
) -> None:
    sampling = window_sampling(detector, window, window / 2)
    paths = video_files(drawn_clips / "test")[::4]
    for path, prediction in zip(paths, detector.predict_clips(paths, TIMEOUT), strict=True):
        (only,) = predict_video(detector, path, sampling, TIMEOUT)
        assert only.probability == pytest.approx(prediction.probability, abs=1e-6)
        assert (only.start, only.end) == pytest.approx((0, 23 / 12))


def samples_of(video: Path, detector: Detector, window: float, stride: float) -> Iterator[Sample]:
    opened = open_video(video)
    sampler = Sampler(window_sampling(detector, window, stride), opened.info.frames_per_second)
    for frame in frames_of(opened, 12.0):
        yield from sampler.take(frame)


def test_windows_cover_the_video_and_are_the_same_in_any_batch(
    detector: Detector, long_video: Path
) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    windows = list(predict_video(detector, long_video, sampling, TIMEOUT))
    assert windows[0].start == 0
    assert windows[-1].end > 12 - 0.5
    steps = np.diff([window.start for window in windows])
    assert np.all(steps[:-1] == pytest.approx(1.0, abs=0.25))
    assert np.all(steps > 0)
    assert all(
        window.end - window.start == pytest.approx(2 - 1 / 12, abs=0.1) for window in windows
    )
    # One sample at a time, as they come from a camera.
    predictor = WindowPredictor(detector, sampling, sampling.interval(12.0), samples_per_batch=1)
    live: list[Window] = []
    for sample in samples_of(long_video, detector, 2.0, 1.0):
        predictor.add(sample)
        live += predictor.predict()
    live += predictor.predict(ended=True)
    assert [window[:2] for window in live] == [window[:2] for window in windows]
    assert [w.probability for w in live] == pytest.approx(
        [w.probability for w in windows], abs=1e-6
    )


def test_no_image_is_computed_twice(detector: Detector, long_video: Path) -> None:
    computed: list[int] = []

    class Counting(Detector):
        def frame_features(self, images: np.ndarray, at_once: int | None = None) -> np.ndarray:
            computed.append(images.shape[0] * images.shape[1])
            return super().frame_features(images, at_once)

    counting = as_variant(detector, Counting)
    samples = [s for s in samples_of(long_video, detector, 2.0, 0.5) if s.images is not None]
    sampling = window_sampling(detector, 2.0, 0.5)
    windows = list(predict_video(counting, long_video, sampling, TIMEOUT))
    assert len(windows) > 20
    assert sum(computed) == 2 * len(samples)  # two streams
    assert sum(computed) < len(windows) * 4 * 2 / 2  # half of the images in the windows


def _part(path: Path, first: int, last: int) -> Path:
    """Return a video of some frames of another."""
    capture, part = cv2.VideoCapture(str(path)), path.with_name("part.avi")
    frames = [capture.read()[1] for _ in range(last)][first:]
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"FFV1"), 10, (64, 64))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return part


def test_stills_are_computed_once(detector: Detector, tmp_path: Path) -> None:
    """Four pictures, five seconds each, in windows of half a second."""
    path = tmp_path / "stills.mp4"
    random = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(4):
        still = random.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        for _ in range(50):
            writer.write(still)
    writer.release()
    computed: list[int] = []

    class Counting(Detector):
        def frame_features(self, images: np.ndarray, at_once: int | None = None) -> np.ndarray:
            computed.append(images.shape[0] * images.shape[1])
            return super().frame_features(images, at_once)

    sampling = window_sampling(detector, 0.5, 0.5)
    found = list(predict_video(as_variant(detector, Counting), path, sampling, TIMEOUT))
    # Of each still: its first image, which differs from the still before, and the rest.
    assert sum(computed) <= 2 * 4 * 2
    inside = [window.probability for window in found if window.start > 6 and window.end < 9]
    assert len(inside) > 3
    (clip,) = detector.predict_clips([_part(path, 50, 60)], TIMEOUT)
    assert inside == pytest.approx([clip.probability] * len(inside), abs=1e-5)


def test_violence_is_found_where_it_is(detector: Detector, long_video: Path) -> None:
    timeline = predict_timeline(detector, long_video, window_sampling(detector, 2.0, 0.5), TIMEOUT)
    assert timeline.error is None
    inside = [w.probability for w in timeline.windows if w.start >= 6 and w.end <= 10]
    outside = [w.probability for w in timeline.windows if w.end <= 5.9 or w.start >= 10.1]
    assert np.mean(inside) > np.mean(outside) + 0.1
    assert any(event.start < 10 and event.end > 6 for event in timeline.events)
    assert all(event.start <= event.peak <= event.end for event in timeline.events)


@pytest.mark.parametrize("content", [b"", b"hello" * 99, None])
def test_video_that_cannot_be_read_says_why(
    detector: Detector, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "video.mp4"
    if content is not None:
        path.write_bytes(content)
    timeline = predict_timeline(detector, path, window_sampling(detector, 2.0, 1.0), TIMEOUT)
    assert timeline.windows == ()
    assert timeline.error


def test_video_that_ends_early_keeps_what_was_read(detector: Detector, long_video: Path) -> None:
    def cut(*arguments: object, **limits: object) -> Generator[object, None, None]:
        yield open_video(long_video).info
        for sample in samples_of(long_video, detector, 2.0, 1.0):
            if sample.time > 8:
                raise UnreadableClip("its decoder died (SIGSEGV)")
            yield sample

    sampling = window_sampling(detector, 2.0, 1.0)
    timeline = predict_timeline(detector, long_video, sampling, TIMEOUT, stream=cut)
    assert len(timeline.windows) >= 4
    assert timeline.error == "its decoder died (SIGSEGV)"
    assert all(window.end <= 8 for window in timeline.windows)
