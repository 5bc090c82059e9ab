"""The FastAPI application: the routes, who may use them, and what they return."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from violence_detection.clips.sampling import Sampling
from violence_detection.inference.detector import Detector
from violence_detection.inference.events import Window
from violence_detection.inference.windows import window_sampling
from violence_detection.serving.batching import VideoStep
from violence_detection.serving.middleware import ServiceMiddleware
from violence_detection.serving.page import page_files
from violence_detection.serving.problems import (
    Problem,
    add_problem_handlers,
    describe_problems,
    problem_details,
    problem_responses,
)
from violence_detection.serving.schemas import (
    ClipAnswer,
    Health,
    Readiness,
    ReloadAnswer,
    TimelineLine,
    clip_answer,
    timeline_answer,
    warning_of,
    window_answers,
)
from violence_detection.serving.service import Service
from violence_detection.serving.uploads import (
    MAX_FORM_OVERHEAD,
    VIDEO_FORMATS,
    drawn_clip,
    new_upload,
)

API_VERSION = "1"
MIN_WINDOW = 0.5  # seconds: each window of a timeline costs as much as a clip
VIDEO_FORM = {
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
                            "description": f"a video file: {VIDEO_FORMATS}; may be named `file`",
                        }
                    },
                }
            }
        },
    }
}

guarded = APIRouter()  # behind the checks of site and token
status = APIRouter()  # behind the token where other machines reach the server
public = APIRouter()


class JsonLinesResponse(StreamingResponse):
    """One JSON object per line, sent as soon as it is known."""

    media_type = "application/x-ndjson"


class DetectorApp(FastAPI):
    """An application whose OpenAPI document describes errors as problem details."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            describe_problems(super().openapi())
        return super().openapi()


def make_app(service: Service) -> FastAPI:
    """Return the application that exposes a service; it runs while the application does."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = DetectorApp(
        title="Violence detector",
        version=API_VERSION,
        description="Predicts how likely a video clip shows violence.",
        openapi_url=None,  # see `api_document`
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    add_problem_handlers(app)
    access = service.access
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(
        ServiceMiddleware,
        metrics=service.metrics,
        max_discarded=service.limits.max_upload + MAX_FORM_OVERHEAD,
    )
    own_host, own_site = Depends(access.require_allowed_host), Depends(access.require_allowed_site)
    token = [] if access.token is None else [Depends(access.require_token)]
    app.include_router(guarded, dependencies=[own_host, own_site, *token])
    app.include_router(status, dependencies=[own_host, *(token if service.guards_status else [])])
    app.include_router(public)
    _add_page(app, service)
    return app


def _add_page(app: FastAPI, service: Service) -> None:
    detector = service.detector
    files = page_files(
        detector.name, warning_of(detector), service.limits, service.access.token is not None
    )
    for route, content, media_type in files:

        def file(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(route, file, include_in_schema=False)


# The dependencies of the routes.


async def get_service(request: Request) -> Service:
    """Return the service of the application."""
    service: Service = request.app.state.service
    return service


RunningService = Annotated[Service, Depends(get_service)]


async def receive_clip(request: Request, service: RunningService) -> AsyncIterator[Path]:
    """Yield the path of the uploaded clip; its slot and its file last until the response is sent.

    The slot is taken when the clip is there: those who upload slowly hold up nobody.

    Raises:
        Problem: the server is not ready or busy, or the upload is refused.
    """
    service.require_ready()
    service.require_free_slot()
    with new_upload(service.uploads) as path:
        with service.uploading(request.client.host if request.client else ""):
            await service.receive(request, path)
        with service.slot():
            yield path


UploadedClip = Annotated[Path, Depends(receive_clip)]


# The routes.


@guarded.post(
    "/predict",
    response_model_exclude_unset=True,
    responses=problem_responses(400, 401, 403, 408, 413, 415, 421, 422, 503),
    openapi_extra=VIDEO_FORM,
    summary="Predict violence in a clip",
)
async def predict(
    request: Request, service: RunningService, path: UploadedClip, images: bool = False
) -> ClipAnswer:
    """Predict how likely a clip shows violence, from frames spread evenly over all of it.

    With `images=true` each of these frames comes with a small picture.
    """
    start = time.monotonic()
    predicted = await service.unless_disconnected(request, service.predict_clip(path, images))
    seconds = round(time.monotonic() - start, 3)
    prediction = predicted.prediction
    await service.record(
        request, path, probability=prediction.probability, violent=prediction.violent
    )
    return await asyncio.to_thread(clip_answer, service.detector, predicted, seconds)


@guarded.post(
    "/predict/timeline",
    response_class=JsonLinesResponse,
    responses={
        200: {"model": TimelineLine, "description": "Lines of JSON"},
        **problem_responses(400, 401, 403, 408, 413, 415, 421, 422, 503),
    },
    openapi_extra=VIDEO_FORM,
    summary="Predict violence over the course of a long clip",
)
async def predict_timeline(
    request: Request,
    service: RunningService,
    path: UploadedClip,
    window: Annotated[float, Query(ge=MIN_WINDOW, le=60, description="seconds")] = 2.0,
    stride: Annotated[float, Query(gt=0, le=60, description="seconds")] = 1.0,
) -> JsonLinesResponse:
    """Predict violence in windows of a video, each `stride` seconds after the previous one.

    After each forward pass of the networks comes a line of JSON with the progress and the new
    windows. The last line has the `result`, or the `problem` that ended the request.
    """
    start = time.monotonic()
    if stride > window:
        raise Problem(422, "query.stride: must be at most `window`, or parts would be skipped")
    sampling = window_sampling(service.detector, window, stride)
    steps = service.predict_video(path, sampling)
    # An unreadable video gets its own status.
    first = await service.unless_disconnected(request, anext(steps))

    async def record(windows: list[Window]) -> None:
        probabilities = [window.probability for window in windows]
        await service.record(request, path, windows=probabilities)

    lines = _timeline_lines(service.detector, first, steps, sampling, start, record)
    # A buffering proxy would hide the progress.
    return JsonLinesResponse(lines, headers={"X-Accel-Buffering": "no"})


async def _timeline_lines(
    detector: Detector,
    first: VideoStep,
    steps: AsyncGenerator[VideoStep, None],
    sampling: Sampling,
    start: float,
    record: Callable[[list[Window]], Awaitable[None]],
) -> AsyncIterator[str]:
    def line(content: TimelineLine) -> str:
        return content.model_dump_json(exclude_unset=True) + "\n"

    windows: list[Window] = []
    share = 1.0
    try:
        async with contextlib.aclosing(steps):
            yield line(TimelineLine(progress=0.0, windows=[]))
            async for step in steps:
                windows += step.windows
                share = step.share
                progress = step.duration and min(1.0, step.read / step.duration)
                yield line(TimelineLine(progress=progress, windows=window_answers(step.windows)))
        await record(windows)
    except Problem as problem:
        yield line(TimelineLine(problem=problem_details(problem)))
        return
    seconds = round(time.monotonic() - start, 3)
    result = timeline_answer(detector, sampling, windows, first.duration, share, seconds)
    yield line(TimelineLine(result=result))


@status.get("/example.mp4", include_in_schema=False)
async def example(service: RunningService) -> Response:
    """Return a drawn clip to try the page with."""
    clip = await asyncio.to_thread(drawn_clip, service.uploads)
    return Response(clip, media_type="video/mp4")


@public.get("/healthz", responses=problem_responses(503), summary="Liveness")
async def healthz(service: RunningService) -> Health:
    """Return 200 unless predictions have stopped for good."""
    service.require_alive()
    return Health(status="alive", model_sha256=service.detector.model_sha256)


@status.get("/readyz", responses=problem_responses(401, 421, 503), summary="Readiness")
async def readyz(service: RunningService) -> Readiness:
    """Return 200 while a clip would be taken in: the model is loaded, and a slot is free."""
    service.require_ready()
    service.require_free_slot()
    detector = service.detector
    return Readiness(
        status="ready",
        model=detector.name,
        threshold=detector.threshold,
        warning=warning_of(detector),
    )


@status.get("/openapi.json", include_in_schema=False)
async def api_document(request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@guarded.post(
    "/reload",
    responses=problem_responses(401, 403, 409, 421, 503),
    summary="Load the model anew",
)
async def reload(service: RunningService) -> ReloadAnswer:
    """Use the model that is in the server's checkpoint directory now, after trying it on clips."""
    detector, tried, changed = await service.reload()
    return ReloadAnswer(
        model=detector.name,
        model_sha256=detector.model_sha256,
        trial_clips=tried,
        predicted_otherwise=changed,
    )


@guarded.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problem_responses(401, 403, 421),
    },
    summary="Prometheus metrics",
)
async def metrics(service: RunningService) -> Response:
    """Return the metrics in Prometheus's text format."""
    return Response(service.metrics.as_text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
