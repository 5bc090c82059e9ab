"""Notices posted to a web address in the background."""

import json
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from violence_detection.errors import UserError

TIMEOUT = 5.0  # seconds for a response
RETRIES = 3
BACKOFF = 1.0  # seconds: the retries come after 0, 2 and 4 of them
QUEUE_SIZE = 100  # notices; further ones are dropped
RETRIED = (408, 425, 429, *range(500, 600))  # the statuses that are worth a retry


class Webhook:
    """Posts notices as JSON, one after the other, in a thread of its own.

    Args:
        url: http or https; may contain a user and a password.
        report: called with a line for each notice that was not delivered.
        backoff: see `urllib3.util.Retry`.
        timeout: seconds for a response.

    Raises:
        UserError: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        report: Callable[[str], None],
        backoff: float = BACKOFF,
        timeout: float = TIMEOUT,
    ):
        require_webhook_url(url)
        address = urlsplit(url)
        server = address.netloc.rpartition("@")[2]
        self.display_name = f"{address.scheme}://{server}"  # the path may contain a secret
        self._url = url
        self._report = report
        self._timeout = timeout
        self._waiting: queue.Queue[bytes] = queue.Queue(QUEUE_SIZE)
        self._closing = threading.Event()
        self._session = requests.Session()
        self._session.headers["Content-Type"] = "application/json"
        retry = Retry(
            RETRIES,
            backoff_factor=backoff,
            status_forcelist=RETRIED,
            allowed_methods=None,  # also of POST: a notice that comes twice is better than none
            raise_on_status=False,
            respect_retry_after_header=False,  # it may name hours
        )
        self._session.mount(f"{address.scheme}://", HTTPAdapter(max_retries=retry))
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
        try:
            # A redirect would turn the POST into a GET without the notice.
            response = self._session.post(
                self._url, notice, timeout=self._timeout, allow_redirects=False
            )
            if response.status_code < 300:
                return
            reason = f"HTTP status {response.status_code}"
        except requests.RequestException as error:
            reason = _root_cause(error)
        self._report(f"webhook {self.display_name}: notice not delivered: {reason}")


def _root_cause(error: BaseException) -> str:
    """Return what an error began with; the messages around it contain the URL."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def require_webhook_url(url: str) -> None:
    """Raise a `UserError` for an invalid URL, which leaves the URL out: it may contain secrets."""
    try:
        address = urlsplit(url)
        is_valid = address.scheme in ("http", "https") and bool(address.hostname)
        is_valid = is_valid and (address.port is None or address.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid or not (url.isascii() and url.isprintable()) or " " in url:
        raise UserError("--webhook: must be a URL such as https://server/path")
