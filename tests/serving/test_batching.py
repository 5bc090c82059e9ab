import asyncio
import contextlib
import csv
import multiprocessing
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.serving.test_service import join_clips, wait_until
from violence_detection.clips.frames import UnreadableClip
from violence_detection.inference.detector import Detector, load_detector
from violence_detection.inference.windows import window_sampling
from violence_detection.serving.batching import Full, PredictionQueue, TooLong
from violence_detection.serving.metrics import ServiceMetrics

Done = TypeVar("Done")
LONG = 60.0  # seconds of patience: longer than a test


@pytest.fixture(scope="module")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


@pytest.fixture
def clips(trained: Path, drawn_clips: Path) -> dict[Path, float]:
    """Return clips with the probabilities of the run's own test."""
    with (trained / "run" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {drawn_clips / row["clip"]: float(row["probability"]) for row in rows}


def in_queue(queue: PredictionQueue, job: Callable[[], Awaitable[Done]]) -> Done:
    async def run() -> Done:
        async with queue.running():
            await queue.warm_up()
            return await job()

    return asyncio.run(run())


async def judge_all(queue: PredictionQueue, paths: list[Path]) -> list[float | None]:
    """Return the probabilities of clips that are asked for at once."""
    with contextlib.ExitStack() as held:
        for _ in paths:
            held.enter_context(queue.place())
        examined = await asyncio.gather(*(queue.predict_file(path) for path in paths))
    return [one.prediction.probability for one in examined]


def passes(metrics: ServiceMetrics) -> tuple[int, int]:
    """Return how many forward passes there were, and how many clips they had together."""
    value = metrics.registry.get_sample_value
    return int(value("violence_pass_clips_count")), int(value("violence_pass_clips_sum"))


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (4, 1), (8, 2)])
def test_clips_that_come_together_share_passes(
    detector: Detector, clips: dict[Path, float], count: int, expected: int
) -> None:
    assert detector.clips_per_batch == 4
    metrics = ServiceMetrics()
    queue = PredictionQueue(detector, 8, 60, 60, metrics, patience=LONG)
    chosen = dict(list(clips.items())[:count])
    found = in_queue(queue, lambda: judge_all(queue, list(chosen)))
    assert found == pytest.approx(list(chosen.values()), abs=2e-6)
    assert passes(metrics) == (expected, count)


def test_clip_that_waits_for_others_in_vain_is_judged(
    detector: Detector, clips: dict[Path, float]
) -> None:
    queue = PredictionQueue(detector, 2, 60, 60, ServiceMetrics(), patience=0.05)

    async def job() -> list[float | None]:
        with queue.place():  # of one who never comes
            return await judge_all(queue, list(clips)[:1])

    assert in_queue(queue, job) == pytest.approx(list(clips.values())[:1], abs=2e-6)


def test_nobody_gets_in_when_it_is_full(detector: Detector) -> None:
    queue = PredictionQueue(detector, 2, 60, 60, ServiceMetrics())
    with queue.place(), queue.place():
        with pytest.raises(Full) as full, queue.place():
            pass
        assert 1 <= full.value.retry_after <= 60
    with queue.place():
        assert queue.taken == 1


def test_clip_that_nobody_waits_for_any_more_is_not_judged(
    detector: Detector, clips: dict[Path, float]
) -> None:
    metrics = ServiceMetrics()
    queue = PredictionQueue(detector, 4, 60, 60, metrics)
    paths = list(clips)[:3]

    async def job() -> None:
        begun, busy = threading.Event(), threading.Event()
        queue._network.submit(lambda: (begun.set(), busy.wait(LONG)))
        begun.wait()
        tasks = [asyncio.create_task(queue.predict_file(paths[0]))]
        while not queue._network._work_queue.qsize():  # the first one's pass is the next
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(queue.predict_file(path)) for path in paths[1:]]
        while len(queue._waiting) < 2:
            await asyncio.sleep(0.01)
        tasks[1].cancel()
        busy.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ended[1], asyncio.CancelledError)
        assert None not in (ended[0].prediction.violent, ended[2].prediction.violent)

    in_queue(queue, job)
    assert passes(metrics) == (2, 2)


def test_fault_in_a_pass_is_told_to_its_clips_and_the_next_pass_is_run(
    detector: Detector, clips: dict[Path, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = PredictionQueue(detector, 4, 60, 60, ServiceMetrics())
    path, probability = next(iter(clips.items()))

    async def job() -> float | None:
        with monkeypatch.context() as patched:
            # As an accelerator that has no memory left does.
            patched.setattr(Detector, "image_features", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await queue.predict_file(path)
        assert queue.is_running
        return (await queue.predict_file(path)).prediction.probability

    assert in_queue(queue, job) == pytest.approx(probability, abs=2e-6)


def test_video_that_is_not_wanted_any_more_is_read_no_further(
    detector: Detector, drawn_clips: Path, tmp_path: Path
) -> None:
    path = join_clips(drawn_clips, tmp_path / "long.mp4")
    queue = PredictionQueue(detector, 4, 60, 60, ServiceMetrics())

    async def job() -> None:
        decoders = set(multiprocessing.active_children())
        async with contextlib.aclosing(
            queue.predict_video(path, window_sampling(detector, 2.0, 0.1))
        ) as steps:
            first = await anext(steps)
            assert first.duration == pytest.approx(6.0)
            assert set(multiprocessing.active_children()) > decoders
        wait_until(lambda: set(multiprocessing.active_children()) <= decoders)

    in_queue(queue, job)


def test_video_that_cannot_be_read_says_why(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"hello")
    queue = PredictionQueue(detector, 4, 60, 60, ServiceMetrics())

    async def read(name: str) -> None:
        await anext(queue.predict_video(tmp_path / name, window_sampling(detector, 2.0, 1.0)))

    async def job() -> None:
        with pytest.raises(UnreadableClip, match="not a video"):
            await read("bad.mp4")
        with pytest.raises(FileNotFoundError):
            await read("gone.mp4")

    in_queue(queue, job)


def test_clip_that_lasts_too_long_is_not_judged_though_its_file_tells_otherwise(
    detector: Detector, drawn_clips: Path, tmp_path: Path
) -> None:
    path = join_clips(drawn_clips, tmp_path / "long.mp4")
    content = bytearray(path.read_bytes())
    lying = tmp_path / "lying.mp4"
    place = content.index(b"mdhd") + 4 + 16  # the duration, in the track's own unit
    content[place : place + 4] = (1).to_bytes(4)
    lying.write_bytes(content)
    metrics = ServiceMetrics()
    queue = PredictionQueue(detector, 4, 60, 5, metrics)

    async def job() -> None:
        for clip in (path, lying):
            with pytest.raises(TooLong) as too_long:
                await queue.predict_file(clip)
            assert too_long.value.seconds == pytest.approx(6, abs=0.1)

    in_queue(queue, job)
    assert passes(metrics) == (0, 0)
