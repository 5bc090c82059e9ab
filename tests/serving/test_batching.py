import asyncio
import contextlib
import dataclasses
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.detectors import ScriptedDetector
from tests.serving.http import LIMITS
from tests.waiting import wait_until
from violence_detection.clips.frames import UnreadableClip
from violence_detection.inference.detector import Detector
from violence_detection.inference.windows import window_sampling
from violence_detection.serving.batching import PredictionQueue
from violence_detection.serving.limits import ClipTooLong, QueueFull
from violence_detection.serving.metrics import ServiceMetrics

LONG = 60.0  # seconds: longer than a test


@pytest.fixture
def clips(run_predictions: dict[Path, tuple[float, bool]]) -> dict[Path, float]:
    """Return clips with the probabilities of the run's own test."""
    return {path: probability for path, (probability, _) in run_predictions.items()}


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@contextlib.contextmanager
def running(runner: asyncio.Runner, queue: PredictionQueue) -> Iterator[PredictionQueue]:
    stack = contextlib.AsyncExitStack()
    runner.run(stack.enter_async_context(queue.running()))
    try:
        runner.run(queue.warm_up())
        yield queue
    finally:
        runner.run(stack.aclose())


@pytest.fixture(scope="module")
def metrics() -> ServiceMetrics:
    return ServiceMetrics()


@pytest.fixture(scope="module")
def queue(
    runner: asyncio.Runner, scripted_detector: ScriptedDetector, metrics: ServiceMetrics
) -> Iterator[PredictionQueue]:
    """Return a running queue that hardly waits for batches to fill."""
    with running(runner, PredictionQueue(scripted_detector, LIMITS, metrics, 0.05)) as queue:
        yield queue


@pytest.fixture(scope="module")
def patient_queue(
    runner: asyncio.Runner, detector: Detector, metrics: ServiceMetrics
) -> Iterator[PredictionQueue]:
    """Return a running queue that waits for batches to fill, or for the last request."""
    with running(runner, PredictionQueue(detector, LIMITS, metrics, LONG)) as queue:
        yield queue


async def predict_together(queue: PredictionQueue, paths: list[Path]) -> list[float | None]:
    """Return the probabilities of clips that are requested at once."""
    with contextlib.ExitStack() as stack:
        for _ in paths:
            stack.enter_context(queue.slot())
        predicted = await asyncio.gather(*(queue.predict_file(path) for path in paths))
    return [one.prediction.probability for one in predicted]


class Passes:
    """Counts the forward passes from now on, and the clips in them."""

    def __init__(self, metrics: ServiceMetrics):
        self._metrics = metrics
        self._before = self._totals()

    def _totals(self) -> tuple[int, int]:
        value = self._metrics.registry.get_sample_value
        return int(value("violence_pass_clips_count")), int(value("violence_pass_clips_sum"))

    def counted(self) -> tuple[int, int]:
        passes, clips = self._totals()
        return passes - self._before[0], clips - self._before[1]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (4, 1), (8, 2)])
def test_concurrent_clips_share_forward_passes(
    runner: asyncio.Runner,
    patient_queue: PredictionQueue,
    metrics: ServiceMetrics,
    clips: dict[Path, float],
    count: int,
    expected: int,
) -> None:
    assert patient_queue.detector.clips_per_batch == 4
    passes = Passes(metrics)
    chosen = dict(list(clips.items())[:count])
    found = runner.run(predict_together(patient_queue, list(chosen)))
    assert found == pytest.approx(list(chosen.values()), abs=2e-6)
    assert passes.counted() == (expected, count)


def test_clip_without_company_is_predicted_after_the_batch_timeout(
    runner: asyncio.Runner, queue: PredictionQueue, clips: dict[Path, float]
) -> None:
    path, probability = next(iter(clips.items()))
    with queue.slot():  # a request whose clip never arrives
        found = runner.run(predict_together(queue, [path]))
    assert found == pytest.approx([probability], abs=2e-6)


def test_full_queue_has_no_slot(detector: Detector) -> None:
    queue = PredictionQueue(detector, dataclasses.replace(LIMITS, max_requests=2), ServiceMetrics())
    with queue.slot(), queue.slot():
        with pytest.raises(QueueFull) as full, queue.slot():
            pass
        assert 1 <= full.value.retry_after <= 60
    with queue.slot():
        assert queue.slots_taken == 1


def test_cancelled_clip_is_not_predicted(
    runner: asyncio.Runner,
    queue: PredictionQueue,
    scripted_detector: ScriptedDetector,
    metrics: ServiceMetrics,
    clips: dict[Path, float],
) -> None:
    paths = list(clips)[:3]

    async def job() -> None:
        first = asyncio.create_task(queue.predict_file(paths[0]))
        assert await asyncio.to_thread(scripted_detector.begun.wait, LONG)
        cancelled, last = (asyncio.create_task(queue.predict_file(path)) for path in paths[1:])
        async with asyncio.timeout(LONG):
            while queue.waiting_clips < 2:
                await asyncio.sleep(0.01)
        cancelled.cancel()
        scripted_detector.released.set()
        for task in (first, last):
            assert (await task).prediction.violent is not None
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    passes = Passes(metrics)
    scripted_detector.begun.clear()  # of earlier passes
    scripted_detector.released.clear()
    try:
        runner.run(job())
    finally:
        scripted_detector.released.set()
    assert passes.counted() == (2, 2)


def test_failed_forward_pass_fails_its_clips_only(
    runner: asyncio.Runner,
    queue: PredictionQueue,
    scripted_detector: ScriptedDetector,
    clips: dict[Path, float],
) -> None:
    path, probability = next(iter(clips.items()))
    scripted_detector.failures.append(MemoryError("no memory left on /device:GPU:0"))
    with pytest.raises(MemoryError):
        runner.run(queue.predict_file(path))
    assert queue.is_running
    found = runner.run(queue.predict_file(path)).prediction
    assert found.probability == pytest.approx(probability, abs=2e-6)


def test_decoding_of_an_abandoned_video_ends(
    runner: asyncio.Runner, queue: PredictionQueue, long_clip: Path
) -> None:
    decoders = set(multiprocessing.active_children())

    async def job() -> None:
        sampling = window_sampling(queue.detector, 2.0, 0.1)
        async with contextlib.aclosing(queue.predict_video(long_clip, sampling)) as steps:
            first = await anext(steps)
            assert first.duration == pytest.approx(6.0)
            assert set(multiprocessing.active_children()) > decoders

    runner.run(job())
    wait_until(lambda: set(multiprocessing.active_children()) <= decoders)


@pytest.mark.parametrize(
    ("name", "error"), [("bad.mp4", UnreadableClip), ("missing.mp4", FileNotFoundError)]
)
def test_unreadable_video_has_its_reason(
    runner: asyncio.Runner,
    queue: PredictionQueue,
    tmp_path: Path,
    name: str,
    error: type[Exception],
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"hello")

    async def job() -> None:
        await anext(queue.predict_video(tmp_path / name, window_sampling(queue.detector, 2.0, 1.0)))

    with pytest.raises(error):
        runner.run(job())


def test_too_long_a_clip_is_refused_even_if_its_file_has_a_wrong_duration(
    runner: asyncio.Runner,
    queue: PredictionQueue,
    metrics: ServiceMetrics,
    long_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = bytearray(long_clip.read_bytes())
    wrong = tmp_path / "wrong.mp4"
    duration = content.index(b"mdhd") + 4 + 16  # in the track's own unit
    content[duration : duration + 4] = (1).to_bytes(4)
    wrong.write_bytes(content)
    monkeypatch.setattr(queue, "limits", dataclasses.replace(LIMITS, max_seconds=5))
    passes = Passes(metrics)
    for clip in (long_clip, wrong):
        with pytest.raises(ClipTooLong) as too_long:
            runner.run(queue.predict_file(clip))
        assert too_long.value.seconds == pytest.approx(6, abs=0.1)
    assert passes.counted() == (0, 0)
