"""The command that serves, in a process of its own, asked over a socket."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.serving.http import END, FORM, form_of, part, problem_detail
from tests.waiting import wait_until
from tests.warm_start import ForkedProcess
from violence_detection.commands.serve import TOKEN_VARIABLE, main

TOKEN = "s3cret-token"
BEARING = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Server:
    process: ForkedProcess
    client: httpx.Client
    folder: Path  # for temporary files
    log: Path

    def uploads(self) -> list[Path]:
        """Return the files of uploads that are there."""
        return [path for path in self.folder.rglob("*") if re.fullmatch("[0-9a-f]{32}", path.name)]

    def slots_taken(self) -> int:
        """Return how many requests have a slot."""
        text = self.client.get("/metrics", headers=BEARING).text
        return int(float(re.search(r"^violence_places_taken (.*)$", text, re.MULTILINE)[1]))

    def begin_upload(self, content: bytes, length: int) -> socket.socket:
        """Send the beginning of a request of `length` bytes; return its connection."""
        address = self.client.base_url.host, self.client.base_url.port
        connection = socket.create_connection(address)
        headers = {"Host": "localhost", **FORM, **BEARING, "Content-Length": str(length)}
        lines = [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join(["POST /predict HTTP/1.1", *lines, "", ""]).encode())
        connection.sendall(content)
        if len(content) < length:
            wait_until(lambda: self.uploads() != [])
        return connection


@contextmanager
def started(run: Path, folder: Path, *flags: str) -> Iterator[Server]:
    """Start a server and wait until it is ready; at the end it is killed, if it still runs."""
    folder.mkdir(exist_ok=True)
    command = [str(ROOT / "serve.py"), "--checkpoint-dir", str(run), "--port", "0", *flags]
    environment = {**os.environ, "TMPDIR": str(folder), TOKEN_VARIABLE: TOKEN}
    log = folder / "log"
    with log.open("wb") as file:
        process = ForkedProcess(command, environment, merged=True, stdout=file.fileno())
    try:
        wait_until(lambda: "ready:" in log.read_text() or process.poll() is not None, 120)
        address = re.search(r"http://\S+:\d+", log.read_text())
        assert address, log.read_text()
        with httpx.Client(base_url=address[0], timeout=60) as client:
            yield Server(process, client, folder, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(trained / "run", tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def clip(drawn_clips: Path) -> bytes:
    return (drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes()


def test_a_clip_is_predicted_and_nothing_private_is_logged(server: Server, clip: bytes) -> None:
    response = server.client.post("/predict", headers=BEARING, **form_of(clip, "/home/me/my.mp4"))
    assert response.status_code == 200
    assert response.json()["violent"] in (True, False)
    problem_detail(server.client.post("/predict?token=abc", **form_of(clip)), 401)
    wait_until(lambda: "POST /predict 401" in server.log.read_text())
    log = server.log.read_text()
    assert "POST /predict 200" in log
    assert "random weights" in log.lower()
    for private in (TOKEN, "abc", "my.mp4", str(server.folder)):
        assert private not in log
    wait_until(lambda: server.uploads() == [])


def test_client_that_disconnects_during_its_upload_leaves_nothing(
    server: Server, clip: bytes
) -> None:
    connection = server.begin_upload(part("video", clip)[:1000], 10_000)
    assert server.slots_taken() == 0  # one is taken when the clip is there
    connection.close()
    wait_until(lambda: server.uploads() == [])
    assert server.client.get("/healthz").status_code == 200


def test_client_that_disconnects_during_prediction_leaves_nothing(
    server: Server, clip: bytes
) -> None:
    body = part("video", clip) + END
    connection = server.begin_upload(body, len(body))
    connection.close()
    wait_until(lambda: server.uploads() == [] and server.slots_taken() == 0)
    response = server.client.post("/predict", headers=BEARING, **form_of(clip))
    assert response.status_code == 200


def test_refusal_of_a_long_upload_reaches_its_client(server: Server) -> None:
    large = part("video", b"no video" * 10_000_000) + END
    response = server.client.post("/predict", content=large, headers={**FORM, **BEARING})
    problem_detail(response, 415)
    problem_detail(server.client.post("/predict", content=large, headers=FORM), 401)


@pytest.mark.parametrize(
    "request_lines", [b"\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\0\xff\r\n\r\n", b"POST /predict"]
)
def test_malformed_requests_do_no_harm(server: Server, request_lines: bytes) -> None:
    address = server.client.base_url.host, server.client.base_url.port
    with socket.create_connection(address) as connection:
        connection.sendall(request_lines)
    assert server.client.get("/readyz").status_code == 200


def test_accepted_requests_are_answered_and_others_refused_after_sigterm(
    trained: Path, tmp_path: Path, clip: bytes
) -> None:
    with started(trained / "run", tmp_path / "server") as server:
        body = part("video", clip) + END
        connection = server.begin_upload(body[:1000], len(body))
        assert server.client.get("/readyz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.client.get("/readyz").status_code == 503)
        response = server.client.post("/predict", headers=BEARING, **form_of(clip))
        assert "shutting down" in problem_detail(response, 503)
        assert server.process.poll() is None
        connection.sendall(body[1000:])
        assert connection.recv(100_000).startswith(b"HTTP/1.1 200 OK")
        assert server.process.wait(20) == 0
        folders = [path for path in server.folder.rglob("*") if path.is_dir()]
        assert len(folders) == 1  # in which each server makes its own
        assert "Traceback" not in server.log.read_text()


def test_the_server_stops_in_time_though_a_client_does_not(trained: Path, tmp_path: Path) -> None:
    with started(trained / "run", tmp_path / "server", "--drain", "0.5") as server:
        server.begin_upload(part("video", b"\0\0\0\x20ftypisom" + bytes(999)), 10_000)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 10
        assert server.uploads() == []
        assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_uploads_of_a_killed_server_are_removed_by_the_next(trained: Path, tmp_path: Path) -> None:
    with started(trained / "run", tmp_path / "server") as server:
        server.begin_upload(part("video", b"\0\0\0\x20ftypisom" + bytes(999)), 10_000)
        server.process.kill()
        server.process.wait()
        assert len(server.uploads()) == 1
    with started(trained / "run", tmp_path / "server") as server:
        assert server.uploads() == []


def test_two_servers_on_one_port(trained: Path, tmp_path: Path) -> None:
    with started(trained / "run", tmp_path / "server") as server:
        port = str(server.client.base_url.port)
        command = [sys.executable, str(ROOT / "serve.py"), "--port", port]
        second = subprocess.run(
            [*command, "--checkpoint-dir", str(trained / "run")],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1
        assert f"--port {port}: Address already in use" in second.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--checkpoint-dir nowhere: no such folder"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from other machines"),
        (["--host", "::"], "--host :: can be reached from other machines"),
        (["--host", "example.invalid"], "can be reached from other machines"),
        (["--host", "example.invalid", "--token", "a"], "--host example.invalid --port 0"),
        (["--host", "192.0.2.1", "--insecure"], "--host 192.0.2.1 --port 0: Cannot assign"),
        (["--host", "0.0.0.0", "--token", "a"], "no such folder"),
        (["--host", "0.0.0.0", "--insecure"], "no such folder"),
        (["--host", "::1"], "no such folder"),
        (["--host", "localhost"], "no such folder"),
        (["--token", ""], "--token: must be visible ASCII"),
        (["--token", "a b"], "--token: must be visible ASCII"),
        (["--token", "é"], "--token: must be visible ASCII"),
        (["--cors", "*"], "--cors *: must be https://host"),
        (
            ["--cors", "https://a.example/path"],
            "--cors https://a.example/path: must be https://host",
        ),
        (["--cors", "a.example"], "--cors a.example: must be https://host"),
        (["--port", "65536"], "--port 65536: must be"),
        (["--max-upload", "0"], "--max-upload 0: must be above 0"),
        (["--max-seconds", "-1"], "--max-seconds -1: must be above 0"),
        (["--max-requests", "0"], "--max-requests 0: must be 1 or more"),
        (["--drain", "-1"], "--drain -1: must be 0 or more"),
        (["--threshold", "2"], "--threshold 2: must be from 0 to 1"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert main(["--checkpoint-dir", "nowhere", "--port", "0", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_token_may_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable = ["--checkpoint-dir", "nowhere", "--port", "0", "--host", "0.0.0.0"]
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert main(reachable) == 2
    assert "no such folder" in capsys.readouterr().err
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert main(reachable) == 2
    assert f"{TOKEN_VARIABLE}: must be visible ASCII" in capsys.readouterr().err


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        assert main(["--port", port]) == 2
    assert f"--port {port}: Address already in use" in capsys.readouterr().err
