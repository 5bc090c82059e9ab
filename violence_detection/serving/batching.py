"""Clips of many requests, judged by one detector: read side by side, several in a forward pass."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from violence_detection.clips.decoders import DecoderProcesses, decoder_count, stream_from_process
from violence_detection.clips.frames import UnreadableClip
from violence_detection.clips.video import Sample, Sampling, sample_video
from violence_detection.inference.detector import DecodedClip, Detector, PredictedClip, Prediction
from violence_detection.inference.events import Window
from violence_detection.inference.windows import WindowPredictor
from violence_detection.serving.metrics import ServiceMetrics
from violence_detection.settings.constants import CLASS_NAMES

Done = TypeVar("Done")

PATIENCE = 0.005  # seconds that a clip waits for others that are on their way
AHEAD = 2  # batches of clips that are read before they are judged, as in extraction
LONGEST_WAIT = 60  # seconds that a request is told to come back after, at most


class Full(Exception):
    """All places are taken.

    Args:
        retry_after: seconds in which those that have one will be done, as far as that is known.
    """

    def __init__(self, retry_after: int):
        super().__init__(retry_after)
        self.retry_after = retry_after


class TooLong(Exception):
    """A clip lasts longer than is allowed.

    Args:
        seconds: that it lasts, at least.
    """

    def __init__(self, seconds: float):
        super().__init__(seconds)
        self.seconds = seconds


class VideoStep(NamedTuple):
    """What is found on a video in a forward pass."""

    windows: list[Window]  # that have become complete, in their order
    read: float  # seconds of the video so far
    duration: float | None  # seconds; None: the file does not say


@dataclass(frozen=True)
class _Waiting:
    clip: DecodedClip
    verdict: asyncio.Future[Prediction]


class PredictionQueue:
    """Judges clips for whoever asks, so many at once as it has places.

    All but the reading and the networks is done in one event loop. The networks are run by one
    thread; it takes together what has been read when it becomes free.

    Args:
        detector: what judges.
        places: requests that are taken in at once.
        clip_timeout: seconds that reading a clip may take.
        longest: seconds that a clip may last.
        metrics: told of places and passes.
        patience: seconds that a clip waits for others before it is judged.
    """

    def __init__(
        self,
        detector: Detector,
        places: int,
        clip_timeout: float,
        longest: float,
        metrics: ServiceMetrics,
        patience: float = PATIENCE,
    ):
        self.detector = detector
        self.places = places
        self.taken = 0
        self._clip_timeout = clip_timeout
        self._longest = longest
        self._metrics = metrics
        self._patience = patience
        self._seconds = 1.0  # that a request has its place, a running mean
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        # Each video has a process of its own that reads it; further ones wait for their turn.
        self._videos = ThreadPoolExecutor(decoder_count(), thread_name_prefix="video")
        self._video_turns = asyncio.Semaphore(decoder_count())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Judge until the end of the block."""
        processes = decoder_count()
        callers = processes + 1  # one clip is on its way while each process reads another
        self._readers = ThreadPoolExecutor(callers, thread_name_prefix="reader")
        # Clips that are read take megabytes each: so many, and no more.
        self._room = asyncio.Semaphore(AHEAD * self.detector.clips_per_batch + callers)
        self._decoders = DecoderProcesses(
            processes,
            callers,
            self.detector.cached_frames,
            self._clip_timeout,
            len(self.detector.streams) + 1,
        )
        # On the way out the processes are ended first: the threads wait for them.
        with self._network, self._readers, self._decoders:
            self._passes = asyncio.create_task(self._run_passes())
            try:
                yield
            finally:
                self._passes.cancel()
                for waiting in self._waiting:
                    waiting.verdict.cancel()
                self._videos.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places until the end of the block; raises `Full`."""
        if self.taken >= self.places:
            raise Full(min(LONGEST_WAIT, max(1, math.ceil(self._seconds))))
        began = time.monotonic()
        self.taken += 1
        self._metrics.places.set(self.taken)
        try:
            yield
        finally:
            self.taken -= 1
            self._metrics.places.set(self.taken)
            self._seconds += 0.1 * (time.monotonic() - began - self._seconds)

    @property
    def is_running(self) -> bool:
        """Whether what is asked will be judged."""
        return not self._passes.done()

    async def warm_up(self) -> None:
        """Return once decoders and networks have done something: the first time takes longest.

        Raises:
            RunError: the weights of VGG19 cannot be had.
        """
        detector = self.detector
        shape = (1, len(detector.streams), detector.frames, 224, 224, 3)
        await asyncio.gather(
            _run(self._network, detector.predict_images, np.zeros(shape, np.uint8)),
            _run(self._readers, self._decoders.checksum, detector.model_path),
        )

    async def predict_file(self, path: Path, with_pictures: bool = False) -> PredictedClip:
        """Return the verdict on a clip; one that cannot be judged says why.

        Args:
            with_pictures: also what a human is shown of the clip.

        Raises:
            TooLong: it lasts too long.
        """
        async with self._room:
            clip = await _run(self._readers, self._read, path, with_pictures)
            verdict = clip if isinstance(clip, Prediction) else await self._judge(clip)
        kind = "bad" if verdict.violent is None else CLASS_NAMES[verdict.violent]
        self._metrics.clips.labels(kind).inc()
        return PredictedClip(verdict, None if isinstance(clip, Prediction) else clip)

    def _read(self, path: Path, with_pictures: bool) -> DecodedClip | Prediction:
        try:
            self._require_short(self._decoders.told_duration(path))
        except UnreadableClip as error:
            return Prediction(path, error=str(error))
        clip = self.detector.read_clip(self._decoders, path, with_pictures)
        if isinstance(clip, DecodedClip) and clip.times:
            self._require_short(clip.times[-1])  # what the file tells may be false
        return clip

    def _require_short(self, seconds: float | None) -> None:
        if seconds is not None and seconds > self._longest:
            raise TooLong(seconds)

    async def predict_video(
        self, path: Path, sampling: Sampling
    ) -> AsyncGenerator[VideoStep, None]:
        """Yield what is found on a video: a step before the first pass, one after each.

        Passes of clips and of other videos come in between.

        Raises:
            TooLong: it lasts too long.
            UnreadableClip: it cannot be read, from here on.
            OSError: the same.
        """
        ahead = 2 * self.detector.images_per_batch // len(self.detector.streams)
        async with self._video_turns:
            read = stream_from_process(
                sample_video, path, sampling, timeout=self._clip_timeout, ahead=ahead
            )
            with _closed_at_last(read, self._videos) as reading:
                info = await reading(partial(next, read))
                self._require_short(info.duration)
                yield VideoStep([], 0.0, info.duration)
                interval = sampling.interval(info.frames_per_second)
                judge = WindowPredictor(self.detector, sampling, interval)
                found, reached = 0, 0.0
                while (time_read := await reading(partial(_read_on, read, judge))) is not None:
                    self._require_short(time_read)
                    windows = await self._pass_of(judge, ended=False)
                    found, reached = found + len(windows), time_read
                    yield VideoStep(windows, reached, info.duration)
                windows = await self._pass_of(judge, ended=True)
        if not found and not windows:  # no longer than a window: judged as the clip that it is
            windows = [await self._as_one_window(path)]
        yield VideoStep(windows, max(reached, *(w.end for w in windows), 0.0), info.duration)

    async def _pass_of(self, judge: WindowPredictor, ended: bool) -> list[Window]:
        began = time.monotonic()
        windows = await _run(self._network, judge.predict, ended)
        self._metrics.pass_seconds.observe(time.monotonic() - began)
        for window in windows:
            if not math.isfinite(window.probability):
                raise UnreadableClip(
                    f"its features are too large for {self.detector.recipes[0].dtype}"
                )
        return windows

    async def _as_one_window(self, path: Path) -> Window:
        verdict = (await self.predict_file(path)).prediction
        if verdict.probability is None:
            raise UnreadableClip(verdict.error or "")
        times = verdict.times or (0.0,)
        return Window(times[0], times[-1], verdict.probability)

    async def _judge(self, clip: DecodedClip) -> Prediction:
        waiting = _Waiting(clip, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.verdict

    async def _run_passes(self) -> None:
        while True:
            await self._arrived.wait()
            await self._wait_for_others()
            batch = self._next_batch()
            if batch:
                await self._run_pass(batch)
            if not self._waiting:
                self._arrived.clear()

    async def _wait_for_others(self) -> None:
        """Return when a pass is full, when nobody else is on the way, or when patience ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while len(self._waiting) < min(self.detector.clips_per_batch, self.taken):
                    self._arrived.clear()
                    await self._arrived.wait()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.detector.clips_per_batch:
            waiting = self._waiting.popleft()
            if not waiting.verdict.done():  # cancelled: nobody wants it any more
                batch.append(waiting)
        return batch

    async def _run_pass(self, batch: list[_Waiting]) -> None:
        began = time.monotonic()
        clips = [waiting.clip for waiting in batch]
        try:
            verdicts = await _run(self._network, self.detector.predict_decoded, clips)
        except Exception as error:  # told to those who asked; the others go on
            for waiting in batch:
                if not waiting.verdict.done():
                    waiting.verdict.set_exception(error)
            return
        self._metrics.pass_clips.observe(len(batch))
        self._metrics.pass_seconds.observe(time.monotonic() - began)
        for waiting, verdict in zip(batch, verdicts, strict=True):
            if not waiting.verdict.done():
                waiting.verdict.set_result(verdict)


async def _run(threads: ThreadPoolExecutor, function: Callable[..., Done], *arguments: Any) -> Done:
    """Return what a function does in one of the threads."""
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


@contextlib.contextmanager
def _closed_at_last(
    generator: Generator[Any, None, None], threads: ThreadPoolExecutor
) -> Iterator[Callable[[Callable[[], Done]], Awaitable[Done]]]:
    """Let steps of a generator be run in threads; it is closed at the end of the last of them.

    That may be after the block: a step cannot be interrupted.
    """
    last: Future[Any] | None = None

    def run(step: Callable[[], Done]) -> Awaitable[Done]:
        nonlocal last
        last = threads.submit(step)
        return asyncio.wrap_future(last)

    try:
        yield run
    finally:
        if last is not None:
            last.add_done_callback(lambda _: generator.close())


def _read_on(samples: Iterator[Sample], judge: WindowPredictor) -> float | None:
    """Read until a pass is full; return the seconds of video so far, None at its end."""
    for sample in samples:
        judge.add(sample)
        if judge.is_full:
            return sample.time
    return None
