"""Lines for a receiver, kept on disk until it has them: sent in order, also after a restart."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from violence_detection.errors import RunError
from violence_detection.storage.files import write_json

log = logging.getLogger(__name__)

Line = Mapping[str, Any]
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts
MOST = 10_000  # lines that wait; of more, the oldest are dropped


class NotDelivered(Exception):
    """The receiver does not have the line: it is tried again."""


class Refused(Exception):
    """The receiver will never take the line: it is dropped."""


class Outbox:
    """Delivers lines one after the other, in a thread of its own.

    A line is removed when the receiver has confirmed it. Only if the process is killed between the
    two, it is sent twice: it can be told by `event` and `state`, or by its time.

    Args:
        name: of the receiver, without secrets.
        folder: of the lines that wait.
        deliver: sends a line; raises `NotDelivered` or `Refused`.
        first_pause: seconds before the second attempt; doubled each time.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        deliver: Callable[[Line], None],
        first_pause: float = FIRST_PAUSE,
    ):
        self.name = name
        self._folder = folder
        self._deliver = deliver
        self._first_pause = first_pause
        folder.mkdir(parents=True, exist_ok=True)
        waiting = self._waiting()
        self._number = int(waiting[-1].stem) + 1 if waiting else 0
        if waiting:
            log.info("%s: lines that wait since last time: %d", name, len(waiting))
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._is_idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"outbox {name}", daemon=True)
        self._thread.start()

    def _waiting(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.json"))

    def put(self, line: Line) -> None:
        """Keep a line until it is delivered; returns at once. A full disk is only logged."""
        with self._changed:
            path = self._folder / f"{self._number:012d}.json"
            try:
                write_json(path, dict(line))
            except RunError as error:
                log.error("%s: a line is lost: %s", self.name, error)
                return
            self._number += 1
            self._is_idle.clear()
            self._changed.notify()

    def close(self, patience: float) -> None:
        """Stop; what is not delivered after so many seconds waits for the next start."""
        self._is_idle.wait(patience)
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if left := len(self._waiting()):
            log.warning("%s: lines that wait for the next start: %d", self.name, left)

    def _run(self) -> None:
        pause = self._first_pause
        while not self._closing.is_set():
            with self._changed:
                waiting = self._waiting()
                if not waiting:
                    self._is_idle.set()
                    self._changed.wait(1.0)
                    continue
            for path in waiting[:-MOST]:
                log.error("%s: too many lines wait: dropping %s", self.name, path.name)
                path.unlink(missing_ok=True)
            if self._deliver_first(waiting[-MOST:][0]):
                pause = self._first_pause
            else:
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _deliver_first(self, path: Path) -> bool:
        """Return whether the line needs no further attempt."""
        try:
            self._deliver(json.loads(path.read_text(encoding="utf-8")))
        except NotDelivered as error:
            log.warning("%s: not delivered, trying again: %s", self.name, error)
            return False
        except (Refused, ValueError) as error:
            log.error("%s: a line is refused, and dropped: %s", self.name, error)
        path.unlink(missing_ok=True)
        return True
