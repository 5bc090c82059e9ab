import json
import os
import signal
from typing import Any

import numpy as np
import pytest

from tests.inference.conftest import Clock
from tests.inference.detectors import with_network
from tests.inference.live_fakes import CAMERA, FILE, RATE, PlayedReader, camera_items, timed
from violence_detection.clips.sampling import Sampling
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import UserError
from violence_detection.inference.detector import Detector
from violence_detection.inference.live import LiveMonitor, LiveStatistics
from violence_detection.inference.live_source import Ended, FrameCount, Item, Lost, NotLive
from violence_detection.inference.windows import window_sampling
from violence_detection.runtime.interrupts import Interrupted, interruptible


@pytest.fixture
def sampling(detector: Detector) -> Sampling:
    return window_sampling(detector, 2.0, 1.0)


class Watched:
    """A monitor with what it has reported."""

    def __init__(self, detector: Detector, sampling: Sampling, clock: Clock):
        self.notices: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.monitor = LiveMonitor(
            detector, sampling, self.notices.append, self.lines.append, clock
        )


def always_violent(detector: Detector, clock: Clock) -> Detector:
    return timed(detector, clock, lambda: 0.001, threshold=0.0)


def test_lost_source_is_resumed_with_new_windows(
    detector: Detector, sampling: Sampling, clock: Clock
) -> None:
    first = camera_items(detector, sampling, 5.0)
    second = camera_items(detector, sampling, 5.0, start=1030.0)
    lost = (1006.0, Lost("the stream has ended", 1.0))
    reader = PlayedReader(CAMERA, [*first, lost, *second, (1036.0, Ended(None))], clock)
    watched = Watched(always_violent(detector, clock), sampling, clock)
    statistics = watched.monitor.run(reader)
    notices = watched.notices
    assert [n["event"] for n in notices] == [1, 1, 2, 2]  # the first ends while it is lost
    assert notices[1]["end"] < 5
    assert notices[2]["start"] == pytest.approx(30, abs=0.5)
    assert statistics.windows == 3 + 4  # at the end, one more that reaches to the last sample
    assert statistics.skipped == 0
    assert "rtsp://camera/1: the stream has ended; reconnecting in 1 s" in watched.lines
    assert "secret" not in "".join(watched.lines) + json.dumps(notices)


def test_statistics_are_reported_every_minute_and_at_the_end(
    detector: Detector, sampling: Sampling, clock: Clock
) -> None:
    counts = [(1000.0 + n, FrameCount(12)) for n in range(1, 151)]
    items = sorted(
        [*camera_items(detector, sampling, 150.0), *counts], key=lambda timed_item: timed_item[0]
    )
    reader = PlayedReader(CAMERA, [*items, (1151.0, Ended(None))], clock)
    slow = timed(detector, clock, lambda: 1.3 * sampling.interval(RATE))
    watched = Watched(slow, sampling, clock)
    statistics = watched.monitor.run(reader)
    reports = [line for line in watched.lines if " frames, " in line]
    assert [line.partition(" s:")[0] for line in reports[:2]] == ["60", "60"]
    assert len(reports) == 3
    assert statistics.seconds == pytest.approx(151, abs=3)
    assert statistics.frames == 1800
    assert statistics.max_delay <= 2.0
    assert f"1800 frames, {statistics.windows} windows, " in reports[-1]
    last = watched.lines[-1]
    assert f"at most {statistics.max_delay:.2f} s" in last
    assert "0.77x real time" in last
    assert f"skipped {statistics.skipped} of {statistics.skipped + statistics.windows}" in last
    assert statistics.speed == pytest.approx(1 / 1.3)
    # That windows are skipped is reported at once, but only once a minute.
    assert 1 <= sum("skipping windows" in line for line in watched.lines) <= 3
    assert max(map(len, watched.lines)) <= 80


@pytest.mark.parametrize(("number", "noun"), [(0, "windows"), (1, "window"), (2, "windows")])
def test_statistics_use_singular_and_plural(number: int, noun: str) -> None:
    statistics = LiveStatistics(
        frames=number, windows=number, events=number, windows_due_per_second=1.0
    )
    first, *_ = statistics.lines()
    assert f"{number} {noun}" in first
    assert f"{number} event{'' if number == 1 else 's'}" in first


def test_machine_that_is_far_too_slow_gets_a_window_that_keeps_up(
    detector: Detector, sampling: Sampling, clock: Clock
) -> None:
    items = camera_items(detector, sampling, 30.0)
    watched = Watched(timed(detector, clock, lambda: 1.0), sampling, clock)
    watched.monitor.run(PlayedReader(CAMERA, [*items, (1031.0, Ended(None))], clock))
    assert any("6.0 s" in line and "--window 6" in line for line in watched.lines)


def test_ctrl_c_ends_the_event_and_reports_the_statistics(
    detector: Detector, sampling: Sampling, clock: Clock
) -> None:
    class InterruptedReader(PlayedReader):
        def take(self, wait: float) -> list[Item]:
            if clock.now > 1005:
                os.kill(os.getpid(), signal.SIGINT)
            return super().take(wait)

    reader = InterruptedReader(CAMERA, camera_items(detector, sampling, 60.0), clock)
    watched = Watched(always_violent(detector, clock), sampling, clock)
    with interruptible(), pytest.raises(Interrupted):
        watched.monitor.run(reader)
    assert [notice["ongoing"] for notice in watched.notices] == [True, False]
    assert watched.lines[-1].startswith("5 s: ")


def test_file_that_cannot_be_read_to_its_end_has_a_reason(
    detector: Detector, sampling: Sampling, clock: Clock
) -> None:
    ended = (1008.0, Ended(UnreadableClip("its decoder died (SIGSEGV)")))
    reader = PlayedReader(FILE, [*camera_items(detector, sampling, 7.0), ended], clock)
    monitor = Watched(always_violent(detector, clock), sampling, clock).monitor
    assert monitor.run(reader).windows > 3
    assert monitor.error == "its decoder died (SIGSEGV)"


def test_address_of_a_file_is_refused(detector: Detector, sampling: Sampling, clock: Clock) -> None:
    reader = PlayedReader(CAMERA, [(1001.0, Ended(NotLive("a file")))], clock)
    watched = Watched(always_violent(detector, clock), sampling, clock)
    with pytest.raises(UserError, match="--source rtsp://camera/1: a file"):
        watched.monitor.run(reader)


def test_window_whose_features_are_too_large_is_reported(
    detector: Detector, sampling: Sampling, clock: Clock
) -> None:
    finite = always_violent(detector, clock)
    (own,) = set(finite.networks.values())
    overflowing = with_network(finite, lambda images: np.inf * (1 + own(images)))
    items = camera_items(detector, sampling, 5.0)
    watched = Watched(overflowing, sampling, clock)
    watched.monitor.run(PlayedReader(CAMERA, [*items, (1006.0, Ended(None))], clock))
    assert watched.notices == []
    assert any("0:00:00.0: no prediction, features too large" in line for line in watched.lines)
