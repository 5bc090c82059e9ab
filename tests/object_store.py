"""An S3 server on loopback that can be told to fail: real requests, real answers."""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

CUT = "cut"  # the connection, instead of an answer
CODES = {403: "AccessDenied", 500: "InternalError", 503: "ServiceUnavailable"}
Fault = Callable[[str, str], int | str | None]  # of method and path: a status, CUT, or nothing


class _QuietHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Print nothing."""


class ObjectStore:
    """moto's S3 behind a proxy that records requests, and fails those for which `fault` asks."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []  # method and path
        self.fault: Fault = lambda method, path: None
        self.loses_answer: Callable[[str, str], bool] = lambda method, path: False
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=_QuietHandler
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.client = boto3.client("s3", endpoint_url=self.url)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        answer = self.fault(method, path)
        if answer is None:
            done = self._moto(environ, start_response)
            if not self.loses_answer(method, path):
                return done
            b"".join(done)
            answer = CUT
        if answer == CUT:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        assert isinstance(answer, int)
        body = f"<Error><Code>{CODES[answer]}</Code><Message>told to fail</Message></Error>"
        start_response(f"{answer} {CODES[answer]}", [("Content-Type", "application/xml")])
        return [b"" if method == "HEAD" else body.encode()]

    def put_folder(self, folder: Any, bucket: str) -> None:
        """Put all files of a folder into a bucket, made if need be."""
        self.client.create_bucket(Bucket=bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                self.client.put_object(Bucket=bucket, Key=name, Body=path.read_bytes())

    def names(self, bucket: str) -> list[str]:
        """Return the names of all objects of a bucket."""
        found = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return [item["Key"] for item in found]

    def count(self, method: str, ending: str) -> int:
        """Return how many requests there were of a method, of paths with that ending."""
        return sum(m == method and path.endswith(ending) for m, path in self.requests)

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def fail_first(times: int, how: int | str, method: str, ending: str) -> Fault:
    """Return a fault: the first requests for each such path fail."""
    failed: dict[str, int] = {}
    lock = threading.Lock()

    def fault(asked: str, path: str) -> int | str | None:
        if asked != method or not path.endswith(ending):
            return None
        with lock:
            failed[path] = failed.get(path, 0) + 1
            return how if failed[path] <= times else None

    return fault
