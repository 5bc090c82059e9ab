import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from violence_detection.errors import UserError
from violence_detection.inference.webhook import ROOM, Webhook

PATIENCE = 30.0  # seconds
NO_PAUSES = (0.0, 0.0, 0.0)


class Posts(ThreadingHTTPServer):
    """A server that keeps what is posted, and answers with one status after the other."""

    def __init__(self, statuses: Iterator[int]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = statuses
        self.notices: list[object] = []  # that were taken
        self.asked: list[tuple[str, str | None]] = []  # method, authorization
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
        self.server.asked.append((self.command, self.headers["Authorization"]))
        if status == 200:
            assert self.headers["Content-Type"] == "application/json"
            self.server.notices.append(json.loads(body))
        self.send_response(status)
        self.send_header("Location", f"http://{self.server.address}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append((self.command, None))
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        """Keep the screen clean."""


@contextmanager
def server(*statuses: int) -> Iterator[Posts]:
    """Answer with these, and from then on with the last of them."""

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
def test_notices_arrive_in_order_also_if_they_are_refused_at_first(
    refusals: tuple[int, ...],
) -> None:
    said: list[str] = []
    with server(*refusals, 200) as posts:
        webhook = Webhook(f"http://{posts.address}/hook", said.append, NO_PAUSES)
        for number in range(3):
            webhook.post({"event": number})
        webhook.close(PATIENCE)
        assert posts.notices == [{"event": number} for number in range(3)]
    assert said == []


@pytest.mark.parametrize(
    ("status", "tries"),
    [(404, 1), (401, 1), (302, 1), (500, 4)],  # what will not change is not tried again
)
def test_what_is_not_taken_is_told(status: int, tries: int) -> None:
    said: list[str] = []
    with server(status) as posts:
        webhook = Webhook(f"http://{posts.address}/token-1", said.append, NO_PAUSES)
        webhook.post({"event": 1})
        webhook.close(PATIENCE)
        assert [method for method, _ in posts.asked] == ["POST"] * tries
    (line,) = said
    assert f"not delivered: the answer is HTTP {status}" in line
    assert posts.address in line
    assert "token-1" not in line


def test_nobody_listens() -> None:
    said: list[str] = []
    with server(200) as posts:
        address = posts.address
    webhook = Webhook(f"http://{address}/", said.append, NO_PAUSES)
    webhook.post({"event": 1})
    webhook.close(PATIENCE)
    (line,) = said
    assert "refused" in line


def test_server_that_does_not_answer_keeps_nobody_waiting() -> None:
    said: list[str] = []
    with server(200) as posts:
        posts.answers.clear()
        webhook = Webhook(f"http://{posts.address}/", said.append, NO_PAUSES)
        for number in range(ROOM + 10):
            webhook.post({"event": number})
        assert 9 <= len(said) <= 10  # one is on its way
        assert "one is dropped" in said[0]
        webhook.close(0.0)
        assert "notices are not delivered" in said[-1]


def test_user_and_password_are_sent_and_not_shown() -> None:
    with server(200) as posts:
        webhook = Webhook(f"http://me:pass%20word@{posts.address}/hook", pytest.fail, NO_PAUSES)
        webhook.post({})
        webhook.close(PATIENCE)
        ((_, authorization),) = posts.asked
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
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="must be an address as https://") as told:
        Webhook(url, pytest.fail)
    assert "secret" not in str(told.value)
