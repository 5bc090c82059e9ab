"""A video over time: its windows with their probabilities, and the violent events among them.

It imports no heavy library: decoder processes load it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from violence_detection.storage.remote_paths import AnyPath


class Window(NamedTuple):
    """A part of a video with its probability of violence."""

    start: float  # seconds, the time of its first frame
    end: float  # seconds, the time of its last frame
    probability: float  # calibrated
    still: bool = False  # nothing moves in it

    @property
    def middle(self) -> float:
        """The time halfway between start and end, in seconds."""
        return (self.start + self.end) / 2


class Event(NamedTuple):
    """Violence in a video: a sequence of windows that reach the threshold."""

    start: float  # seconds, of its first window
    end: float  # seconds, of its last window
    peak: float  # seconds, the middle of its window with the highest probability
    probability: float  # of that window
    still: bool = False  # nothing moves in any of its windows


@dataclass(frozen=True)
class Timeline:
    """The predictions for a video over time."""

    path: AnyPath
    windows: tuple[Window, ...] = ()
    events: tuple[Event, ...] = ()
    error: str | None = None  # why the video could not be read, or not to its end
    warnings: tuple[str, ...] = ()  # why the predictions are unreliable; mostly none

    @property
    def name(self) -> str:
        """The path of the video."""
        return str(self.path)


def find_events(windows: Iterable[Window], threshold: float, gap: float) -> Iterator[Event]:
    """Yield the events of a video, each as soon as it is over.

    An event is a sequence of windows with probabilities of at least `threshold`, each starting no
    more than `gap` seconds after the end of the one before: a single window below the threshold
    does not end it. It lasts from the start of the first to the end of the last, so the violence
    itself may start and end up to a window's length inside it.

    Args:
        windows: in the order of time.
        threshold: of the probability.
        gap: seconds.
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
    """Return the event in progress after a further window: the same, a new one, or None.

    Args:
        event: in progress before the window.
        window: the next one.
        threshold: of the probability.
        gap: seconds that may lie between the windows of an event.
    """
    if event and window.start > event.end + gap:
        event = None
    if not window.probability >= threshold:
        return event
    if event is None:
        return Event(window.start, window.end, window.middle, window.probability, window.still)
    event = event._replace(end=max(event.end, window.end), still=event.still and window.still)
    if window.probability > event.probability:
        event = event._replace(peak=window.middle, probability=window.probability)
    return event
