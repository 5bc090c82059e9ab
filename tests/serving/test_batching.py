import asyncio
import contextlib
import dataclasses
import multiprocessing
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.serving.detectors import scripted
from tests.serving.http import LIMITS
from tests.waiting import wait_until
from violence_detection.clips.video import UnreadableClip
from violence_detection.inference.detector import Detector
from violence_detection.inference.windows import window_sampling
from violence_detection.serving.batching import ClipTooLong, PredictionQueue, QueueFull
from violence_detection.serving.metrics import ServiceMetrics

Done = TypeVar("Done")
LONG = 60.0  # seconds: longer than a test


@pytest.fixture
def clips(run_predictions: dict[Path, tuple[float, bool]]) -> dict[Path, float]:
    """Return clips with the probabilities of the run's own test."""
    return {path: probability for path, (probability, _) in run_predictions.items()}


def make_queue(
    detector: Detector,
    metrics: ServiceMetrics | None = None,
    batch_timeout: float = 0.005,
    **changed: float,
) -> PredictionQueue:
    limits = dataclasses.replace(LIMITS, **changed)
    return PredictionQueue(detector, limits, metrics or ServiceMetrics(), batch_timeout)


def run_in(queue: PredictionQueue, job: Callable[[], Awaitable[Done]]) -> Done:
    async def run() -> Done:
        async with queue.running():
            await queue.warm_up()
            return await job()

    return asyncio.run(run())


async def predict_together(queue: PredictionQueue, paths: list[Path]) -> list[float | None]:
    """Return the probabilities of clips that are requested at once."""
    with contextlib.ExitStack() as stack:
        for _ in paths:
            stack.enter_context(queue.slot())
        predicted = await asyncio.gather(*(queue.predict_file(path) for path in paths))
    return [one.prediction.probability for one in predicted]


def passes(metrics: ServiceMetrics) -> tuple[int, int]:
    """Return how many forward passes there were, and how many clips they had together."""
    value = metrics.registry.get_sample_value
    return int(value("violence_pass_clips_count")), int(value("violence_pass_clips_sum"))


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (4, 1), (8, 2)])
def test_concurrent_clips_share_forward_passes(
    detector: Detector, clips: dict[Path, float], count: int, expected: int
) -> None:
    assert detector.clips_per_batch == 4
    metrics = ServiceMetrics()
    queue = make_queue(detector, metrics, batch_timeout=LONG)
    chosen = dict(list(clips.items())[:count])
    found = run_in(queue, lambda: predict_together(queue, list(chosen)))
    assert found == pytest.approx(list(chosen.values()), abs=2e-6)
    assert passes(metrics) == (expected, count)


def test_clip_without_company_is_predicted_after_the_batch_timeout(
    detector: Detector, clips: dict[Path, float]
) -> None:
    queue = make_queue(detector, batch_timeout=0.05)

    async def job() -> list[float | None]:
        with queue.slot():  # a request whose clip never arrives
            return await predict_together(queue, list(clips)[:1])

    assert run_in(queue, job) == pytest.approx(list(clips.values())[:1], abs=2e-6)


def test_full_queue_has_no_slot(detector: Detector) -> None:
    queue = make_queue(detector, max_requests=2)
    with queue.slot(), queue.slot():
        with pytest.raises(QueueFull) as full, queue.slot():
            pass
        assert 1 <= full.value.retry_after <= 60
    with queue.slot():
        assert queue.slots_taken == 1


def test_cancelled_clip_is_not_predicted(detector: Detector, clips: dict[Path, float]) -> None:
    metrics, held_up = ServiceMetrics(), scripted(detector)
    queue = make_queue(held_up, metrics)
    paths = list(clips)[:3]

    async def job() -> None:
        held_up.begun.clear()  # of the warm-up
        held_up.released.clear()
        first = asyncio.create_task(queue.predict_file(paths[0]))
        assert await asyncio.to_thread(held_up.begun.wait, LONG)
        cancelled, last = (asyncio.create_task(queue.predict_file(path)) for path in paths[1:])
        async with asyncio.timeout(LONG):
            while queue.waiting_clips < 2:
                await asyncio.sleep(0.01)
        cancelled.cancel()
        held_up.released.set()
        for task in (first, last):
            assert (await task).prediction.violent is not None
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    run_in(queue, job)
    assert passes(metrics) == (2, 2)


def test_failed_forward_pass_fails_its_clips_only(
    detector: Detector, clips: dict[Path, float]
) -> None:
    failing = scripted(detector)
    queue = make_queue(failing)
    path, probability = next(iter(clips.items()))

    async def job() -> float | None:
        failing.failures.append(MemoryError("no memory left on /device:GPU:0"))
        with pytest.raises(MemoryError):
            await queue.predict_file(path)
        assert queue.is_running
        return (await queue.predict_file(path)).prediction.probability

    assert run_in(queue, job) == pytest.approx(probability, abs=2e-6)


def test_decoding_of_an_abandoned_video_ends(detector: Detector, long_clip: Path) -> None:
    queue = make_queue(detector)

    async def job() -> None:
        decoders = set(multiprocessing.active_children())
        async with contextlib.aclosing(
            queue.predict_video(long_clip, window_sampling(detector, 2.0, 0.1))
        ) as steps:
            first = await anext(steps)
            assert first.duration == pytest.approx(6.0)
            assert set(multiprocessing.active_children()) > decoders
        wait_until(lambda: set(multiprocessing.active_children()) <= decoders)

    run_in(queue, job)


def test_unreadable_video_has_its_reason(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"hello")
    queue = make_queue(detector)

    async def read(name: str) -> None:
        await anext(queue.predict_video(tmp_path / name, window_sampling(detector, 2.0, 1.0)))

    async def job() -> None:
        with pytest.raises(UnreadableClip, match="not a video"):
            await read("bad.mp4")
        with pytest.raises(FileNotFoundError):
            await read("missing.mp4")

    run_in(queue, job)


def test_too_long_a_clip_is_refused_even_if_its_file_has_a_wrong_duration(
    detector: Detector, long_clip: Path, tmp_path: Path
) -> None:
    content = bytearray(long_clip.read_bytes())
    wrong = tmp_path / "wrong.mp4"
    duration = content.index(b"mdhd") + 4 + 16  # in the track's own unit
    content[duration : duration + 4] = (1).to_bytes(4)
    wrong.write_bytes(content)
    metrics = ServiceMetrics()
    queue = make_queue(detector, metrics, max_seconds=5)

    async def job() -> None:
        for clip in (long_clip, wrong):
            with pytest.raises(ClipTooLong) as too_long:
                await queue.predict_file(clip)
            assert too_long.value.seconds == pytest.approx(6, abs=0.1)

    run_in(queue, job)
    assert passes(metrics) == (0, 0)
