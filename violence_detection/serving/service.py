"""The service behind the routes: request slots, uploads and predictions."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from violence_detection.clips.sampling import Sampling
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RunError, UserError
from violence_detection.inference.detector import Detector, PredictedClip
from violence_detection.serving.access import Access
from violence_detection.serving.audit import AuditLog
from violence_detection.serving.batching import PredictionQueue, VideoStep
from violence_detection.serving.limits import (
    ClientCounts,
    ClipTooLong,
    Limits,
    QueueFull,
    TooMuchWork,
)
from violence_detection.serving.metrics import ServiceMetrics
from violence_detection.serving.problems import Problem
from violence_detection.serving.uploads import receive_video

if TYPE_CHECKING:
    from violence_detection.serving.reloading import Reloaded, Reloader

log = logging.getLogger(__name__)

Result = TypeVar("Result")

RETRY_AFTER = 5  # seconds: `Retry-After` while the server starts up or shuts down


class Service:
    """A detector with the rules for its clients.

    Args:
        detector: makes the predictions.
        uploads: folder for the clips that are being processed.
        limits: what is accepted.
        access: who may ask; by default everybody.
        guards_status: readiness and the API document need the token, too.
        audit: a line for each prediction; None: there is no such log.

    Attributes:
        draining: whether new requests are refused because the server shuts down.
        stopped: set when running requests are given up, too.
        reloader: replaces the detector; None: it stays.
        warm_up: the task that prepares decoders and networks, while `running`.
    """

    warm_up: asyncio.Task[None]

    def __init__(
        self,
        detector: Detector,
        uploads: Path,
        limits: Limits,
        access: Access | None = None,
        guards_status: bool = False,
        audit: AuditLog | None = None,
    ):
        self.detector = detector
        self.uploads = uploads
        self.limits = limits
        self.access = access or Access()
        self.guards_status = guards_status
        self.audit = audit
        self._uploads = ClientCounts(limits.max_uploads)
        self.metrics = ServiceMetrics()
        self.queue = PredictionQueue(detector, limits, self.metrics)
        self.draining = False
        self.stopped = asyncio.Event()
        self.reloader: Reloader | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve until the end of the block; `warm_up` is done once clips can be predicted."""
        async with self.queue.running():
            self.warm_up = asyncio.create_task(self.queue.warm_up())
            try:
                yield
            finally:
                self.warm_up.cancel()

    def require_ready(self) -> None:
        """Raise a `Problem` (503) while the server starts up or shuts down, or if it is broken."""
        headers = {"Retry-After": str(RETRY_AFTER)}
        if self.draining:
            raise Problem(503, "the server is shutting down", {**headers, "Connection": "close"})
        if not self.warm_up.done():
            raise Problem(503, "the server is starting up: the model is loading", headers)
        if self.warm_up.cancelled() or self.warm_up.exception():
            raise Problem(503, "the model could not be loaded", headers)
        self.require_alive()

    def require_alive(self) -> None:
        """Raise a `Problem` (503) if no clip will be predicted any more."""
        if not self.queue.is_running:
            headers = {"Retry-After": str(RETRY_AFTER)}
            raise Problem(503, "predictions have stopped: restart the server", headers)

    @property
    def pending(self) -> int:
        """How many requests are uploaded, wait or are processed."""
        return self.queue.slots_taken + self._uploads.total

    def require_free_slot(self) -> None:
        """Raise a `Problem` (503) if a clip would not be taken in now."""
        try:
            self.queue.require_free_slot()
        except QueueFull as full:
            raise self._busy(full) from full

    @contextlib.contextmanager
    def uploading(self, client: str) -> Iterator[None]:
        """Count an upload of a client during the block.

        Raises:
            Problem: there are too many at once, of this client or in all (503).
        """
        if not self._uploads.add(client):
            raise Problem(
                503, "too many clips are being uploaded", {"Retry-After": str(RETRY_AFTER)}
            )
        try:
            yield
        finally:
            self._uploads.remove(client)

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a request slot during the block.

        Raises:
            Problem: all slots are taken (503).
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.queue.slot())
            except QueueFull as full:
                raise self._busy(full) from full
            yield

    def _busy(self, full: QueueFull) -> Problem:
        slots = self.limits.max_requests
        return Problem(
            503,
            f"the server is busy: {slots} of {slots} request slots are taken",
            {"Retry-After": str(full.retry_after)},
        )

    async def receive(self, request: Request, path: Path) -> None:
        """Write the clip of a request to `path`.

        Raises:
            Problem: as `receive_video` does.
        """
        size = await receive_video(
            request.stream(),
            request.headers.get("content-type", ""),
            request.headers.get("content-length"),
            path,
            self.limits,
        )
        self.metrics.uploaded.inc(size)

    async def record(self, request: Request, path: Path, **values: Any) -> None:
        """Add a line on a prediction to the audit log, if there is one.

        Raises:
            Problem: it cannot be written (503): no prediction is given out without its line.
        """
        if self.audit is None:
            return
        client = request.client.host if request.client else ""
        line = {"client": client, "model_sha256": self.detector.model_sha256, **values}
        try:
            await asyncio.to_thread(partial(self.audit.write, path, **line))
        except OSError as error:
            log.error("%s: %s", self.audit.path, error.strerror)
            raise Problem(503, "the server cannot write its audit log") from error

    def replace_detector(self, detector: Detector) -> None:
        """Predict with another detector from the next batch on."""
        self.detector = self.queue.detector = detector

    def require_like_the_one_in_use(self, detector: Detector) -> None:
        """Raise `UserError` if a detector takes clips in another way, which needs a restart."""
        now = self.detector
        if (detector.streams, detector.cached_frames) != (now.streams, now.cached_frames):
            raise UserError(
                f"{detector.name} takes {detector.cached_frames} frames of "
                f"{','.join(detector.streams)}, unlike {now.name}: restart the server"
            )

    async def reload(self) -> "Reloaded":
        """Replace the detector by what is in its checkpoint directory now.

        Raises:
            Problem: the server has no token (403), cannot reload (503), or the new detector is not
                fit for use (409).
        """
        if self.access.token is None:
            raise Problem(403, "reloading needs a server with a token; or send it SIGHUP")
        if self.reloader is None:
            raise Problem(503, "this server cannot reload its model")
        self.require_ready()
        try:
            return await self.reloader.reload()
        except (UserError, RunError) as error:
            raise Problem(409, "the new model is not used: see the server's log") from error

    async def predict_clip(self, path: Path, with_pictures: bool) -> PredictedClip:
        """Return the prediction for a clip.

        Args:
            path: the uploaded clip.
            with_pictures: also return its frames as a human would see them.

        Raises:
            Problem: the clip is too long (413) or cannot be processed (422).
        """
        try:
            predicted = await self.queue.predict_file(path, with_pictures)
        except ClipTooLong as too_long:
            raise self._too_long(too_long.seconds) from too_long
        if predicted.prediction.error is not None:
            raise _unprocessable(predicted.prediction.error)
        return predicted

    async def predict_video(
        self, path: Path, sampling: Sampling
    ) -> AsyncGenerator[VideoStep, None]:
        """Yield the windows of a video step by step; the first step comes before any window.

        Args:
            path: the uploaded video.
            sampling: how the windows lie over it.

        Raises:
            Problem: the video is too long (413), has too many windows, samples or frames (422),
                cannot be processed (422), or the server shuts down (503).
        """
        try:
            async with contextlib.aclosing(self.queue.predict_video(path, sampling)) as steps:
                async for step in steps:
                    yield step
                    if self.stopped.is_set():
                        raise _stopped()
        except ClipTooLong as too_long:
            raise self._too_long(too_long.seconds) from too_long
        except TooMuchWork as much:
            remedy = "a shorter video" if much.what == "frames" else "a larger stride or window"
            raise Problem(
                422,
                f"the video has {much.count:,} {much.what}, more than the {much.allowed:,} "
                f"allowed: send {remedy} (the server's --max-{much.what})",
            ) from much
        except UnreadableClip as unreadable:
            raise _unprocessable(str(unreadable)) from unreadable
        except OSError as error:
            raise _unprocessable(error.strerror or "") from error

    async def unless_disconnected(self, request: Request, work: Awaitable[Result]) -> Result:
        """Return the result of `work`, which is cancelled if nobody will receive it.

        Raises:
            ClientDisconnect: the client has closed the connection.
            Problem: the server shuts down (503).
        """

        async def disconnected() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        working = asyncio.ensure_future(work)
        disconnecting = asyncio.create_task(disconnected())
        stopping = asyncio.create_task(self.stopped.wait())
        tasks = (working, disconnecting, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return await working
            if disconnecting.done():
                raise ClientDisconnect
            raise _stopped()
        finally:
            for task in tasks:
                task.cancel()

    def _too_long(self, seconds: float) -> Problem:
        allowed = f"{self.limits.max_seconds:g} s allowed"
        return Problem(413, f"the clip lasts {math.ceil(seconds)} s, more than the {allowed}")


def _unprocessable(reason: str) -> Problem:
    return Problem(422, f"the clip cannot be processed: {reason}")


def _stopped() -> Problem:
    return Problem(503, "the server shut down before the prediction", {"Connection": "close"})
