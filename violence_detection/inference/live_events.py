"""Notices of violent events at a live source: one when an event starts, one when it is over."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from violence_detection.inference.events import Event, Window, event_after

STILL = "nothing moves in the picture"


class LiveEvents:
    """Turns a source's windows into notices.

    Args:
        source: its name, without secrets.
        threshold: of the probability.
        notify: called with each notice, a dict that can be written as JSON.
    """

    def __init__(
        self, source: str, threshold: float, notify: Callable[[dict[str, Any]], None]
    ) -> None:
        self.count = 0  # events so far
        self._source = source
        self._threshold = threshold
        self._notify = notify
        self._event: Event | None = None  # in progress
        self._time = ""  # of its start

    def add(self, window: Window, gap: float, seen: datetime) -> None:
        """Take the next window.

        Args:
            window: with the source's times.
            gap: seconds that may lie between windows of one event.
            seen: when the window's first frame arrived.
        """
        event = event_after(self._event, window, self._threshold, gap)
        if self._event and (event is None or event.start != self._event.start):
            self.close()
        is_new = event is not None and self._event is None
        self._event = event
        if is_new:
            self.count += 1
            self._time = seen.isoformat(timespec="milliseconds")
            self._send(ongoing=True)

    def close(self, before: float | None = None) -> None:
        """End the event in progress, if there is one.

        Args:
            before: only if the event's end is earlier, in the source's seconds.
        """
        if self._event and (before is None or self._event.end < before):
            self._send(ongoing=False)
            self._event = None

    def _send(self, ongoing: bool) -> None:
        assert self._event is not None
        event = self._event
        self._notify(
            {
                "source": self._source,
                "event": self.count,
                "ongoing": ongoing,
                "time": self._time,
                "start": round(event.start, 3),
                "end": None if ongoing else round(event.end, 3),
                "peak": round(event.peak, 3),
                "probability": event.probability,
                **({"warnings": [STILL]} if event.still else {}),
            }
        )
