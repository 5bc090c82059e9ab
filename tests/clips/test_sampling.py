from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from violence_detection.clips.frames import read_frames, sample_positions
from violence_detection.clips.sampling import Sample, Sampler, Sampling, check_windows, sample_video
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import Frame, UnreadableClip, VideoInfo
from violence_detection.errors import UserError


def sampling(window: float, stride: float, frames: int, used: Sequence[int] | None = None):
    return Sampling(window, stride, ("rgb",), frames, tuple(used or range(frames)))


def positions_sampled(sampler: Sampler, times: Sequence[float]) -> list[int]:
    """Return the positions of the frames that are sampled of a video, by their brightness."""
    found = []
    for position, time in enumerate(times):
        image = np.full((8, 8, 3), position, np.uint8)
        found += [
            int(s.images.max()) for s in sampler.take(Frame(position, time, lambda i=image: i))
        ]
    return found


@pytest.mark.parametrize("length", [3, 9, 16, 17, 24, 50, 64, 75])
@pytest.mark.parametrize("frames", [2, 4, 5, 9, 16])
@pytest.mark.parametrize("rate", [12.0, 25.0, 30000 / 1001])
def test_window_of_a_clips_length_has_the_frames_of_the_clip(
    length: int, frames: int, rate: float
) -> None:
    sampler = Sampler(sampling(length / rate, 1.0, frames), rate)
    times = [n / rate for n in range(length)]
    assert positions_sampled(sampler, times) == sample_positions(length, frames).tolist()


def test_times_that_a_container_rounds_make_no_difference() -> None:
    sampler = Sampler(sampling(2.0, 1.0, 16), 30.0)
    times = [round(n / 30, 3) for n in range(60)]  # as Matroska keeps them
    assert positions_sampled(sampler, times) == sample_positions(60, 16).tolist()


def test_rare_frames_serve_several_samples() -> None:
    sampler = Sampler(sampling(1.0, 1.0, 6), None)  # a sample each 0.2 s
    assert positions_sampled(sampler, [0.0, 0.5, 1.0]) == [0, 1, 1, 2, 2, 2]
    assert positions_sampled(sampler, [1.05, 1.25]) == [1]  # 1.4 s is not over yet


def test_what_moves_under_a_mask_is_not_seen() -> None:
    """A square moves along the upper left quarter of the picture."""
    quarter = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5))
    for mask, is_seen in (((), True), ((quarter,), False)):
        plan = Sampling(1.0, 1.0, ("rgb", "difference"), 4, tuple(range(4)), mask)
        sampler, found = Sampler(plan, 4.0), []
        for number in range(6):
            image = np.full((100, 100, 3), 120, np.uint8)
            image[5:20, 5 + 5 * number : 20 + 5 * number] = 255
            found += sampler.take(Frame(number, number / 4, lambda i=image: i))
        assert any(sample.moved for sample in found[1:]) == is_seen
        assert any(sample.images[1].any() for sample in found[1:]) == is_seen
        assert (found[-1].images[0][120:, 120:] == 120).all()


def test_undecodable_frame_is_skipped() -> None:
    sampler = Sampler(sampling(1.0, 1.0, 3), 4.0)
    image = np.zeros((8, 8, 3), np.uint8)
    frames = [Frame(n, n / 4, lambda n=n: None if n == 0 else image) for n in range(4)]
    taken = [(frame.position, s.number) for frame in frames for s in sampler.take(frame)]
    assert taken == [(1, 0), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    ("window", "stride", "frames", "used", "step"),
    [
        (2.0, 1.0, 16, None, 8),  # of 0.1307 s
        (2.0, 2.0, 16, None, 15),
        (2.0, 0.01, 16, None, 1),  # at least a whole sample
        (2.0, 1.0, 32, range(1, 32, 2), 16),  # every second sample is used
        (2.0, 0.01, 32, range(1, 32, 2), 2),
    ],
)
def test_windows_begin_whole_samples_apart(
    window: float, stride: float, frames: int, used: Sequence[int] | None, step: int
) -> None:
    windows = sampling(window, stride, frames, used)
    assert windows.step(windows.interval(25.0)) == step
    if used:
        assert [n for n in range(8) if windows.is_used(n)] == [1, 3, 5, 7]


def test_samples_of_a_video_show_what_the_clip_shows(drawn_clips: Path) -> None:
    path = drawn_clips / "train" / "violent" / "violent0.mp4"
    streams = ("rgb", "difference", "flow")
    info, *samples, _ = sample_video(path, Sampling(2.0, 1.0, streams, 6, tuple(range(6))))
    assert info == VideoInfo(12.0, 2.0)
    frames = read_frames(path, 6)
    for index, stream in enumerate(streams):
        shown = [sample.images[index] for sample in samples]
        # The movement of the first frame is unknown: its window repeats the second's.
        first = 0 if stream == "rgb" else 1
        np.testing.assert_array_equal(shown[first:], stream_images(frames, stream)[first:])


@pytest.mark.parametrize("content", [b"", b"hello" * 99])
def test_file_that_is_not_a_video_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableClip):
        list(sample_video(path, sampling(1.0, 1.0, 4)))


@pytest.mark.parametrize(("window", "stride"), [(0.0, 0.0), (2.0, 3.0), (2.0, 0.0), (2.0, -1.0)])
def test_windows_that_would_skip_parts_are_refused(window: float, stride: float) -> None:
    with pytest.raises(UserError, match=r"--(window|stride) .*: must be"):
        check_windows(window, stride)


def test_only_used_samples_have_images(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), number, np.uint8))
    writer.release()
    _, *samples, _ = sample_video(tmp_path / "v.avi", sampling(1.0, 0.5, 4, (1, 3)))
    assert [isinstance(sample, Sample) for sample in samples] == [True] * len(samples)
    assert [sample.images is not None for sample in samples] == [
        sample.number % 2 == 1 for sample in samples
    ]
