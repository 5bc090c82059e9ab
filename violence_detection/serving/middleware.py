"""What every request has in common: security headers, a line in the log, figures, a clean end."""

import asyncio
import contextlib
import logging
import time
import traceback
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from violence_detection.serving.metrics import ServiceMetrics
from violence_detection.serving.problems import Problem, problem_response

log = logging.getLogger(__name__)

# All that a page needs comes from this server; pictures of frames are in what it answers, and a
# clip that was chosen is a blob: the browser is asked how long it lasts.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
GONE = 499  # in the log and the figures: who asked has gone
LINGER = 5.0  # seconds that the rest of a refused upload is read, to be thrown away


class Exchange:
    """Middleware around a service.

    Args:
        app: what answers.
        metrics: told of every request.
        linger_bytes: of a refused upload that are read, at most.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, linger_bytes: int):
        self.app = app
        self.metrics = metrics
        self.linger_bytes = linger_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(scope, receive, send, self.linger_bytes)
        began = time.monotonic()
        try:
            await self.app(scope, request.receive, request.send)
        except ClientDisconnect:
            request.status = GONE
        except Exception as error:
            log.error("%s", _in_one_line(error), exc_info=error)
            if request.status:  # the answer has begun: only the connection's end can tell now
                raise
            problem = Problem(500, "the service has failed here, which is in its log")
            await problem_response(problem)(scope, request.receive, request.send)
        finally:
            self._note(scope, request.status or GONE, time.monotonic() - began, request.received)

    def _note(self, scope: Scope, status: int, seconds: float, received: int) -> None:
        # Nothing of what a client has made up: neither a name nor a query, which may hold a token.
        route = getattr(scope.get("route"), "path", "elsewhere")
        client = (scope.get("client") or ("?",))[0]
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        log.info(
            "%s %s %s %d %.3f s %d bytes",
            *(client, scope["method"], route, status, seconds, received),
        )


class _Request:
    """A request's two ends: counts what comes, and adds to what goes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, linger_bytes: int):
        self.status = 0  # none yet
        self.received = 0  # bytes of the body
        self._receive = receive
        self._send = send
        self._linger_bytes = linger_bytes
        names = dict(scope["headers"])
        has_body = b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"
        # Who waits for "100 Continue" has not sent anything yet.
        self._more_to_come = has_body and names.get(b"expect", b"").lower() != b"100-continue"

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._more_to_come = message.get("more_body", False)
        else:
            self._more_to_come = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [
                (name.lower().encode(), value.encode())
                for name, value in SECURITY_HEADERS.items()
                if name.lower().encode() not in given
            ]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        elif self._more_to_come and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Read on for a while: a connection that is closed on an upload loses its answer."""
        limit = self.received + self._linger_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while self._more_to_come and self.received < limit:
                    await self.receive()


def _in_one_line(error: Exception) -> str:
    """Return an error's type, what it says, and the line of the program that it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = next(iter(str(error).splitlines()), "")[:300]
    return f"{type(error).__name__}: {said} ({Path(last.filename).name}, line {last.lineno})"
