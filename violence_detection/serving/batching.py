"""Predictions for many requests at once: clips are decoded in parallel and predicted in batches."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from violence_detection.clips.cancellation import Cancellation
from violence_detection.clips.decoders import DecoderProcesses, decoder_count, stream_from_process
from violence_detection.clips.sampling import Sample, Sampling, VideoEnd, sample_video
from violence_detection.clips.video import UnreadableClip, VideoInfo
from violence_detection.inference.detector import DecodedClip, Detector, PredictedClip, Prediction
from violence_detection.inference.events import Window
from violence_detection.inference.windows import WindowPredictor, readable_end, window_of
from violence_detection.serving.limits import ClipTooLong, Limits, QueueFull, TooMuchWork
from violence_detection.serving.metrics import ServiceMetrics
from violence_detection.settings.constants import CLASS_NAMES

Result = TypeVar("Result")

BATCH_TIMEOUT = 0.005  # seconds
BATCHES_AHEAD = 2  # decoded before they are predicted, as in feature extraction
MAX_RETRY_AFTER = 60  # seconds


class VideoStep(NamedTuple):
    """The result of one forward pass over a part of a video."""

    windows: list[Window]  # that are complete now, in time order
    read: float  # seconds of the video so far
    duration: float | None  # seconds; None: not known from the file
    share: float = 1.0  # of the video that could be read, known with the last step


@dataclass(frozen=True)
class _WaitingClip:
    clip: DecodedClip
    prediction: asyncio.Future[Prediction]


class PredictionQueue:
    """Predicts clips for many requests, as many at once as there are slots.

    Everything but decoding and the networks happens in one event loop. One thread runs the
    networks; whenever it is free it takes the clips that have been decoded as one batch.

    Args:
        detector: makes the predictions.
        limits: slots, duration of a clip, and time for decoding it.
        metrics: counts slots, clips and forward passes.
        batch_timeout: seconds that a decoded clip waits for others to share its batch.
    """

    def __init__(
        self,
        detector: Detector,
        limits: Limits,
        metrics: ServiceMetrics,
        batch_timeout: float = BATCH_TIMEOUT,
    ):
        self.detector = detector
        self.limits = limits
        self.slots_taken = 0
        self._metrics = metrics
        self._batch_timeout = batch_timeout
        self._mean_seconds = 1.0  # that a request keeps its slot, as a running mean
        self._waiting: deque[_WaitingClip] = deque()
        self._arrived = asyncio.Event()
        self._network_thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        # One process decodes each video; further videos wait for their turn.
        self._video_threads = ThreadPoolExecutor(decoder_count(), thread_name_prefix="video")
        self._video_turns = asyncio.Semaphore(decoder_count())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make predictions until the end of the block."""
        processes = decoder_count()
        threads = processes + 1  # one clip is handed over while each process decodes another
        self._decoder_threads = ThreadPoolExecutor(threads, thread_name_prefix="decoder")
        # A decoded clip takes megabytes: this bounds them.
        self._clips_in_memory = asyncio.Semaphore(
            BATCHES_AHEAD * self.detector.clips_per_batch + threads
        )
        self._decoders = DecoderProcesses(
            processes,
            threads,
            self.detector.cached_frames,
            self.limits.clip_timeout,
            len(self.detector.streams) + 1,
        )
        # On exit the processes end first, because the threads wait for them.
        with self._network_thread, self._decoder_threads, self._decoders:
            self._batches = asyncio.create_task(self._run_batches())
            try:
                yield
            finally:
                self._batches.cancel()
                for waiting in self._waiting:
                    waiting.prediction.cancel()
                self._video_threads.shutdown(wait=False, cancel_futures=True)

    def require_free_slot(self) -> None:
        """Raise `QueueFull` if all slots are taken."""
        if self.slots_taken >= self.limits.max_requests:
            raise QueueFull(min(MAX_RETRY_AFTER, max(1, math.ceil(self._mean_seconds))))

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a request slot during the block.

        Raises:
            QueueFull: all of them are taken.
        """
        self.require_free_slot()
        start = time.monotonic()
        self.slots_taken += 1
        self._metrics.slots.set(self.slots_taken)
        try:
            yield
        finally:
            self.slots_taken -= 1
            self._metrics.slots.set(self.slots_taken)
            self._mean_seconds += 0.1 * (time.monotonic() - start - self._mean_seconds)

    @property
    def is_running(self) -> bool:
        """Whether clips are still predicted."""
        return not self._batches.done()

    @property
    def waiting_clips(self) -> int:
        """How many decoded clips wait for a forward pass."""
        return len(self._waiting)

    async def warm_up(self) -> None:
        """Use decoders and networks once: the first time takes longest.

        Raises:
            RunError: the weights of VGG19 cannot be loaded.
        """
        await asyncio.gather(
            self.try_out(self.detector),
            _run_in(self._decoder_threads, self._decoders.checksum, self.detector.model_path),
        )

    async def try_out(self, detector: Detector) -> float:
        """Return what a detector predicts for a blank clip.

        Raises:
            RunError: the weights of its backbone cannot be loaded.
        """
        shape = (1, len(detector.streams), detector.frames, 224, 224, 3)
        blank = np.zeros(shape, np.uint8)
        output = await _run_in(self._network_thread, detector.predict_images, blank)
        return float(output.probabilities[0])

    async def predict_with(self, detector: Detector, clips: Sequence[Path]) -> list[Prediction]:
        """Return what any detector predicts of clips, beside the requests; for trying it.

        Args:
            detector: takes as many frames and streams as the one in use.
            clips: video files.

        Raises:
            RunError: the weights of its backbone cannot be loaded.
        """
        found = []
        for path in clips:
            async with self._clips_in_memory:
                read = partial(detector.read_clip, self._decoders, path)
                clip = await _run_in(self._decoder_threads, read)
                if isinstance(clip, DecodedClip):
                    predict = detector.predict_decoded
                    (clip,) = await _run_in(self._network_thread, predict, [clip])
                found.append(clip)
        return found

    async def predict_file(self, path: Path, with_pictures: bool = False) -> PredictedClip:
        """Return the prediction for a clip; one that cannot be decoded has the reason instead.

        Args:
            path: a video file.
            with_pictures: also return its frames as a human would see them.

        Raises:
            ClipTooLong: it is longer than `limits.max_seconds`.
        """
        async with self._clips_in_memory:
            with cancelled_at_exit() as cancellation:
                clip = await _run_in(
                    self._decoder_threads, self._decode, path, with_pictures, cancellation
                )
            prediction = clip if isinstance(clip, Prediction) else await self._predict(clip)
        kind = "bad" if prediction.violent is None else CLASS_NAMES[prediction.violent]
        self._metrics.clips.labels(kind).inc()
        return PredictedClip(prediction, None if isinstance(clip, Prediction) else clip)

    def _decode(
        self, path: Path, with_pictures: bool, cancellation: Cancellation
    ) -> DecodedClip | Prediction:
        try:
            self._require_short(self._decoders.reported_duration(path, cancellation))
        except UnreadableClip as error:
            return Prediction(path, error=str(error))
        clip = self.detector.read_clip(
            self._decoders, path, with_pictures, cancellation=cancellation
        )
        if isinstance(clip, DecodedClip) and clip.times:
            self._require_short(clip.times[-1])  # the duration in the file may be wrong
        return clip

    def _require_short(self, seconds: float | None) -> None:
        if seconds is not None and seconds > self.limits.max_seconds:
            raise ClipTooLong(seconds)

    def _require_moderate(self, sampling: Sampling, info: VideoInfo, interval: float) -> None:
        """Raise `TooMuchWork` for a video that would take too much, by what its file says."""
        if info.duration is None:
            return
        samples = int(info.duration / interval)
        self._require_few("windows", samples // sampling.step(interval), self.limits.max_windows)
        self._require_few("samples", samples, self.limits.max_samples)
        frames = int(info.duration * (info.frames_per_second or 0))
        self._require_few("frames", frames, self.limits.max_frames)

    def _require_few(self, what: str, count: int, allowed: int) -> None:
        if count > allowed:
            raise TooMuchWork(what, count, allowed)

    async def predict_video(
        self, path: Path, sampling: Sampling
    ) -> AsyncGenerator[VideoStep, None]:
        """Yield the windows of a video: one step before the first forward pass, one after each.

        The networks serve clips and other videos in between.

        Args:
            path: a video file.
            sampling: how the windows lie over it.

        Raises:
            ClipTooLong: it is longer than `limits.max_seconds`.
            TooMuchWork: it has more windows, samples or frames than allowed.
            UnreadableClip: it cannot be decoded from here on.
            OSError: the file cannot be read.
        """
        ahead = 2 * self.detector.images_per_batch // len(self.detector.streams)
        async with self._video_turns:
            cancellation = Cancellation()
            samples = stream_from_process(
                *(sample_video, path, sampling),
                timeout=self.limits.clip_timeout,
                ahead=ahead,
                in_all=True,
                cancellation=cancellation,
            )
            with _closing_after_last_call(samples, self._video_threads, cancellation) as run:
                info = await run(partial(next, samples))
                self._require_short(info.duration)
                interval = sampling.interval(info.frames_per_second)
                self._require_moderate(sampling, info, interval)
                yield VideoStep([], 0.0, info.duration)
                if sampling.covers(info.duration, info.frames_per_second):
                    whole = await self._predict_whole(path)
                    # What the file says of its length may be false.
                    if whole.info and sampling.covers(whole.info.seconds, info.frames_per_second):
                        yield _step_of(whole, info.duration)
                        return
                predictor = WindowPredictor(self.detector, sampling, interval)
                count, reached = 0, 0.0
                while isinstance(filled := await run(partial(_fill, predictor, samples)), float):
                    self._require_short(filled)
                    self._require_few("samples", predictor.samples, self.limits.max_samples)
                    self._require_few("windows", count, self.limits.max_windows)
                    windows = await self._predict_windows(predictor, ended=False)
                    count, reached = count + len(windows), filled
                    yield VideoStep(windows, reached, info.duration)
                windows = await self._predict_windows(predictor, ended=True)
        if not count and not windows:  # shorter than a window: predicted as a clip
            yield _step_of(await self._predict_whole(path), info.duration)
            return
        reached = max(reached, *(window.end for window in windows), 0.0)
        yield VideoStep(windows, reached, info.duration, readable_end(filled).share)

    async def _predict_windows(self, predictor: WindowPredictor, ended: bool) -> list[Window]:
        start = time.monotonic()
        windows = await _run_in(self._network_thread, predictor.predict, ended)
        self._metrics.pass_seconds.observe(time.monotonic() - start)
        for window in windows:
            if not math.isfinite(window.probability):
                raise UnreadableClip(
                    f"its features are too large for {self.detector.feature_dtype}"
                )
        return windows

    async def _predict_whole(self, path: Path) -> Prediction:
        prediction = (await self.predict_file(path)).prediction
        if prediction.probability is None:
            raise UnreadableClip(prediction.error or "")
        return prediction

    async def _predict(self, clip: DecodedClip) -> Prediction:
        waiting = _WaitingClip(clip, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.prediction

    async def _run_batches(self) -> None:
        while True:
            await self._arrived.wait()
            await self._wait_for_full_batch()
            batch = self._next_batch()
            if batch:
                await self._predict_batch(batch)
            if not self._waiting:
                self._arrived.clear()

    async def _wait_for_full_batch(self) -> None:
        """Return when a batch is full, no other request is on its way, or the timeout is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._batch_timeout):
                while len(self._waiting) < min(self.detector.clips_per_batch, self.slots_taken):
                    self._arrived.clear()
                    await self._arrived.wait()

    def _next_batch(self) -> list[_WaitingClip]:
        batch: list[_WaitingClip] = []
        while self._waiting and len(batch) < self.detector.clips_per_batch:
            waiting = self._waiting.popleft()
            if not waiting.prediction.done():  # else its request was cancelled
                batch.append(waiting)
        return batch

    async def _predict_batch(self, batch: list[_WaitingClip]) -> None:
        start = time.monotonic()
        clips = [waiting.clip for waiting in batch]
        try:
            predictions = await _run_in(self._network_thread, self.detector.predict_decoded, clips)
        except Exception as error:  # fails the requests of this batch only
            for waiting in batch:
                if not waiting.prediction.done():
                    waiting.prediction.set_exception(error)
            return
        self._metrics.pass_clips.observe(len(batch))
        self._metrics.pass_seconds.observe(time.monotonic() - start)
        for waiting, prediction in zip(batch, predictions, strict=True):
            if not waiting.prediction.done():
                waiting.prediction.set_result(prediction)


async def _run_in(
    threads: ThreadPoolExecutor, function: Callable[..., Result], *arguments: Any
) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


@contextlib.contextmanager
def cancelled_at_exit() -> Iterator[Cancellation]:
    """Yield what cancels a decoding; it is cancelled after the block, done or not."""
    cancellation = Cancellation()
    try:
        yield cancellation
    finally:
        cancellation.cancel()


@contextlib.contextmanager
def _closing_after_last_call(
    generator: Generator[Any, None, None],
    threads: ThreadPoolExecutor,
    cancellation: Cancellation,
) -> Iterator[Callable[[Callable[[], Result]], Awaitable[Result]]]:
    """Yield a function that runs calls in threads; `generator` is closed after the last call.

    That may be after the block: a call cannot be interrupted, but what it waits for is cancelled.
    """
    last: Future[Any] | None = None

    def run(call: Callable[[], Result]) -> Awaitable[Result]:
        nonlocal last
        last = threads.submit(call)
        return asyncio.wrap_future(last)

    try:
        yield run
    finally:
        cancellation.cancel()
        if last is not None:
            last.add_done_callback(lambda _: generator.close())


def _fill(predictor: WindowPredictor, items: Iterator[Sample | VideoEnd]) -> float | VideoEnd:
    """Add samples until a batch is full; return the seconds of video read so far, or its end."""
    for item in items:
        if isinstance(item, VideoEnd):
            return item
        predictor.add(item)
        if predictor.is_full:
            return item.time
    raise UnreadableClip("the decoder has stopped before the end")


def _step_of(prediction: Prediction, duration: float | None) -> VideoStep:
    """Return the prediction for a whole video as its only step."""
    window = window_of(prediction)
    share = prediction.info.share if prediction.info else 1.0
    return VideoStep([window], window.end, duration, share)
