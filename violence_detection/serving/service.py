"""The detector as a service over HTTP: what can be asked, of whom, and what is answered."""

import asyncio
import contextlib
import hmac
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from violence_detection.clips.frames import UnreadableClip
from violence_detection.clips.video import Sampling
from violence_detection.inference.detector import Detector, PredictedClip
from violence_detection.inference.events import Window
from violence_detection.inference.windows import window_sampling
from violence_detection.serving.batching import Full, PredictionQueue, TooLong, VideoStep
from violence_detection.serving.metrics import ServiceMetrics
from violence_detection.serving.middleware import Exchange
from violence_detection.serving.page import page_files
from violence_detection.serving.problems import (
    PROBLEM_TYPE,
    Problem,
    ProblemDetails,
    details,
    problem_response,
)
from violence_detection.serving.schemas import (
    ClipAnswer,
    Health,
    Readiness,
    TimelineLine,
    clip_answer,
    timeline_answer,
    warning_of,
    window_answers,
)
from violence_detection.serving.uploads import FORM_BYTES, new_upload, receive_video

Found = TypeVar("Found")

VERSION = "1"  # of what can be asked and what is answered
LEAST_WINDOW = 0.5  # seconds of a timeline's windows: shorter ones are as costly as a clip each
SOON = 5  # seconds after which a server that starts or ends is to be asked again
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "properties": {
                        "video": {
                            "type": "string",
                            "format": "binary",
                            "description": "a video file: mp4, mov, mkv, webm, avi, flv, wmv, mpg",
                        }
                    },
                }
            }
        },
    }
}
MEANINGS = {  # of the statuses that tell a problem
    400: "The form is not valid.",
    401: "The token is missing or wrong.",
    403: "A page of another site has sent this; see --cors.",
    408: "The clip came too slowly.",
    413: "The clip is too large, or lasts too long.",
    415: "This is no form, or no video.",
    422: "The clip cannot be judged, or a parameter is wrong.",
    500: "The service has failed.",
    503: "All places are taken, or the server starts or ends: see Retry-After.",
}


@dataclass(frozen=True)
class Limits:
    """What the service takes."""

    max_upload: int  # bytes of a clip
    max_seconds: float  # that a clip may last
    places: int  # requests that are taken in at once
    clip_timeout: float  # seconds that reading a clip may take
    stalled: float = 20.0  # seconds after which more of an upload must have come
    upload_timeout: float = 300.0  # seconds that an upload may take


class Service:
    """A detector, and who may ask it for what.

    Args:
        detector: what judges.
        uploads: folder for the clips that are being judged.
        limits: what is taken.
        token: that requests must bear; None: anybody may ask.
        origins: of pages of other sites that may ask, as `https://host`.
    """

    def __init__(
        self,
        detector: Detector,
        uploads: Path,
        limits: Limits,
        token: str | None = None,
        origins: Sequence[str] = (),
    ):
        self.detector = detector
        self.uploads = uploads
        self.limits = limits
        self.token = token
        self.origins = tuple(origins)
        self.metrics = ServiceMetrics()
        self.queue = PredictionQueue(
            detector, limits.places, limits.clip_timeout, limits.max_seconds, self.metrics
        )
        self.draining = False  # nothing more is taken in
        self.given_up = asyncio.Event()  # nor is what was taken in waited for any longer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve until the end of the block; `warming` ends when the first clip can be judged."""
        async with self.queue.running():
            self.warming = asyncio.create_task(self.queue.warm_up())
            try:
                yield
            finally:
                self.warming.cancel()

    def require_ready(self) -> None:
        """Raise a `Problem` while the server starts or ends."""
        if self.draining:
            headers = {"Retry-After": str(SOON), "Connection": "close"}
            raise Problem(503, "the server is about to end", headers)
        if not self.warming.done():
            raise Problem(503, "the networks are being warmed up", {"Retry-After": str(SOON)})
        if self.warming.cancelled() or self.warming.exception() or not self.queue.is_running:
            raise Problem(503, "the networks are not there", {"Retry-After": str(SOON)})

    def require_token(self, given: str | None) -> None:
        """Raise a `Problem` unless `given` is the token; how long it takes tells nothing."""
        token = (self.token or "").encode()
        if not token or given is None or not hmac.compare_digest(given.encode(), token):
            raise Problem(
                401,
                "send the server's token as `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": "Bearer"},
            )

    def require_allowed_site(self, request: Request) -> None:
        """Raise a `Problem` for what a browser sends on behalf of another site's page."""
        site, origin = (request.headers.get(name) for name in ("sec-fetch-site", "origin"))
        if site in ("cross-site", "same-site") and origin not in self.origins:
            raise Problem(403, "pages of other sites may not ask here (--cors names those that do)")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places until the end of the block; raises `Problem`."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self.queue.place())
            except Full as full:
                raise Problem(
                    503,
                    f"all {self.limits.places} places are taken",
                    {"Retry-After": str(full.retry_after)},
                ) from full
            yield

    async def receive(self, request: Request, path: Path) -> None:
        """Write the clip of a request to `path`; raises `Problem`."""
        size = await receive_video(
            request.stream(),
            request.headers.get("content-type", ""),
            request.headers.get("content-length"),
            path,
            self.limits.max_upload,
            self.limits.stalled,
            self.limits.upload_timeout,
        )
        self.metrics.uploaded.inc(size)

    async def judge(self, path: Path, with_pictures: bool) -> PredictedClip:
        """Return what is found on a clip; raises `Problem` if it cannot be judged."""
        try:
            examined = await self.queue.predict_file(path, with_pictures)
        except TooLong as too_long:
            raise self._too_long(too_long.seconds) from too_long
        if examined.prediction.error is not None:
            raise _unreadable(examined.prediction.error)
        return examined

    async def predict_video(
        self, path: Path, sampling: Sampling
    ) -> AsyncGenerator[VideoStep, None]:
        """Yield what is found on a video, step by step, the first at once; raises `Problem`."""
        try:
            async with contextlib.aclosing(self.queue.predict_video(path, sampling)) as steps:
                async for step in steps:
                    yield step
                    if self.given_up.is_set():
                        raise _ended()
        except TooLong as too_long:
            raise self._too_long(too_long.seconds) from too_long
        except UnreadableClip as unreadable:
            raise _unreadable(str(unreadable)) from unreadable
        except OSError as error:
            raise _unreadable(error.strerror or "") from error

    async def unless_over(self, request: Request, work: Awaitable[Found]) -> Found:
        """Return what `work` does; it is cancelled if who asked goes away, or the server ends."""

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        working = asyncio.ensure_future(work)
        leaving = asyncio.create_task(gone())
        ending = asyncio.create_task(self.given_up.wait())
        try:
            await asyncio.wait((working, leaving, ending), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return await working
            if leaving.done():
                raise ClientDisconnect
            raise _ended()
        finally:
            for task in (working, leaving, ending):
                task.cancel()

    def _too_long(self, seconds: float) -> Problem:
        allowed = f"{self.limits.max_seconds:g} s allowed"
        return Problem(413, f"the clip lasts {math.ceil(seconds)} s, more than the {allowed}")


def _unreadable(reason: str) -> Problem:
    return Problem(422, f"the clip cannot be judged: {reason}")


def _ended() -> Problem:
    return Problem(503, "the server has ended before it was done", {"Connection": "close"})


class JsonLines(StreamingResponse):
    """A JSON object per line, as it comes."""

    media_type = "application/x-ndjson"


def make_app(service: Service) -> FastAPI:
    """Return the application that answers for a service."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Violence detector",
        version=VERSION,
        description="Tells how likely a video clip is violent.",
        docs_url=None,  # their pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    bearer = HTTPBearer(auto_error=False, description="the server's --token")
    _tell_problems(app)
    if service.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(
        Exchange, metrics=service.metrics, linger_bytes=service.limits.max_upload + FORM_BYTES
    )

    async def of_allowed_site(request: Request) -> None:
        service.require_allowed_site(request)

    async def with_token(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        service.require_token(credentials.credentials if credentials else None)

    guards = [Depends(of_allowed_site)]
    if service.token is not None:
        guards.append(Depends(with_token))

    async def received(request: Request) -> AsyncIterator[Path]:
        """Yield the clip's path; place and file are held until the answer is sent."""
        service.require_ready()
        with service.place(), new_upload(service.uploads) as path:
            await service.receive(request, path)
            yield path

    @app.post(
        "/predict",
        dependencies=guards,
        response_model_exclude_unset=True,
        responses=_problems(400, 401, 403, 408, 413, 415, 422, 503),
        openapi_extra=FORM,
        summary="Judge a clip",
    )
    async def predict(
        request: Request, path: Annotated[Path, Depends(received)], images: bool = False
    ) -> ClipAnswer:
        """Tell how likely a clip is violent, from frames evenly spread over all of it.

        With `images=true` each of these frames comes with a small picture.
        """
        began = time.monotonic()
        examined = await service.unless_over(request, service.judge(path, images))
        seconds = round(time.monotonic() - began, 3)
        return await asyncio.to_thread(clip_answer, service.detector, examined, seconds)

    @app.post(
        "/predict/timeline",
        dependencies=guards,
        response_class=JsonLines,
        responses={
            200: {"model": TimelineLine, "description": "Lines of JSON"},
            **_problems(400, 401, 403, 408, 413, 415, 422, 503),
        },
        openapi_extra=FORM,
        summary="Judge a long clip over time",
    )
    async def predict_timeline(
        path: Annotated[Path, Depends(received)],
        window: Annotated[float, Query(ge=LEAST_WINDOW, le=60, description="seconds")] = 2.0,
        stride: Annotated[float, Query(gt=0, le=60, description="seconds")] = 1.0,
    ) -> JsonLines:
        """Judge windows of a video, each `stride` seconds after the one before.

        A line of JSON comes after each pass of the networks: how far it is, and the windows that
        it has judged. The last line has the `result`, or the `problem` that has ended it.
        """
        began = time.monotonic()
        if stride > window:
            raise Problem(422, "query.stride: parts of the video are left out: at most `window`")
        sampling = window_sampling(service.detector, window, stride)
        steps = service.predict_video(path, sampling)
        first = await anext(steps)  # what is no video is told by the status

        async def lines() -> AsyncIterator[str]:
            windows: list[Window] = []
            try:
                async with contextlib.aclosing(steps):
                    yield _line(TimelineLine(progress=0.0, windows=[]))
                    async for step in steps:
                        windows += step.windows
                        share = step.duration and min(1.0, step.read / step.duration)
                        yield _line(
                            TimelineLine(progress=share, windows=window_answers(step.windows))
                        )
            except Problem as problem:
                yield _line(TimelineLine(problem=details(problem)))
                return
            seconds = round(time.monotonic() - began, 3)
            result = timeline_answer(service.detector, windows, first.duration, stride, seconds)
            yield _line(TimelineLine(result=result))

        # A proxy that collects the lines would hide how far it is.
        return JsonLines(lines(), headers={"X-Accel-Buffering": "no"})

    @app.get("/healthz", responses=_problems(503), summary="Is it alive")
    async def healthz() -> Health:
        """Answer as long as the server can judge clips at all, now or later."""
        if not service.queue.is_running:
            raise Problem(503, "nothing is judged any more: restart the server")
        return Health(status="alive")

    @app.get("/readyz", responses=_problems(503), summary="Does it take clips")
    async def readyz() -> Readiness:
        """Answer once the networks are warm, until the server is told to end."""
        service.require_ready()
        detector = service.detector
        return Readiness(
            status="ready",
            model=detector.name,
            threshold=detector.threshold,
            warning=warning_of(detector),
        )

    @app.get(
        "/metrics",
        dependencies=guards,
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **_problems(401, 403),
        },
        summary="Figures for Prometheus",
    )
    async def metrics() -> Response:
        return Response(service.metrics.as_text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    for route, content, media_type in page_files(service.detector, service.limits, service.token):

        def file(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(route, file, include_in_schema=False)
    return app


def _line(line: TimelineLine) -> str:
    return line.model_dump_json(exclude_unset=True) + "\n"


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ProblemDetails, "description": MEANINGS[status]} for status in statuses
    }


def _tell_problems(app: FastAPI) -> None:
    """Have all errors told as problem details, and the OpenAPI document say so."""

    @app.exception_handler(Problem)
    async def of_ours(_: Request, problem: Problem) -> JSONResponse:
        return problem_response(problem)

    @app.exception_handler(HTTPException)
    async def of_the_framework(_: Request, error: HTTPException) -> JSONResponse:
        return problem_response(Problem(error.status_code, str(error.detail), error.headers))

    @app.exception_handler(RequestValidationError)
    async def of_parameters(_: Request, error: RequestValidationError) -> JSONResponse:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return problem_response(Problem(422, "; ".join(told)))

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            for methods in schema["paths"].values():
                for operation in methods.values():
                    for status, response in operation["responses"].items():
                        if int(status) >= 400:
                            (content,) = response["content"].values()
                            response["content"] = {PROBLEM_TYPE: content}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
