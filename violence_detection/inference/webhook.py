"""Notices posted to a web address in the background."""

import base64
import http.client
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from violence_detection.errors import UserError

TIMEOUT = 5.0  # seconds for a response
PAUSES = (1.0, 2.0, 4.0)  # seconds before each retry
QUEUE_SIZE = 100  # notices; further ones are dropped
RETRIED = (408, 425, 429)  # the client errors (4xx) that are worth a retry


class Webhook:
    """Posts notices as JSON, one after the other, in a thread of its own.

    Args:
        url: http or https; may contain a user and a password.
        report: called with a line for each notice that was not delivered.
        pauses: seconds before each retry.
        timeout: seconds for a response.

    Raises:
        UserError: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        report: Callable[[str], None],
        pauses: Sequence[float] = PAUSES,
        timeout: float = TIMEOUT,
    ):
        self._url, self._headers = parse_webhook_url(url)
        address = urlsplit(self._url)
        self.display_name = f"{address.scheme}://{address.netloc}"  # the path may contain a secret
        self._report = report
        self._pauses = pauses
        self._timeout = timeout
        self._waiting: queue.Queue[bytes] = queue.Queue(QUEUE_SIZE)
        self._closing = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def post(self, notice: Mapping[str, Any]) -> None:
        """Queue a notice; returns at once."""
        try:
            self._waiting.put_nowait(json.dumps(notice).encode())
        except queue.Full:
            self._report(f"webhook {self.display_name}: the queue is full, a notice is dropped")

    def close(self, patience: float) -> None:
        """Stop, and report how many notices are left.

        Args:
            patience: seconds to wait for the queue to be delivered.
        """
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(self._is_idle, patience)
            left = self._waiting.unfinished_tasks
        self._closing.set()
        if left:
            self._report(
                f"webhook {self.display_name}: {left} notice{'s' * (left > 1)} not delivered"
            )

    def _is_idle(self) -> bool:
        return self._waiting.unfinished_tasks == 0

    def _run(self) -> None:
        while not self._closing.is_set():
            self._deliver(self._waiting.get())
            self._waiting.task_done()

    def _deliver(self, notice: bytes) -> None:
        reason = None
        for pause in (*self._pauses, None):
            reason, is_permanent = self._try(notice)
            if reason is None:
                return
            if is_permanent or pause is None or self._closing.wait(pause):
                break
        self._report(f"webhook {self.display_name}: notice not delivered: {reason}")

    def _try(self, notice: bytes) -> tuple[str | None, bool]:
        """Post once; return why it failed, if it did, and whether a retry is pointless."""
        request = urllib.request.Request(self._url, notice, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout):
                return None, True
        except urllib.error.HTTPError as error:
            error.close()
            is_permanent = error.code < 500 and error.code not in RETRIED
            return f"HTTP status {error.code}", is_permanent
        except urllib.error.URLError as error:
            return str(error.reason), False
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__, False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would turn the POST into a GET without the notice."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def parse_webhook_url(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without user and password, and the headers of a request that carry them.

    Raises:
        UserError: the URL is invalid; the message contains no secrets.
    """
    try:
        address = urlsplit(url)
        is_valid = address.scheme in ("http", "https") and bool(address.hostname)
        is_valid = is_valid and (address.port is None or address.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid or not (url.isascii() and url.isprintable()) or " " in url:
        # The message leaves the URL out: it may contain a secret.
        raise UserError("--webhook: must be a URL such as https://server/path")
    headers = {"Content-Type": "application/json"}
    user, _, server = address.netloc.rpartition("@")
    if user:
        encoded = base64.b64encode(unquote(user).encode()).decode()
        headers["Authorization"] = f"Basic {encoded}"
    return urlunsplit(address._replace(netloc=server, fragment="")), headers
