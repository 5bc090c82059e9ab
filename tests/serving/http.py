"""A server in this process, forms to send to it, and what its errors look like."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from tests.waiting import wait_until
from violence_detection.serving.app import make_app
from violence_detection.serving.limits import Limits
from violence_detection.serving.service import Service

LIMITS = Limits(max_upload=2**20, max_seconds=60, max_requests=16, clip_timeout=60)
BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"--{BOUNDARY}--\r\n".encode()
MP4_HEAD = b"\0\0\0\x20ftypisom" + bytes(20)


@contextmanager
def started(service: Service) -> Iterator[httpx.Client]:
    """Serve on a free port during the block; yield a client, ready or not."""
    config = uvicorn.Config(
        make_app(service), port=0, log_config=None, access_log=False, server_header=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def ready(service: Service) -> Iterator[httpx.Client]:
    """Serve on a free port during the block; yield a client once the server is ready."""
    with started(service) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, 120)
        yield client


def form_of(clip: bytes, name: str = "clip.mp4") -> dict[str, Any]:
    """Return the keyword arguments with which a client sends a clip."""
    return {"files": {"video": (name, clip)}}


def part(name: str, content: bytes) -> bytes:
    """Return a part of a form, as it is sent."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a.mp4"\r\n\r\n'
    )
    return head.encode() + content + b"\r\n"


def problem_detail(response: httpx.Response, status: int) -> str:
    """Return the detail of an error; fail if it is no problem, or reveals the server's inside."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    for inside in ("/", ".py", "Traceback", "line "):
        assert inside not in problem["detail"].replace("multipart/form-data", "")
    return problem["detail"]
