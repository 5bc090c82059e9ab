"""What happens in a video in the course of time: windows that were judged, and events in them.

Imports nothing heavy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Window(NamedTuple):
    """A part of a video, and how likely it is violent."""

    start: float  # seconds, when its first frame is shown
    end: float  # and its last
    probability: float  # calibrated

    @property
    def middle(self) -> float:
        """Seconds."""
        return (self.start + self.end) / 2


class Event(NamedTuple):
    """Violence in a video: the windows of at least the threshold that follow each other."""

    start: float  # seconds, of its first window
    end: float  # of its last
    peak: float  # the middle of its most likely window
    probability: float  # of that window


@dataclass(frozen=True)
class Timeline:
    """What the detector says of a video in the course of time."""

    path: Path
    windows: tuple[Window, ...] = ()
    events: tuple[Event, ...] = ()
    error: str | None = None  # why there is nothing (more) of it


def find_events(windows: Iterable[Window], threshold: float, gap: float) -> Iterator[Event]:
    """Yield the events in windows that come in the order of time, each when it is over.

    An event is windows of at least `threshold` of which each begins no more than `gap` seconds
    after the one before has ended: one doubtful window between two of them does not end it. It
    reaches from the beginning of the first to the end of the last, so that what happens may begin
    and end up to a window's length inside it.
    """
    event: Event | None = None
    for window in windows:
        now = event_after(event, window, threshold, gap)
        if event and (now is None or now.start != event.start):
            yield event
        event = now
    if event:
        yield event


def event_after(event: Event | None, window: Window, threshold: float, gap: float) -> Event | None:
    """Return the event that is on after a further window: the same, a new one, or none.

    Args:
        event: the one that was on before, None: none was.
        threshold, gap: as `find_events` takes them.
    """
    if event and window.start > event.end + gap:
        event = None
    if not window.probability >= threshold:
        return event
    if event is None:
        return Event(window.start, window.end, window.middle, window.probability)
    event = event._replace(end=max(event.end, window.end))
    if window.probability > event.probability:
        event = event._replace(peak=window.middle, probability=window.probability)
    return event


def timestamp(seconds: float) -> str:
    """Return a time in a video as `0:01:02.3`."""
    tenths = round(10 * seconds)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"
