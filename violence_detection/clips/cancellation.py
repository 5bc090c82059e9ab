"""Ending a decoding that nobody waits for any more, from another thread."""

import contextlib
import threading
from collections.abc import Callable, Iterator


class Cancelled(Exception):
    """A decoding was cancelled by the one who had asked for it."""


class Cancellation:
    """Cancels what one caller has had decoded. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[Callable[[], object]] = []
        self.is_cancelled = False

    def cancel(self) -> None:
        """Stop what runs now, and all that would be started later."""
        with self._lock:
            self.is_cancelled = True
            stops = list(self._stops)
        for stop in stops:
            stop()

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Have `stop` called if it is cancelled during the block, or has been before.

        Raises:
            Cancelled: it was cancelled, whatever the block has raised because of it.
        """
        with self._lock:
            self._stops.append(stop)
            cancelled_before = self.is_cancelled
        try:
            if cancelled_before:
                stop()
            yield
        except Exception as error:
            if self.is_cancelled:
                raise Cancelled from error
            raise
        finally:
            with self._lock:
                self._stops.remove(stop)
