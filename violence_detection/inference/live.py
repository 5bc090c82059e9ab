"""A detector watching a live source: events as they start and end, and reports on its speed."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from violence_detection.clips.sampling import Sampling
from violence_detection.errors import UserError
from violence_detection.inference.detector import Detector
from violence_detection.inference.events import Window
from violence_detection.inference.live_events import STILL, LiveEvents
from violence_detection.inference.live_predictor import LivePredictor, LiveWindow, warm_up
from violence_detection.inference.live_source import (
    Arrival,
    Ended,
    FrameCount,
    Item,
    Lost,
    NotLive,
    Source,
    Started,
    Warned,
)
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.wording import timestamp

IDLE = 0.1  # seconds to wait for items when there is nothing to compute
REPORT_EVERY = 60.0  # seconds
PASSES = 16  # the mean of the last so many predicts how long the next one takes


class Reader(Protocol):
    """The interface of `live_source.SourceReader`."""

    source: Source

    def take(self, wait: float) -> Sequence[Item]:
        """Return the items that have arrived; if there are none, wait so many seconds for one."""


@dataclass
class LiveStatistics:
    """How a machine keeps up with a source."""

    seconds: float = 0.0
    frames: int = 0  # that arrived
    samples: int = 0  # frames that VGG19 was run on
    windows: int = 0  # that were predicted
    still: int = 0  # windows in which nothing moved
    skipped: int = 0  # windows that were not
    events: int = 0
    total_delay: float = 0.0  # seconds from the windows' ends to their predictions
    max_delay: float = 0.0  # seconds
    max_probability: float = 0.0
    windows_due_per_second: float = 0.0  # that the source yields
    windows_possible_per_second: float = 0.0  # that this machine can predict

    def add(self, later: "LiveStatistics") -> None:
        """Add the statistics of the time that follows."""
        self.seconds += later.seconds
        self.frames += later.frames
        self.samples += later.samples
        self.windows += later.windows
        self.still += later.still
        self.skipped += later.skipped
        self.events += later.events
        self.total_delay += later.total_delay
        self.max_delay = max(self.max_delay, later.max_delay)
        self.max_probability = max(self.max_probability, later.max_probability)
        if later.windows_due_per_second:
            self.windows_due_per_second = later.windows_due_per_second
            self.windows_possible_per_second = later.windows_possible_per_second

    @property
    def speed(self) -> float:
        """How many times faster than real time this machine is; below 1, it skips windows."""
        return self.windows_possible_per_second / self.windows_due_per_second

    def lines(self) -> list[str]:
        """Return the statistics as lines of a log."""
        counts = (
            f"{self.seconds:.0f} s: {_count(self.frames, 'frame')}, "
            f"{_count(self.windows, 'window')}, {_count(self.events, 'event')}"
        )
        if not self.windows:
            return [counts]
        speed = (
            f"{self.seconds:.0f} s: {self.speed:.2f}x real time, delay "
            f"{self.total_delay / self.windows:.2f} s, at most {self.max_delay:.2f} s"
        )
        if self.skipped:
            speed += f", skipped {self.skipped} of {self.windows + self.skipped} windows"
        lines = [f"{counts}, highest probability {self.max_probability:.3f}"]
        if self.still:
            windows = _count(self.windows, "window")
            lines.append(f"{self.seconds:.0f} s: {STILL} in {self.still} of {windows}")
        return [*lines, speed]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class LiveMonitor:
    """Watches one source until it ends.

    Made before the source is opened: it warms the networks up.

    Args:
        detector: on a single device.
        sampling: of the windows.
        notify: called with a notice, as `LiveEvents` makes them, when an event starts and ends.
        report: called with each line for the operator.
        clock: returns seconds.
        on_window: called with each window that was predicted, in the source's times.
    """

    def __init__(
        self,
        detector: Detector,
        sampling: Sampling,
        notify: Callable[[dict[str, Any]], None],
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        on_window: Callable[[Window], None] = lambda window: None,
    ):
        self.detector = detector
        self.sampling = sampling
        self.statistics = LiveStatistics()  # complete when `run` returns
        self.error: str | None = None  # why the source could not be read to its end
        self._notify = notify
        self._report = report
        self._clock = clock
        self._on_window = on_window
        self._recent = LiveStatistics()  # since the last report
        self._reported = 0.0  # when that was, in the clock's seconds
        self._predictor: LivePredictor | None = None  # since the source was last connected
        self._origin: float | None = None  # the time of the source's first frame
        self._gap = 0.0  # seconds of video that were skipped since the last window
        self._is_lost = self._is_over = False
        self._pass_seconds = deque([warm_up(detector, 1, clock)], PASSES)

    def run(self, reader: Reader) -> LiveStatistics:
        """Predict the windows of a source until it ends; return how the machine kept up.

        The statistics are also reported every minute, and at the end, however it comes about.

        Raises:
            UserError: the source is not live.
            Interrupted: Ctrl-C or SIGTERM was received.
        """
        for _ in self.steps(reader):
            pass
        return self.statistics

    def steps(self, reader: Reader) -> Generator[None, None, None]:
        """Do what `run` does, and yield after each step; it ends when the iterator is closed."""
        events = LiveEvents(reader.source.display_name, self.detector.threshold, self._notify)
        self._reported = self._clock()
        is_idle = False
        try:
            while not (self._is_over and is_idle):
                raise_if_interrupted()
                for item in reader.take(IDLE if is_idle else 0.0):
                    self._handle(item, reader.source)
                is_idle = not self._step(events)
                if self._is_lost and self._origin is not None:
                    # No further window can continue the event.
                    now = self._clock() - self._origin
                    events.close(before=now - 2 * self.sampling.window)
                if self._clock() - self._reported >= REPORT_EVERY:
                    self._report_lines(self._finish_period())
                yield
        finally:
            events.close()
            self._finish_period()
            self._report_lines(self.statistics)

    def _handle(self, item: Item, source: Source) -> None:
        name = source.display_name
        if isinstance(item, Started):
            self._start(item.frames_per_second, name)
        elif isinstance(item, Arrival):
            assert self._predictor is not None
            self._predictor.add(item)
            if self._origin is None:
                self._origin = 0.0 if source.kind == "file" else item.sample.time
        elif isinstance(item, FrameCount):
            self._recent.frames += item.frames
        elif isinstance(item, Warned):
            self._report(f"WARNING: {name}: {item.reason}")
        elif isinstance(item, Lost):
            self._is_lost = True
            self._report(f"{name}: {item.reason}; reconnecting in {item.pause:g} s")
        elif isinstance(item, Ended):
            self._end(item, name)

    def _start(self, frames_per_second: float | None, name: str) -> None:
        interval = self.sampling.interval(frames_per_second)
        self._predictor = LivePredictor(
            self.detector, self.sampling, interval, self._pass_seconds, self._clock
        )
        self._is_lost = False
        period = 1 / self._predictor.windows_due_per_second
        self._report(
            f"{name}: receiving frames; a {self.sampling.window:g} s window every {period:.2f} s"
        )

    def _end(self, ended: Ended, name: str) -> None:
        self._is_over = True
        if isinstance(ended.error, NotLive):
            raise UserError(f"--source {name}: {ended.error}")
        if ended.error is not None:
            self.error = str(ended.error)
        if self._predictor:
            self._predictor.end()

    def _step(self, events: LiveEvents) -> bool:
        """Process a sample; return whether there was one."""
        predictor = self._predictor
        if predictor is None:
            return False
        computed, skipped = predictor.computed, predictor.skipped
        windows = predictor.step()
        self._recent.samples += predictor.computed - computed
        self._recent.windows_due_per_second = predictor.windows_due_per_second
        self._recent.windows_possible_per_second = predictor.windows_possible_per_second
        if predictor.skipped > skipped:
            self._count_skipped(predictor, predictor.skipped - skipped)
        for predicted in windows or ():
            self._take(predicted, self._origin or 0.0, events)
        return windows is not None

    def _count_skipped(self, predictor: LivePredictor, windows: int) -> None:
        if not self._recent.skipped:  # once per period is enough
            line = f"skipping windows to keep up: {self._recent.speed:.2f}x real time"
            seconds = predictor.seconds_per_window
            if seconds > 2 * self.sampling.window:
                line += f"; a window takes {seconds:.1f} s, try --window {math.ceil(seconds)}"
            self._report(line)
        self._recent.skipped += windows
        self._gap += windows / predictor.windows_due_per_second

    def _take(self, predicted: LiveWindow, origin: float, events: LiveEvents) -> None:
        start, end, probability, still = predicted.window
        window = Window(start - origin, end - origin, probability, still)
        recent, events_before = self._recent, events.count
        self._on_window(window)
        if math.isfinite(probability):
            seen = datetime.now(UTC) - timedelta(seconds=self._clock() - predicted.arrived)
            events.add(window, self.sampling.stride + self._gap, seen)
            self._gap = 0.0
        else:
            dtype = self.detector.feature_dtype
            self._report(
                f"{timestamp(window.start)}: no prediction, features too large for {dtype}"
            )
        if still and not recent.still:  # once per period is enough
            self._report(f"{timestamp(window.start)}: {STILL}: does the camera deliver new frames?")
        recent.still += still
        recent.windows += 1
        recent.events += events.count - events_before
        recent.total_delay += predicted.delay
        recent.max_delay = max(recent.max_delay, predicted.delay)
        recent.max_probability = max(recent.max_probability, probability)

    def _finish_period(self) -> LiveStatistics:
        """Start a new period; return the statistics of the one that ends."""
        now, finished = self._clock(), self._recent
        finished.seconds = now - self._reported
        self.statistics.add(finished)
        self._recent, self._reported = LiveStatistics(), now
        return finished

    def _report_lines(self, statistics: LiveStatistics) -> None:
        for line in statistics.lines():
            self._report(line)
