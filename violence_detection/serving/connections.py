"""Connections of the server: how many, from whom, and how long one may be silent."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from violence_detection.serving.limits import ClientCounts, Limits

KEEP_ALIVE = 75  # seconds; longer than proxies', so that they never meet a closed connection
REPORT_EVERY = 60.0  # seconds between lines about failures of one kind
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Retry-After: 5\r\nConnection: close\r\n\r\n"
    b'{"type":"about:blank","title":"Service Unavailable","status":503,'
    b'"detail":"too many connections"}'
)


class _Server(uvicorn.Server):
    """Leaves signals to those who started it: uvicorn would stop listening at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def guarded_server(
    app: FastAPI, limits: Limits, closing: int, lifespan: Literal["on", "off"]
) -> uvicorn.Server:
    """Return a server whose connections are counted; it ends when `should_exit` is set.

    Args:
        app: answers the requests.
        limits: of the connections.
        closing: seconds that connections have to end then.
        lifespan: whether the application is told of the server's start and end.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan=lifespan,
        proxy_headers=False,  # clients could write anything into the log
        ws="none",
        http=guarded_protocol(limits),
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=closing,
    )
    return _Server(config)


def guarded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, for connections that are counted and may not be silent."""
    connections = ClientCounts(limits.max_connections)

    class GuardedProtocol(H11Protocol):
        """Closes a connection on which no whole request head arrives in time."""

        counted: str | None = None  # the client
        silence: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Count the connection, or refuse it."""
            client = (transport.get_extra_info("peername") or ("",))[0]
            if not connections.add(client):
                transport.write(REFUSAL)
                transport.close()
                return
            self.counted = client
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            """Take bytes of a request."""
            if self.counted is None:
                return
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                if self.silence is None:
                    self._expect_head()
            elif self.silence is not None:
                self.silence.cancel()
                self.silence = None

        def connection_lost(self, exc: Exception | None) -> None:
            """Count one connection less."""
            if self.counted is None:
                return
            connections.remove(self.counted)
            if self.silence is not None:
                self.silence.cancel()
            super().connection_lost(exc)

        def eof_received(self) -> None:
            """Take the end of what the client sends."""
            if self.counted is not None:
                super().eof_received()

        def _expect_head(self) -> None:
            self.silence = self.loop.call_later(limits.header_timeout, self.transport.close)

    return GuardedProtocol


def report_seldom(
    log_line: Callable[[str], object], clock: Callable[[], float] = time.monotonic
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return an exception handler for an event loop: one line a minute for what repeats.

    Without file descriptors, accepting connections fails thousands of times a second.

    Args:
        log_line: is given each line.
        clock: returns seconds.
    """
    last: dict[str, float] = {}

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, error = context.get("message", ""), context.get("exception")
        if clock() - last.get(message, -REPORT_EVERY) < REPORT_EVERY:
            return
        last[message] = clock()
        log_line(f"{message}: {error}" if error else message)

    return handle
