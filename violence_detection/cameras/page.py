"""The page with the cameras: their pictures and scores, events, and what people say of them."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

from violence_detection.cameras.feedback import Feedback
from violence_detection.cameras.settings import PageSettings
from violence_detection.cameras.view import HOUR, CameraView
from violence_detection.cameras.watcher import WatchedCamera, Watcher
from violence_detection.errors import RunError, UserError
from violence_detection.reporting.rendering import templates_in
from violence_detection.runtime.listening import bound_socket, own_names, url_of
from violence_detection.serving.access import Access, Credentials, is_same
from violence_detection.serving.connections import guarded_server, report_seldom
from violence_detection.serving.limits import Limits
from violence_detection.serving.metrics import ServiceMetrics
from violence_detection.serving.middleware import CONTENT_SECURITY_POLICY, ServiceMiddleware
from violence_detection.serving.page import HTML, shared_files, static_files
from violence_detection.serving.problems import Problem, add_problem_handlers

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
COOKIE = "cameras"
COOKIE_DAYS = 30
SPAN = 10.0  # seconds that a point of the plot stands for
LONGEST_MISSED = 120.0  # seconds
LONGEST_WAIT, POLL = 12.0, 0.25  # seconds for the packets of a moment ago
MOST_BODY = 10_000  # bytes of a request
LIMITS = Limits(max_upload=0, max_seconds=0, max_requests=0, clip_timeout=0, max_connections=128)

# The clips are this server's own files, unlike those that the service's page reads.
POLICY = CONTENT_SECURITY_POLICY.replace("media-src blob:", "media-src 'self'")


class Login(BaseModel):
    """The token, for a cookie."""

    token: str


class Label(BaseModel):
    """What somebody says of an event."""

    folder: str
    label: Literal["violent", "nonviolent"] | None


class Missed(BaseModel):
    """When something happened without an alarm, in seconds since 1970."""

    start: float
    end: float


class CamerasPage:
    """What the page's routes answer.

    Args:
        watcher: whose cameras are shown.
    """

    def __init__(self, watcher: Watcher):
        self.watcher = watcher
        self.feedback = Feedback(watcher.store.folder)

    def camera(self, name: str) -> WatchedCamera:
        """Return a camera; raises a `Problem` (404) if there is none of that name."""
        try:
            return self.watcher.cameras[name]
        except KeyError as error:
            raise Problem(404, "no such camera") from error

    def cameras(self) -> list[dict[str, object]]:
        """Return all cameras, as JSON."""
        return [_as_json(camera.view) for camera in self.watcher.cameras.values()]

    def events(self, count: int, before: str | None) -> list[dict[str, object]]:
        """Return the newest events, with their labels; as `EventStore.newest`."""
        labels = self.feedback.labels()
        events = self.watcher.store.newest(count, before)
        return [{**facts, "label": labels.get(facts["event"])} for facts in events]

    def event(self, folder: str, kind: str) -> tuple[dict[str, Any], Path]:
        """Return an event's facts, and its clip or snapshot; raises a `Problem` (404) without."""
        facts = self.watcher.store.find(folder) or {}
        path = self.watcher.store.folder / (facts.get(kind) or "")
        if not path.is_file():
            raise Problem(404, f"this event has no {kind}, or is removed")
        return facts, path

    def label(self, folder: str, label: str | None) -> dict[str, object]:
        """Label an event.

        Raises:
            Problem: it has no clip (404), or the label cannot be written (409).
        """
        facts, _ = self.event(folder, "clip")
        try:
            self.feedback.set(facts, label)
        except (RunError, UserError, OSError) as error:
            raise Problem(409, f"the label is not kept: {error}") from error
        return {**facts, "label": label}

    def missed(self, name: str, start: float, end: float) -> dict[str, object]:
        """Keep a clip of something that was no alarm, and label it as violent.

        Raises:
            Problem: the times are impossible (422), nothing of them was kept (404), or it cannot
                be written (409).
        """
        camera = self.camera(name)
        if not start < end <= time.time() + 1 or end - start > LONGEST_MISSED:
            raise Problem(422, f"choose a time before now, of up to {LONGEST_MISSED:g} seconds")
        # Packets are there when the next keyframe has come.
        until = time.monotonic() + LONGEST_WAIT
        while not camera.events.has_recorded(end) and time.monotonic() < until:
            time.sleep(POLL)
        facts = camera.events.keep_missed(start, end)
        if facts is None:
            minutes = self.watcher.store.rule.recent / 60
            raise Problem(404, f"no pictures of that time: {minutes:g} minutes are kept")
        folder = Path(facts["clip"]).parent.as_posix()
        return self.label(folder, "violent")


def _as_json(view: CameraView) -> dict[str, object]:
    state, camera = view.state, view.camera
    scores = [(round(moment, 1), round(score, 4)) for moment, score in view.scores(SPAN)]
    return {
        "name": camera.name,
        "source": camera.source.display_name,
        "is_file": camera.source.kind == "file",
        "status": state.status,
        "since": state.since,
        "reason": state.reason,
        "alarm": state.alarm,
        "pictured": state.pictured,
        "threshold": view.threshold,
        "mask": camera.mask,
        "scores": scores,
    }


async def require_short_body(request: Request) -> None:
    """Raise a `Problem` (413) for a body that no page of this server sends."""
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MOST_BODY:
            raise Problem(413, f"send up to {MOST_BODY} bytes, with their Content-Length")


guarded = APIRouter()
public = APIRouter()


async def get_page(request: Request) -> CamerasPage:
    """Return the page of the application."""
    page: CamerasPage = request.app.state.page
    return page


Page = Annotated[CamerasPage, Depends(get_page)]


@guarded.get("/api/cameras")
def cameras(page: Page) -> dict[str, object]:
    """Return all cameras, with the last hour's scores."""
    return {"now": time.time(), "cameras": page.cameras()}


@guarded.get("/api/cameras/{name}/picture")
def picture(page: Page, name: str) -> Response:
    """Return a camera's last picture."""
    jpeg = page.camera(name).view.state.picture
    if jpeg is None:
        raise Problem(404, "no picture yet")
    return Response(jpeg, media_type="image/jpeg")


@guarded.post("/api/cameras/{name}/missed")
def missed(page: Page, name: str, missed: Missed) -> dict[str, object]:
    """Keep what was no alarm, as an example of violence."""
    return page.missed(name, missed.start, missed.end)


@guarded.get("/api/events")
def events(
    page: Page, count: Annotated[int, Query(ge=1, le=200)] = 20, before: str | None = None
) -> list[dict[str, object]]:
    """Return the newest events, the newest first."""
    return page.events(count, before)


@guarded.get("/api/events/{day}/{event}/{kind}")
def event_file(page: Page, day: str, event: str, kind: Literal["clip", "snapshot"]) -> FileResponse:
    """Return an event's clip or snapshot."""
    _, path = page.event(f"{day}/{event}", kind)
    return FileResponse(path, filename=f"{event}{path.suffix}", content_disposition_type="inline")


@guarded.post("/api/label")
def label(page: Page, label: Label) -> dict[str, object]:
    """Label an event, or take its label back."""
    return page.label(label.folder, label.label)


@guarded.get("/feedback.csv")
def feedback(page: Page) -> FileResponse:
    """Return the labels: a manifest."""
    if not page.feedback.manifest.exists():
        raise Problem(404, "no event is labelled yet")
    return FileResponse(page.feedback.manifest, media_type="text/csv", filename="feedback.csv")


@public.get("/healthz")
async def healthz() -> dict[str, str]:
    """Return 200."""
    return {"status": "alive"}


def make_page_app(page: CamerasPage, access: Access) -> FastAPI:
    """Return the application with the page and what it asks for."""
    app = FastAPI(title="Cameras", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.page = page
    add_problem_handlers(app)
    app.add_middleware(ServiceMiddleware, metrics=ServiceMetrics(), max_discarded=MOST_BODY)
    checks = (access.require_allowed_host, access.require_allowed_site, require_short_body)
    own = [Depends(check) for check in checks]
    secret = None if access.token is None else _cookie_for(access.token)

    async def require_login(request: Request, credentials: Credentials) -> None:
        if secret is None or not is_same(secret, request.cookies.get(COOKIE)):
            await access.require_token(credentials)

    @app.post("/login", dependencies=own)
    async def login(login: Login) -> Response:
        if access.token is None or secret is None or not is_same(access.token, login.token):
            raise Problem(401, "this is not the token")
        response = Response(status_code=204)
        seconds = COOKIE_DAYS * 86400
        response.set_cookie(COOKIE, secret, max_age=seconds, httponly=True, samesite="strict")
        return response

    app.include_router(guarded, dependencies=[*own, Depends(require_login)])
    app.include_router(public)
    _add_files(app)
    return app


def _cookie_for(token: str) -> str:
    """Return what the cookie of somebody who knows the token holds; it does not tell the token."""
    return hmac.new(token.encode(), b"cameras", hashlib.sha256).hexdigest()


def _add_files(app: FastAPI) -> None:
    html = (
        templates_in(FOLDER)
        .get_template("cameras.html.j2")
        .render(hour=HOUR, longest=LONGEST_MISSED)
    )
    files = [("/", html.encode(), HTML), *shared_files()]
    files += static_files(FOLDER, "cameras.js", "cameras.css")
    for route, content, media_type in files:

        def file(content: bytes = content, media_type: str = media_type) -> Response:
            headers = {"Content-Security-Policy": POLICY}
            return Response(content, media_type=media_type, headers=headers)

        app.add_api_route(route, file)


@contextlib.contextmanager
def shown(watcher: Watcher, settings: PageSettings) -> Iterator[str]:
    """Serve the page during the block, from a thread; yield its address.

    Raises:
        UserError: the address cannot be used, or the port is taken.
    """
    place = "page: host {host}, port {port}"
    with bound_socket(settings.host, settings.port, place) as listening:
        names = own_names(settings.host, settings.allowed_hosts)
        app = make_page_app(CamerasPage(watcher), Access(settings.token, hosts=names))
        server = guarded_server(app, LIMITS, closing=1, lifespan="off")
        thread = threading.Thread(target=_serve, args=(server, listening), name="page", daemon=True)
        thread.start()
        try:
            yield url_of(listening)
        finally:
            server.should_exit = True
            thread.join(5)


def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    async def serve() -> None:
        asyncio.get_running_loop().set_exception_handler(report_seldom(log.error))
        await server.serve([listening])

    asyncio.run(serve())
