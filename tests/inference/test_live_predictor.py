from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.inference.conftest import Clock
from tests.inference.live_fakes import CAMERA, RATE, PlayedReader, camera_items, timed
from violence_detection.clips.frames import network_image
from violence_detection.clips.sampling import Sampling
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import frames_of, open_video
from violence_detection.inference.detector import Detector
from violence_detection.inference.live_predictor import LivePredictor, LiveWindow
from violence_detection.inference.live_source import (
    Arrival,
    FrameCount,
    Item,
    Source,
    sample_source,
)
from violence_detection.inference.windows import predict_video, window_sampling

TIMEOUT = 60.0  # seconds


def predict_all(
    predictor: LivePredictor, items: Sequence[tuple[float, Item]], clock: Clock
) -> list[LiveWindow]:
    """Return the windows of a source that is played to its end."""
    reader = PlayedReader(CAMERA, items, clock)
    windows: list[LiveWindow] = []
    idle = False
    while reader.items or not idle:
        for item in reader.take(0.1 if idle else 0.0):
            if isinstance(item, Arrival):
                predictor.add(item)
        found = predictor.step()
        idle = found is None
        windows += found or ()
    return windows


def predictor_on(
    detector: Detector, sampling: Sampling, seconds: float, clock: Clock
) -> LivePredictor:
    """Return a predictor on a machine on which a pass takes so many seconds."""
    own = timed(detector, clock, lambda: seconds)
    return LivePredictor(own, sampling, sampling.interval(RATE), deque([seconds], 16), clock)


@pytest.mark.parametrize(("window", "stride"), [(1.0, 0.5), (1.5, 0.4), (0.5, 0.5)])
def test_file_has_the_same_windows_live(
    detector: Detector, short_video: Path, clock: Clock, window: float, stride: float
) -> None:
    sampling = window_sampling(detector, window, stride)
    expected = list(predict_video(detector, short_video, sampling, TIMEOUT))
    source = Source(str(short_video), "file")
    items = [
        (clock.now, item)
        for item in sample_source(source, sampling, 10.0, clock, clock.sleep)
        if not isinstance(item, FrameCount)
    ]
    clock.now = 1000.0
    predictor = LivePredictor(detector, sampling, sampling.interval(RATE), deque([0.001]), clock)
    windows = predict_all(predictor, items, clock)
    predictor.end()
    windows += predictor.step() or []
    assert [found.window[:2] for found in windows] == [w[:2] for w in expected]
    probabilities = [found.window.probability for found in windows]
    assert probabilities == pytest.approx([w.probability for w in expected], abs=1e-5)
    assert predictor.skipped == 0


def test_window_is_predicted_as_a_clip_of_its_frames(
    detector: Detector, short_video: Path, clock: Clock
) -> None:
    sampling = window_sampling(detector, 1.0, 0.5)
    source = Source(str(short_video), "file")
    items = [
        (clock.now, item) for item in sample_source(source, sampling, 10.0, clock, clock.sleep)
    ]
    times = [item.sample.time for _, item in items if isinstance(item, Arrival)]
    pictures = {
        round(frame.time, 3): network_image(frame.retrieve())
        for frame in frames_of(open_video(short_video), RATE)
    }
    clock.now = 1000.0
    predictor = LivePredictor(detector, sampling, sampling.interval(RATE), deque([0.001]), clock)
    windows = predict_all(predictor, items, clock)
    assert len(windows) > 1
    for found in windows:
        first = times.index(found.window.start)
        frames = np.stack([pictures[round(time, 3)] for time in times[first : first + 6]])
        images = np.stack(
            [stream_images(frames, s)[detector.frame_indices] for s in detector.streams]
        )
        (probability,) = detector.predict_images(images[None]).probabilities
        assert found.window.probability == pytest.approx(probability, abs=1e-5)


def test_no_sample_is_computed_twice(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 0.5)
    predictor = predictor_on(detector, sampling, 0.001, clock)
    items = camera_items(detector, sampling, 20.0)
    windows = predict_all(predictor, items, clock)
    assert predictor.computed == len(items) - 1
    assert len(windows) > predictor.computed / 2
    assert predictor.skipped == 0


@pytest.mark.parametrize("load", [0.3, 0.9, 1.1, 1.3, 1.5])
@pytest.mark.parametrize("stride", [1.0, 0.5, 2.0])
def test_slow_machine_skips_windows_to_stay_within_one_of_the_source(
    detector: Detector, clock: Clock, load: float, stride: float
) -> None:
    sampling = window_sampling(detector, 2.0, stride)
    predictor = predictor_on(detector, sampling, load * sampling.interval(RATE), clock)
    windows = predict_all(predictor, camera_items(detector, sampling, 60.0), clock)
    assert max(found.delay for found in windows) <= 2.0
    coming = 58.0 * predictor.windows_due_per_second
    assert len(windows) + predictor.skipped == pytest.approx(coming, abs=3)
    if load < 1:
        assert predictor.skipped == 0
    else:
        assert predictor.skipped > 0
        # Nearly as many as if windows shared no samples, or more.
        assert len(windows) >= 0.7 * 60.0 / predictor.seconds_per_window
        assert windows[-1].window.end > 1060 - 3 * 2.0  # until the end


@pytest.mark.parametrize("slow", [0.7, 0.84, 0.86, 0.88, 0.9, 1.3])
def test_source_among_others_is_taken_up_again_when_the_machine_is_free(
    detector: Detector, clock: Clock, slow: float
) -> None:
    """Each look at the source comes a little late, since others have their turns in between."""
    sampling = window_sampling(detector, 2.0, 1.0)
    own = timed(detector, clock, lambda: 0.02)
    predictor = LivePredictor(
        *(own, sampling, sampling.interval(RATE), deque([slow] * 16, 16), clock), takes_turns=True
    )
    reader = PlayedReader(CAMERA, camera_items(detector, sampling, 60.0), clock)
    windows: list[LiveWindow] = []
    while reader.items:
        for item in reader.take(0.0):
            if isinstance(item, Arrival):
                predictor.add(item)
        clock.sleep(0.3)
        windows += predictor.step() or ()
    coming = 58.0 * predictor.windows_due_per_second
    assert len(windows) + predictor.skipped == pytest.approx(coming, abs=3)
    assert len(windows) > 0.9 * coming


@pytest.mark.parametrize("stride", [1.0, 0.5])
def test_skipping_does_not_change_the_other_windows(detector: Detector, stride: float) -> None:
    sampling = window_sampling(detector, 2.0, stride)
    found = []
    for load in (0.1, 1.3):
        clock = Clock()
        predictor = predictor_on(detector, sampling, load * sampling.interval(RATE), clock)
        windows = predict_all(predictor, camera_items(detector, sampling, 30.0), clock)
        found.append({of.window.start: of.window.probability for of in windows})
    of_all, of_some = found
    assert 5 < len(of_some) < len(of_all)
    assert np.ptp(list(of_all.values())) > 1e-3
    for start, probability in of_some.items():
        assert probability == pytest.approx(of_all[start], abs=1e-5)


@pytest.mark.parametrize("load", [2.5, 4.0, 20.0])
def test_machine_that_is_far_too_slow_predicts_the_newest_windows(
    detector: Detector, clock: Clock, load: float
) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    interval = sampling.interval(RATE)
    predictor = predictor_on(detector, sampling, load * interval, clock)
    items = camera_items(detector, sampling, 120.0)
    windows = predict_all(predictor, items, clock)
    needed = sampling.frames * load * interval  # seconds per window
    assert len(windows) >= 0.6 * 120 / (needed + 2.0)
    # No faster than a window can be computed, from its first sample on.
    assert max(found.delay for found in windows) <= needed + 0.5
    last = [found.window.end for found in windows]
    assert np.diff(last).max() <= needed + 2 * 2.0


def test_pause_is_caught_up_by_skipping(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    passes = 0

    def seconds() -> float:
        nonlocal passes
        passes += 1
        return 20.0 if passes == 50 else 0.01

    own = timed(detector, clock, seconds)
    predictor = LivePredictor(own, sampling, sampling.interval(RATE), deque([0.01], 16), clock)
    windows = predict_all(predictor, camera_items(detector, sampling, 60.0), clock)
    late = [n for n, found in enumerate(windows) if found.delay > 2.0]
    assert len(late) <= 1  # the one with the pause
    assert 10 < predictor.skipped < 25
    assert windows[-1].window.end > 1058


def test_memory_is_bounded_if_nothing_is_predicted(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    predictor = predictor_on(detector, sampling, 0.001, clock)
    items = [
        item for _, item in camera_items(detector, sampling, 600.0) if isinstance(item, Arrival)
    ]
    for item in items:
        predictor.add(item)
    clock.now = items[-1].arrived
    windows: list[LiveWindow] = []
    while (found := predictor.step()) is not None:
        windows += found
    assert predictor.computed <= 2 * sampling.frames
    assert windows[-1].window.end > items[-1].arrived - 2.0
