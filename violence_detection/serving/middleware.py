"""Around every request: security headers, access log, metrics, internal errors, refused uploads."""

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

# The page loads everything from this server; pictures of frames are data: URLs in its responses,
# and the chosen clip is a blob, from which the browser reads its duration.
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
CLIENT_CLOSED_REQUEST = 499  # in log and metrics, as nginx has it
UNKNOWN_ROUTE = "elsewhere"  # in log and metrics
LINGERING_TIMEOUT = 5.0  # seconds


class ServiceMiddleware:
    """Middleware around the application.

    Args:
        app: handles the requests.
        metrics: counts the requests.
        max_discarded: bytes of a refused upload that are still read, at most.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, max_discarded: int):
        self.app = app
        self.metrics = metrics
        self.max_discarded = max_discarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; an exception of the application becomes a problem (500)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self.max_discarded)
        start = time.monotonic()
        # What can be got has a head: the server itself leaves the body out.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self.app(asked, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            log.error("%s", _one_line(error), exc_info=error)
            if exchange.status:  # the response has begun: all that is left is to close it
                raise
            problem = Problem(500, "internal error: see the server's log")
            await problem_response(problem)(scope, exchange.receive, exchange.send)
        finally:
            status = exchange.status or CLIENT_CLOSED_REQUEST
            if exchange.was_given_up:
                status = CLIENT_CLOSED_REQUEST
            self._record(scope, status, time.monotonic() - start, exchange.received)

    def _record(self, scope: Scope, status: int, seconds: float, received: int) -> None:
        # Nothing that a client chooses freely: no file name and no query, which may hold a token.
        route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        client = (scope.get("client") or ("?",))[0]
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        log.info(
            "%s %s %s %d %.3f s %d bytes",
            *(client, scope["method"], route, status, seconds, received),
        )


class _Exchange:
    """One request and its response: counts what is received, adds headers to what is sent."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_discarded: int):
        self.status = 0  # none yet
        self.received = 0  # bytes of the body
        self.was_given_up = False  # by the client, before the response was complete
        self._is_complete = False
        self._receive = receive
        self._send = send
        self._max_discarded = max_discarded
        headers = dict(scope["headers"])
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        # A client that waits for "100 Continue" has not sent any of the body.
        self._more_to_come = has_body and headers.get(b"expect", b"").lower() != b"100-continue"

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._more_to_come = message.get("more_body", False)
        else:
            self._more_to_come = False
            self.was_given_up = not self._is_complete
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", [])}
            added = [
                (name.lower().encode(), value.encode())
                for name, value in SECURITY_HEADERS.items()
                if name.lower().encode() not in present
            ]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        elif self._more_to_come and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._discard_body()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)
        if message["type"] == "http.response.body":
            self._is_complete = not message.get("more_body", False)

    async def _discard_body(self) -> None:
        """Read on for a while: closing a connection during an upload loses the response."""
        limit = self.received + self._max_discarded
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGERING_TIMEOUT):
                while self._more_to_come and self.received < limit:
                    await self.receive()


def _one_line(error: Exception) -> str:
    """Return an error's type, its message, and the line of code that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    message = next(iter(str(error).splitlines()), "")[:300]
    return f"{type(error).__name__}: {message} ({Path(last.filename).name}, line {last.lineno})"
