import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from violence_detection.errors import UserError
from violence_detection.inference.webhook import QUEUE_SIZE, Webhook

PATIENCE = 30.0  # seconds


class Posts(ThreadingHTTPServer):
    """A server that records what is posted, and answers with one status after the other."""

    def __init__(self, statuses: Iterator[int]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = statuses
        self.notices: list[object] = []  # that were accepted
        self.requests: list[tuple[str, str | None]] = []  # method, authorization
        self.answers = threading.Event()  # not before it is set
        self.answers.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.answers.wait(PATIENCE)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = next(self.server.statuses)
        self.server.requests.append((self.command, self.headers["Authorization"]))
        if status == 200:
            assert self.headers["Content-Type"] == "application/json"
            self.server.notices.append(json.loads(body))
        self.send_response(status)
        self.send_header("Location", f"http://{self.server.address}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, None))
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        """Keep the screen clean."""


@contextmanager
def server(*statuses: int) -> Iterator[Posts]:
    """Answer with these statuses, and then always with the last of them."""

    def answers() -> Iterator[int]:
        yield from statuses
        while True:
            yield statuses[-1]

    with Posts(answers()) as posts:
        thread = threading.Thread(target=posts.serve_forever)
        thread.start()
        yield posts
        posts.answers.set()
        posts.shutdown()
        thread.join()


@pytest.mark.parametrize("refusals", [(), (503,), (500, 429, 503)])
def test_notices_arrive_in_order_even_if_refused_at_first(
    refusals: tuple[int, ...],
) -> None:
    lines: list[str] = []
    with server(*refusals, 200) as posts:
        webhook = Webhook(f"http://{posts.address}/hook", lines.append, backoff=0.0)
        for number in range(3):
            webhook.post({"event": number})
        webhook.close(PATIENCE)
        assert posts.notices == [{"event": number} for number in range(3)]
    assert lines == []


@pytest.mark.parametrize(
    ("status", "tries"),
    [(404, 1), (401, 1), (302, 1), (500, 4)],  # permanent refusals are not retried
)
def test_notice_that_is_refused_is_reported(status: int, tries: int) -> None:
    lines: list[str] = []
    with server(status) as posts:
        webhook = Webhook(f"http://{posts.address}/token-1", lines.append, backoff=0.0)
        webhook.post({"event": 1})
        webhook.close(PATIENCE)
        assert [method for method, _ in posts.requests] == ["POST"] * tries
    (line,) = lines
    assert f"not delivered: HTTP status {status}" in line
    assert posts.address in line
    assert "token-1" not in line


def test_server_that_does_not_listen_is_reported() -> None:
    lines: list[str] = []
    with server(200) as posts:
        address = posts.address
    webhook = Webhook(f"http://{address}/", lines.append, backoff=0.0)
    webhook.post({"event": 1})
    webhook.close(PATIENCE)
    (line,) = lines
    assert "refused" in line


def test_server_that_does_not_respond_blocks_nobody() -> None:
    lines: list[str] = []
    with server(200) as posts:
        posts.answers.clear()
        webhook = Webhook(f"http://{posts.address}/", lines.append, backoff=0.0)
        for number in range(QUEUE_SIZE + 10):
            webhook.post({"event": number})
        assert 9 <= len(lines) <= 10  # one is being sent
        assert "a notice is dropped" in lines[0]
        webhook.close(0.0)
        assert "notices not delivered" in lines[-1]


def test_user_and_password_are_sent_and_not_shown() -> None:
    with server(200) as posts:
        webhook = Webhook(f"http://me:pass%20word@{posts.address}/hook", pytest.fail, backoff=0.0)
        webhook.post({})
        webhook.close(PATIENCE)
        ((_, authorization),) = posts.requests
        assert webhook.display_name == f"http://{posts.address}"
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"me:pass word"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://server/secret",
        "file:///secret",
        "secret",
        "https:///secret",
        "http://server:port/secret",
        "http://server/sec ret",
        "http://server/secret\n",
        "http://[secret",
    ],
)
def test_invalid_url_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(UserError, match="must be a URL such as https://") as raised:
        Webhook(url, pytest.fail)
    assert "secret" not in str(raised.value)
