import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.inference.test_webhook import server
from violence_detection.clips.demo import draw_clip
from violence_detection.clips.frames import network_image
from violence_detection.clips.sampling import Sample, Sampling
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import UnreadableClip, frames_of, open_video
from violence_detection.commands.predict import main
from violence_detection.errors import UserError
from violence_detection.inference.detector import Detector
from violence_detection.inference.events import Window
from violence_detection.inference.live import (
    LiveEvents,
    LiveMonitor,
    LivePredictor,
    LiveStatistics,
    LiveWindow,
)
from violence_detection.inference.live_source import (
    Arrival,
    Begun,
    Item,
    Lost,
    NotLive,
    Over,
    Source,
    Tally,
    sample_source,
)
from violence_detection.inference.windows import predict_video, window_sampling
from violence_detection.runtime.interrupts import interruptible

TIMEOUT = 60.0  # seconds
FILE = Source("clip.mp4", "file")
CAMERA = Source("rtsp://me:secret@camera/1", "network")


class Clock:
    """Time that passes only when someone waits or works."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Played:
    """Brings items when they are due, by a clock."""

    def __init__(self, source: Source, items: Sequence[tuple[float, Item]], clock: Clock):
        self.source = source
        self.items = deque(items)
        self.clock = clock

    def take(self, wait: float) -> list[Item]:
        if wait and self.items and self.items[0][0] > self.clock.now:
            self.clock.now = min(self.clock.now + wait, self.items[0][0])
        taken = []
        while self.items and self.items[0][0] <= self.clock.now:
            taken.append(self.items.popleft()[1])
        return taken


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of two seconds, 12 frames a second."""
    path = tmp_path_factory.mktemp("live") / "clip.mp4"
    draw_clip(path, True, np.random.default_rng(3))
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


def working(detector: Detector, clock: Clock, seconds: Callable[[], float]) -> Detector:
    """Return the detector with a VGG19 whose passes take so long."""
    own = replace(detector)

    def network(images: np.ndarray) -> np.ndarray:
        clock.sleep(seconds())
        return detector.network(images)

    vars(own)["network"] = network
    return own


def samples(
    detector: Detector, sampling: Sampling, seconds: float, begin: float = 1000.0
) -> list[tuple[float, Item]]:
    """Return what a camera of 12 frames a second brings."""
    random = np.random.default_rng(0)
    shape = (8, len(detector.streams), 224, 224, 3)
    images = random.integers(0, 255, shape, np.uint8)
    interval = sampling.interval(12.0)
    items: list[tuple[float, Item]] = [(begin, Begun(12.0))]
    for number in range(int(seconds / interval)):
        time = begin + number * interval
        shown = images[number % len(images)] if sampling.is_used(number) else None
        items.append((time, Arrival(Sample(number, time, shown), time)))
    return items


def watch(
    detector: Detector, sampling: Sampling, reader: Played, clock: Clock
) -> tuple[LiveStatistics, list[dict[str, Any]], list[str]]:
    notices: list[dict[str, Any]] = []
    said: list[str] = []
    watched = LiveMonitor(detector, sampling, notices.append, said.append, clock)
    return watched.run(reader), notices, said


def judged(
    judge: LivePredictor, items: Sequence[tuple[float, Item]], clock: Clock
) -> list[LiveWindow]:
    """Return the windows of a source that is played to its end."""
    reader = Played(CAMERA, items, clock)
    windows: list[LiveWindow] = []
    idle = False
    while reader.items or not idle:
        for item in reader.take(0.1 if idle else 0.0):
            if isinstance(item, Arrival):
                judge.add(item)
        found = judge.step()
        idle = found is None
        windows += found or ()
    return windows


def judge_of(detector: Detector, sampling: Sampling, seconds: float, clock: Clock) -> LivePredictor:
    """Return a judge on a machine on which a pass takes so many seconds."""
    own = working(detector, clock, lambda: seconds)
    return LivePredictor(own, sampling, sampling.interval(12.0), deque([seconds], 16), clock)


@pytest.mark.parametrize(("window", "stride"), [(1.0, 0.5), (1.5, 0.4), (0.5, 0.5)])
def test_file_is_judged_as_it_is_when_it_is_not_live(
    detector: Detector, video: Path, clock: Clock, window: float, stride: float
) -> None:
    sampling = window_sampling(detector, window, stride)
    expected = list(predict_video(detector, video, sampling, TIMEOUT))
    source = Source(str(video), "file")
    items = [
        (clock.now, item)
        for item in sample_source(source, sampling, 10.0, clock, clock.sleep)
        if not isinstance(item, Tally)
    ]
    clock.now = 1000.0
    judge = LivePredictor(detector, sampling, sampling.interval(12.0), deque([0.001]), clock)
    windows = judged(judge, items, clock)
    judge.end()
    windows += judge.step() or []
    assert [found.window[:2] for found in windows] == [w[:2] for w in expected]
    probabilities = [found.window.probability for found in windows]
    assert probabilities == pytest.approx([w.probability for w in expected], abs=1e-5)
    assert judge.skipped == 0


def test_window_is_judged_as_a_clip_of_its_frames(
    detector: Detector, video: Path, clock: Clock
) -> None:
    sampling = window_sampling(detector, 1.0, 0.5)
    source = Source(str(video), "file")
    items = [
        (clock.now, item) for item in sample_source(source, sampling, 10.0, clock, clock.sleep)
    ]
    times = [item.sample.time for _, item in items if isinstance(item, Arrival)]
    pictures = {
        round(frame.time, 3): network_image(frame.retrieve())
        for frame in frames_of(open_video(video), 12.0)
    }
    clock.now = 1000.0
    judge = LivePredictor(detector, sampling, sampling.interval(12.0), deque([0.001]), clock)
    windows = judged(judge, items, clock)
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
    judge = judge_of(detector, sampling, 0.001, clock)
    items = samples(detector, sampling, 20.0)
    windows = judged(judge, items, clock)
    assert judge.computed == len(items) - 1
    assert len(windows) > judge.computed / 2
    assert judge.skipped == 0


@pytest.mark.parametrize("load", [0.3, 0.9, 1.1, 1.3, 1.5])
@pytest.mark.parametrize("stride", [1.0, 0.5, 2.0])
def test_slow_machine_skips_windows_and_is_never_more_than_one_behind(
    detector: Detector, clock: Clock, load: float, stride: float
) -> None:
    sampling = window_sampling(detector, 2.0, stride)
    judge = judge_of(detector, sampling, load * sampling.interval(12.0), clock)
    windows = judged(judge, samples(detector, sampling, 60.0), clock)
    assert max(found.lag for found in windows) <= 2.0
    coming = 58.0 * judge.windows_coming
    assert len(windows) + judge.skipped == pytest.approx(coming, abs=3)
    if load < 1:
        assert judge.skipped == 0
    else:
        assert judge.skipped > 0
        # Nearly as many as if they shared nothing, or more.
        assert len(windows) >= 0.7 * 60.0 / judge.seconds_for_window
        assert windows[-1].window.end > 1060 - 3 * 2.0  # it goes on to the end


@pytest.mark.parametrize("stride", [1.0, 0.5])
def test_windows_beside_skipped_ones_are_judged_alike(detector: Detector, stride: float) -> None:
    sampling = window_sampling(detector, 2.0, stride)
    found = []
    for load in (0.1, 1.3):
        clock = Clock()
        judge = judge_of(detector, sampling, load * sampling.interval(12.0), clock)
        windows = judged(judge, samples(detector, sampling, 30.0), clock)
        found.append({of.window.start: of.window.probability for of in windows})
    of_all, of_some = found
    assert 5 < len(of_some) < len(of_all)
    for start, probability in of_some.items():
        assert probability == pytest.approx(of_all[start], abs=1e-5)


@pytest.mark.parametrize("load", [2.5, 4.0, 20.0])
def test_machine_that_is_far_too_slow_judges_what_is_newest(
    detector: Detector, clock: Clock, load: float
) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    interval = sampling.interval(12.0)
    judge = judge_of(detector, sampling, load * interval, clock)
    items = samples(detector, sampling, 120.0)
    windows = judged(judge, items, clock)
    needed = sampling.frames * load * interval  # seconds that a window takes
    assert len(windows) >= 0.6 * 120 / (needed + 2.0)
    # It takes what it takes, beginning with the first sample of a window.
    assert max(found.lag for found in windows) <= needed + 0.5
    last = [found.window.end for found in windows]
    assert np.diff(last).max() <= needed + 2 * 2.0


def test_pause_is_made_good_by_skipping(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    passes = 0

    def seconds() -> float:
        nonlocal passes
        passes += 1
        return 20.0 if passes == 50 else 0.01

    own = working(detector, clock, seconds)
    judge = LivePredictor(own, sampling, sampling.interval(12.0), deque([0.01], 16), clock)
    windows = judged(judge, samples(detector, sampling, 60.0), clock)
    late = [n for n, found in enumerate(windows) if found.lag > 2.0]
    assert len(late) <= 1  # that of the pause itself
    assert 10 < judge.skipped < 25
    assert windows[-1].window.end > 1058


def test_memory_is_bounded_if_nothing_is_judged(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    judge = judge_of(detector, sampling, 0.001, clock)
    items = [item for _, item in samples(detector, sampling, 600.0) if isinstance(item, Arrival)]
    for item in items:
        judge.add(item)
    clock.now = items[-1].arrived
    windows: list[LiveWindow] = []
    while (found := judge.step()) is not None:
        windows += found
    assert judge.computed <= 2 * sampling.frames
    assert windows[-1].window.end > items[-1].arrived - 2.0


def notices_of(windows: Sequence[Window], gap: float = 1.0) -> list[dict[str, Any]]:
    notices: list[dict[str, Any]] = []
    events = LiveEvents("camera 0", 0.5, notices.append)
    for window in windows:
        events.add(window, gap, datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=window.start))
    events.close()
    return notices


def windows(*probabilities: float) -> list[Window]:
    """Return windows of two seconds, one beginning each second."""
    return [Window(float(n), n + 2.0, p) for n, p in enumerate(probabilities)]


def test_event_is_told_when_it_begins_and_when_it_is_over() -> None:
    notices = notices_of(windows(0.1, 0.6, 0.9, 0.2, 0.1, 0.1, 0.1, 0.7))
    of_both = {"source": "camera 0", "event": 1, "time": "2030-01-01T00:00:01.000+00:00"}
    assert notices[:2] == [
        of_both | {"ongoing": True, "start": 1, "end": None, "peak": 2, "probability": 0.6},
        of_both | {"ongoing": False, "start": 1, "end": 4, "peak": 3, "probability": 0.9},
    ]
    assert [(n["event"], n["ongoing"], n["start"]) for n in notices[2:]] == [
        (2, True, 7),
        (2, False, 7),  # at the end of all
    ]
    assert json.loads(json.dumps(notices)) == notices


@pytest.mark.parametrize(("gap", "events"), [(1.0, 2), (4.0, 1)])
def test_windows_that_were_skipped_do_not_end_an_event(gap: float, events: int) -> None:
    apart = [Window(0.0, 2.0, 0.9), Window(5.0, 7.0, 0.9)]
    assert notices_of(apart, gap)[-1]["event"] == events


def test_nothing_happens() -> None:
    assert notices_of(windows(0.1, 0.2, float("nan"))) == []


def always_violent(detector: Detector, clock: Clock) -> Detector:
    return working(replace(detector, threshold=0.0), clock, lambda: 0.001)


def test_source_that_is_lost_goes_on_with_new_windows(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    first, again = samples(detector, sampling, 5.0), samples(detector, sampling, 5.0, begin=1030.0)
    lost = (1006.0, Lost("it has ended", 1.0))
    reader = Played(CAMERA, [*first, lost, *again, (1036.0, Over(None))], clock)
    figures, notices, said = watch(always_violent(detector, clock), sampling, reader, clock)
    assert [n["event"] for n in notices] == [1, 1, 2, 2]  # the first is over while it is away
    assert notices[1]["end"] < 5
    assert notices[2]["start"] == pytest.approx(30, abs=0.5)
    assert figures.windows == 3 + 4  # at the end, one more reaches to the last sample
    assert figures.skipped == 0
    assert "rtsp://camera/1: it has ended; connecting again in 1 s" in said
    assert "secret" not in "".join(said) + json.dumps(notices)


def test_rate_is_told_every_minute_and_at_the_end(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    items = samples(detector, sampling, 150.0)
    tallies = [(1000.0 + n, Tally(12)) for n in range(1, 151)]
    items = sorted([*items, *tallies], key=lambda item: item[0])
    reader = Played(CAMERA, [*items, (1151.0, Over(None))], clock)
    own = working(detector, clock, lambda: 1.3 * sampling.interval(12.0))
    figures, _, said = watch(own, sampling, reader, clock)
    rates = [line for line in said if " windows judged, " in line]
    assert [line.partition(" s:")[0] for line in rates[:2]] == ["60", "60"]
    assert len(rates) == 3
    assert figures.frames == 1800
    assert figures.max_lag <= 2.0
    assert f"{figures.frames} frames, {figures.windows} windows judged" in rates[-1]
    assert f"at most {figures.max_lag:.2f} s" in rates[-1]
    assert figures.windows_per_second == pytest.approx(figures.windows_coming / 1.3)
    # That windows are skipped is told at once, but not each time.
    assert 1 <= sum("windows are skipped" in line for line in said) <= 3


def test_machine_that_is_far_too_slow_is_told_what_keeps_up(
    detector: Detector, clock: Clock
) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    own = working(detector, clock, lambda: 1.0)
    reader = Played(CAMERA, [*samples(detector, sampling, 30.0), (1031.0, Over(None))], clock)
    *_, said = watch(own, sampling, reader, clock)
    assert any("computing a window takes 6.0 s here" in line for line in said)
    assert any("--window 6 would keep up" in line for line in said)


def test_ctrl_c_ends_the_event_and_tells_the_rate(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)

    class Interrupted(Played):
        def take(self, wait: float) -> list[Item]:
            if clock.now > 1005:
                os.kill(os.getpid(), signal.SIGINT)
            return super().take(wait)

    notices: list[dict[str, Any]] = []
    said: list[str] = []
    reader = Interrupted(CAMERA, samples(detector, sampling, 60.0), clock)
    watched = LiveMonitor(
        always_violent(detector, clock), sampling, notices.append, said.append, clock
    )
    with interruptible(), pytest.raises(Interrupted):
        watched.run(reader)
    assert [n["ongoing"] for n in notices] == [True, False]
    assert said[-1].startswith("5 s: ")


def test_file_that_cannot_be_read_to_its_end_says_why(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    over = (1008.0, Over(UnreadableClip("its decoder died (SIGSEGV)")))
    reader = Played(FILE, [*samples(detector, sampling, 7.0), over], clock)
    own = always_violent(detector, clock)
    watched = LiveMonitor(own, sampling, lambda _: None, lambda _: None, clock)
    assert watched.run(reader).windows > 3
    assert watched.error == "its decoder died (SIGSEGV)"


def test_address_of_a_file_is_refused(detector: Detector, clock: Clock) -> None:
    sampling = window_sampling(detector, 2.0, 1.0)
    reader = Played(CAMERA, [(1001.0, Over(NotLive("it is a file")))], clock)
    with pytest.raises(UserError, match="--source rtsp://camera/1: it is a file"):
        watch(detector, sampling, reader, clock)


def test_features_that_are_too_large_are_told(detector: Detector, clock: Clock) -> None:
    own = always_violent(detector, clock)
    network = own.network
    vars(own)["network"] = lambda images: np.full_like(network(images), np.inf)
    sampling = window_sampling(detector, 2.0, 1.0)
    reader = Played(CAMERA, [*samples(detector, sampling, 5.0), (1006.0, Over(None))], clock)
    _, notices, said = watch(own, sampling, reader, clock)
    assert notices == []
    assert any("0:00:00.0: a window cannot be judged: its features are too" in s for s in said)


def in_run(trained: Path, *flags: str) -> list[str]:
    return ["--checkpoint-dir", str(trained / "run"), *flags]


def test_command_writes_and_posts_events_of_a_file(
    trained: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = in_run(trained, "--source", str(video), "--window", "0.8", "--threshold", "0")
    with server(503, 200) as posts:
        assert main([*flags, "--webhook", f"http://me:secret@{posts.address}/secret"]) == 0
        assert len(posts.notices) == 2
    told = capsys.readouterr()
    begin, over = map(json.loads, told.out.splitlines())
    assert [begin, over] == posts.notices
    assert (begin["source"], begin["ongoing"], begin["start"]) == (str(video), True, 0)
    assert (over["ongoing"], over["end"]) == (False, pytest.approx(23 / 12, abs=0.2))
    seconds_ago = (datetime.now(UTC) - datetime.fromisoformat(begin["time"])).total_seconds()
    assert 1.5 < seconds_ago < TIMEOUT
    assert "24 frames, " in told.err
    assert "secret" not in told.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name clips, folders or patterns to judge, or a live --source"),
        (["--source", "0", "clip.mp4"], "--source is watched alone"),
        (["--webhook", "http://server/", "clip.mp4"], "--webhook is of use with --source only"),
        (["--source", "0", "--csv"], "--csv is not for a live source"),
        (["--source", "0", "--replicas", "2"], "--replicas is not for a live source"),
        (["--source", "0", "--stride", "3"], "--stride 3: must be above 0 and at most --window"),
        (["--source", "0", "--webhook", "server"], "--webhook: must be an address"),
        (["--source", "gone.mp4"], "--source gone.mp4: no such file"),
    ],
)
def test_what_the_user_did_wrong_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(in_run(trained, *flags)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert told.err.count("\n") == 1


def test_file_that_is_no_video_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"hello" * 99)
    assert main(in_run(trained, "--source", str(tmp_path / "clip.mp4"), "--quiet")) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "clip.mp4: not a video that FFmpeg can open" in told.err


@pytest.mark.slow
def test_ctrl_c_ends_the_command_within_seconds(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "still.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3000):  # five minutes
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    command = [sys.executable, str(ROOT / "predict.py")]
    flags = in_run(trained, "--source", str(path), "--threshold", "0")
    with subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert json.loads(process.stdout.readline())["ongoing"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert not json.loads(out)["ongoing"]
    assert "windows judged" in err.splitlines()[-1]
    assert "Traceback" not in err
