"""When a camera's windows become an alarm: how many of them, for how long, how often."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Hours:
    """A span of the day, on some days; one that ends before it starts lasts over midnight."""

    start: time
    end: time
    days: frozenset[int] = frozenset(range(7))  # on which it starts, 0: Monday

    def contain(self, moment: datetime) -> bool:
        """Return whether a moment, in local time, is in this span."""
        clock, day = moment.time(), moment.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= clock < self.end
        if clock >= self.start:
            return day in self.days
        return clock < self.end and (day - 1) % 7 in self.days


def parse_hours(text: str) -> Hours:
    """Return the hours of `22:00-06:00` or `mon-fri 18:00-06:00`; raises `ValueError`."""
    *words, span = text.split()
    days = frozenset(range(7))
    if words:
        (word,) = words
        days = frozenset(day for part in word.lower().split(",") for day in _days_of(part))
    start, end = (time.fromisoformat(each) for each in span.split("-"))
    return Hours(start, end, days)


def _days_of(part: str) -> list[int]:
    first, _, last = part.partition("-")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return [(begin + step) % 7 for step in range((end - begin) % 7 + 1)]


def is_within(moment: datetime, spans: Sequence[Hours]) -> bool:
    """Return whether a moment is in any of some spans."""
    return any(span.contain(moment) for span in spans)


@dataclass(frozen=True)
class AlarmRule:
    """What makes an alarm."""

    windows: int = 1  # of the last `of` windows that must be violent
    of: int = 1
    least_seconds: float = 0.0  # from the first violent window's start to the last one's end
    cool_down: float = 60.0  # seconds after an alarm in which there is no other
    quiet: tuple[Hours, ...] = ()  # in which there is none


@dataclass
class Alarm:
    """A violent event at a camera; it grows until none of its last windows is violent."""

    start: float  # seconds of the clock: when its first violent window began
    end: float  # when the last one ended
    probability: float  # the highest
    peak: float  # when the window with that probability ended


class AlarmState:
    """Turns a camera's windows into alarms.

    Args:
        rule: what makes an alarm.
        threshold: of a window's probability.
    """

    def __init__(self, rule: AlarmRule, threshold: float):
        self.rule = rule
        self.threshold = threshold
        self.ongoing: Alarm | None = None
        self._recent: deque[bool] = deque(maxlen=rule.of)
        self._candidate: Alarm | None = None
        self._not_before = float("-inf")

    def add(
        self, start: float, end: float, probability: float, moment: datetime
    ) -> tuple[Alarm | None, Alarm | None]:
        """Take the next window.

        Args:
            start, end: of the window, in seconds of the clock.
            probability: of violence.
            moment: its end in local time.

        Returns:
            The alarm that begins with it, and the one that ends before it.
        """
        is_violent = probability >= self.threshold
        self._recent.append(is_violent)
        if is_violent:
            self._candidate = _grown(self._candidate, start, end, probability)
        if not any(self._recent):
            self._candidate = None
            return None, self.end()
        if self.ongoing is None and self._is_due(moment):
            self.ongoing = self._candidate
            return self.ongoing, None
        return None, None

    def _is_due(self, moment: datetime) -> bool:
        candidate, rule = self._candidate, self.rule
        return (
            candidate is not None
            and sum(self._recent) >= rule.windows
            and candidate.end - candidate.start >= rule.least_seconds
            and candidate.end > self._not_before
            and not is_within(moment, rule.quiet)
        )

    def end(self) -> Alarm | None:
        """End the alarm in progress, if there is one, and return it: no window will follow."""
        ended, self.ongoing = self.ongoing, None
        self._candidate = None
        self._recent.clear()
        if ended is not None:
            self._not_before = ended.end + self.rule.cool_down
        return ended


def _grown(alarm: Alarm | None, start: float, end: float, probability: float) -> Alarm:
    if alarm is None:
        return Alarm(start, end, probability, end)
    alarm.end = end
    if probability > alarm.probability:
        alarm.probability, alarm.peak = probability, end
    return alarm
