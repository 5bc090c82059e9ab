"""Notices that are posted to a web address, beside the work that they tell of."""

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

TIMEOUT = 5.0  # seconds that an answer may take
PAUSES = (1.0, 2.0, 4.0)  # seconds, before each further try
ROOM = 100  # notices that wait; further ones are dropped
MAY_PASS = (408, 425, 429)  # of the client's faults, those that are worth a further try


class Webhook:
    """Posts notices as JSON to an address, one after the other, in a thread of its own.

    Args:
        url: http or https, perhaps with a user and a password.
        say: told, in a line, what could not be delivered.
        pauses: seconds before each further try.

    Raises:
        UserError: it is no such address.
    """

    def __init__(
        self,
        url: str,
        say: Callable[[str], None],
        pauses: Sequence[float] = PAUSES,
        timeout: float = TIMEOUT,
    ):
        self._url, self._headers = parse_webhook_url(url)
        address = urlsplit(self._url)
        self.shown = f"{address.scheme}://{address.netloc}"  # what follows may be a secret
        self._say = say
        self._pauses = pauses
        self._timeout = timeout
        self._waiting: queue.Queue[bytes] = queue.Queue(ROOM)
        self._closing = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def post(self, notice: Mapping[str, Any]) -> None:
        """Have a notice posted; returns at once."""
        try:
            self._waiting.put_nowait(json.dumps(notice).encode())
        except queue.Full:
            self._say(f"webhook {self.shown}: {ROOM} notices are waiting already: one is dropped")

    def close(self, patience: float) -> None:
        """Give what waits so many seconds to be delivered; then say what is not."""
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(self._is_idle, patience)
            left = self._waiting.unfinished_tasks
        self._closing.set()
        if left:
            self._say(f"webhook {self.shown}: {left} notices are not delivered")

    def _is_idle(self) -> bool:
        return self._waiting.unfinished_tasks == 0

    def _run(self) -> None:
        while not self._closing.is_set():
            self._deliver(self._waiting.get())
            self._waiting.task_done()

    def _deliver(self, notice: bytes) -> None:
        reason = None
        for pause in (*self._pauses, None):
            reason, is_final = self._try(notice)
            if reason is None:
                return
            if is_final or pause is None or self._closing.wait(pause):
                break
        self._say(f"webhook {self.shown}: a notice is not delivered: {reason}")

    def _try(self, notice: bytes) -> tuple[str | None, bool]:
        """Post once; return why it failed, if so, and whether a further try is of no use."""
        request = urllib.request.Request(self._url, notice, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout):
                return None, True
        except urllib.error.HTTPError as error:
            error.close()
            is_final = error.code < 500 and error.code not in MAY_PASS
            return f"the answer is HTTP {error.code}", is_final
        except urllib.error.URLError as error:
            return str(error.reason), False
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__, False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without the notice."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def parse_webhook_url(url: str) -> tuple[str, dict[str, str]]:
    """Return the address without user and password, and the headers of a request, with these."""
    try:
        address = urlsplit(url)
        is_known = address.scheme in ("http", "https") and bool(address.hostname)
        is_known = is_known and (address.port is None or address.port > 0)
    except ValueError:
        is_known = False
    if not is_known or not (url.isascii() and url.isprintable()) or " " in url:
        # It is not shown: it may hold a secret.
        raise UserError("--webhook: must be an address as https://server/path")
    headers = {"Content-Type": "application/json"}
    user, _, server = address.netloc.rpartition("@")
    if user:
        encoded = base64.b64encode(unquote(user).encode()).decode()
        headers["Authorization"] = f"Basic {encoded}"
    return urlunsplit(address._replace(netloc=server, fragment="")), headers
