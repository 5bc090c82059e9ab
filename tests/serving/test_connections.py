"""Connections: how many there may be, and how long one may be silent."""

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.serving.detectors import ScriptedDetector
from tests.serving.http import LIMITS, ready
from violence_detection.serving.connections import (
    REPORT_EVERY,
    guarded_protocol,
    report_seldom,
)
from violence_detection.serving.limits import Limits
from violence_detection.serving.service import Service

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def limits() -> Limits:
    return dataclasses.replace(LIMITS, max_connections=6, header_timeout=0.5)


@pytest.fixture
def client(
    limits: Limits,
    scripted_detector: ScriptedDetector,
    uploads: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[httpx.Client]:
    protocol = guarded_protocol(limits)
    plain = uvicorn.Config
    monkeypatch.setattr(
        uvicorn, "Config", lambda *args, **more: plain(*args, **more, http=protocol)
    )
    with ready(Service(scripted_detector, uploads, limits)) as client:
        yield client


def connect(client: httpx.Client) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port))
    connection.settimeout(10)
    return connection


@pytest.mark.parametrize("sent", [[b""], [HEAD], [HEAD + b"\r\n", HEAD]])
def test_silent_connection_is_closed(client: httpx.Client, sent: list[bytes]) -> None:
    """Without a request, with half a head, and with half of the next one."""
    with connect(client) as connection:
        for number, part in enumerate(sent):
            if number:
                assert b"200 OK" in connection.recv(10_000)
            connection.sendall(part)
        began = time.monotonic()
        while connection.recv(10_000):
            pass
        assert time.monotonic() - began < 5


def test_connection_of_a_whole_request_stays_open(client: httpx.Client) -> None:
    with connect(client) as connection:
        for _ in range(3):
            connection.sendall(HEAD + b"\r\n")
            answer = b""
            while b"alive" not in answer:
                answer += connection.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            time.sleep(0.3)


def test_client_has_half_of_the_connections(client: httpx.Client) -> None:
    client.close()  # its own connection counts, too
    open_ones = [connect(client) for _ in range(3)]
    with connect(client) as refused:
        assert b"503" in refused.recv(10_000)
    open_ones.pop().close()
    deadline = time.monotonic() + 10
    while True:  # until the server has noticed
        with connect(client) as connection:
            connection.sendall(HEAD + b"Connection: close\r\n\r\n")
            if b"200 OK" in connection.recv(10_000):
                break
        assert time.monotonic() < deadline
    for connection in open_ones:
        connection.close()


def test_what_repeats_is_reported_once_a_minute() -> None:
    lines: list[str] = []
    now = 0.0
    handle = report_seldom(lines.append, lambda: now)
    full = {"message": "socket.accept() out of system resource", "exception": OSError("too many")}
    for _ in range(1000):
        handle(None, full)
    handle(None, {"message": "something else"})
    assert lines == ["socket.accept() out of system resource: too many", "something else"]
    now = REPORT_EVERY
    handle(None, full)
    assert len(lines) == 3
