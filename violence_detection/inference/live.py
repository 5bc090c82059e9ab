"""A detector at a live source: windows as frames arrive, events as they begin and end.

Frames come at their own pace, whatever the machine can do: windows that would be judged too late
are left out, so that what is judged is never long past.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np

from violence_detection.clips.sampling import Sampling
from violence_detection.errors import UserError
from violence_detection.inference.detector import Detector
from violence_detection.inference.events import Event, Window, event_after, timestamp
from violence_detection.inference.live_source import (
    Arrival,
    Begun,
    Item,
    Lost,
    NotLive,
    Over,
    Source,
    Tally,
)
from violence_detection.inference.windows import WindowPredictor
from violence_detection.runtime.interrupts import raise_if_interrupted

IDLE = 0.1  # seconds that are waited for frames
REPORT_EVERY = 60.0  # seconds
LATEST = 0.8  # windows after its end, a verdict may be foreseen; passes may take longer than that
ALIKE = 0.125  # windows: foreseen lags that differ by less are alike
PASSES = 16  # of these the mean tells how long the next will take


class Reader(Protocol):
    """What `live_source.SourceReader` does."""

    source: Source

    def take(self, wait: float) -> Sequence[Item]:
        """Return what has come; if nothing has, wait so many seconds for it."""


class LiveWindow(NamedTuple):
    """A window that was judged."""

    window: Window  # in the times of the source
    arrived: float  # seconds of the clock, when its first frame was there
    lag: float  # seconds from the arrival of its last frame to the verdict


class LivePredictor:
    """Takes samples as they arrive, and judges the windows for which there is time.

    The features of a sample are computed once, and as soon as it is there: when a window's last
    sample arrives, the others are done. Of the windows that follow, the first is judged whose
    verdict is foreseen early enough; those before it are skipped. Memory holds the samples of
    about two windows.

    Args:
        interval: seconds from sample to sample.
        pass_seconds: that the last passes took, one sample each; at least one. It is added to.
        clock: seconds that pass, the same that tells when samples arrive.
    """

    def __init__(
        self,
        detector: Detector,
        sampling: Sampling,
        interval: float,
        pass_seconds: deque[float],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.computed = 0  # samples that were given to VGG19
        self.skipped = 0  # windows
        self._windows = WindowPredictor(detector, sampling, interval, samples_per_batch=1)
        self._sampling = sampling
        self._interval = interval
        self._pass_seconds = pass_seconds
        self._clock = clock
        self._ended = False  # there will be no more samples
        self._finished = False  # the last of them have been judged
        self._newest = -1  # sample that has arrived
        self._taken = -1  # sample that was taken last
        self._begun = -1  # start of the window that it was taken for
        self._pending: dict[int, Arrival] = {}
        self._arrived: dict[int, float] = {}

    @property
    def windows_coming(self) -> float:
        """How many windows a second there are to be judged."""
        return 1 / (self._windows.step * self._interval)

    @property
    def windows_per_second(self) -> float:
        """How many windows this machine can judge."""
        samples = self._windows.step // self._sampling.unit
        return 1 / (samples * statistics.fmean(self._pass_seconds))

    @property
    def seconds_for_window(self) -> float:
        """How long all samples of a window take."""
        return self._sampling.frames // self._sampling.unit * statistics.fmean(self._pass_seconds)

    def add(self, arrival: Arrival) -> None:
        """Take the next sample."""
        number = arrival.sample.number
        self._newest = number
        self._pending[number] = arrival
        self._arrived[number] = arrival.arrived
        if len(self._pending) > 2 * self._sampling.frames + self._windows.step:
            # On a machine that is far too slow; the window that is begun does not need them.
            after = self._windows.next_start + self._sampling.frames
            del self._pending[min(number for number in self._pending if number >= after)]

    def end(self) -> None:
        """Expect no more samples: one more window reaches to the last of them."""
        self._ended = True

    def step(self) -> list[LiveWindow] | None:
        """Take one sample; return the windows that are complete, None if there was none to take."""
        self._plan()
        start = self._windows.next_start
        number = max(self._taken + 1, start)
        began = self._clock()
        if number in self._pending:
            sample = self._pending.pop(number).sample
            self._windows.add(sample)
            judged = self._windows.predict()
            self._taken, self._begun = number, start
            if sample.images is not None:
                self.computed += 1
                self._pass_seconds.append(self._clock() - began)
        elif self._ended and not self._finished:
            self._finished = True
            start = self._sampling.last_start(self._newest + 1)
            judged = self._windows.predict(ended=True)
        else:
            return None
        last, now = start + self._sampling.frames - 1, self._clock()
        found = [LiveWindow(w, self._arrived[start], now - self._arrived[last]) for w in judged]
        self._forget(self._windows.next_start - self._windows.step)
        return found

    def _plan(self) -> None:
        """Skip the windows that would come too late."""
        step, window = self._windows.step, self._sampling.window
        following = self._windows.next_start
        newest = self._newest - self._sampling.frames + 1 if self._ended else self._newest + step
        coming = range(following, max(following, newest) + 1, step)
        lags = {start: self._foreseen_lag(start) for start in coming if self._is_possible(start)}
        is_begun = self._begun == following and following in lags
        if not lags or (is_begun and lags[following] <= window):
            return
        chosen = next((start for start, lag in lags.items() if lag <= LATEST * window), None)
        if chosen is None:
            # None will be in time. One that is begun is not given up for another.
            enough = min(lags.values()) + ALIKE * window
            chosen = next(s for s, lag in lags.items() if lag <= enough or is_begun)
        if chosen > following:
            self.skipped += (chosen - following) // step
            self._windows.skip_to(chosen)
            self._forget(chosen)

    def _is_possible(self, start: int) -> bool:
        """Return whether all samples of a window are there, or may still arrive."""
        to_come = range(max(start, self._taken + 1), start + self._sampling.frames)
        return all(number in self._pending or number > self._newest for number in to_come)

    def _foreseen_lag(self, start: int) -> float:
        """Return the seconds from the end of a window to its verdict, if it is the next."""
        now, last = self._clock(), start + self._sampling.frames - 1

        def arrives(number: int) -> float:
            if number in self._arrived:
                return self._arrived[number]
            newest = self._arrived.get(self._newest, now)
            return max(now, newest + (number - self._newest) * self._interval)

        missing = range(max(start, self._taken + 1), last + 1)
        seconds = statistics.fmean(self._pass_seconds)
        done = arrives(last)
        if missing:
            work = seconds * sum(map(self._sampling.is_used, missing))
            done = max(done + seconds, max(now, arrives(missing[0])) + work)
        return done - arrives(last)

    def _forget(self, before: int) -> None:
        for number in [number for number in self._arrived if number < before]:
            del self._arrived[number]
            self._pending.pop(number, None)


class LiveEvents:
    """Makes notices of windows: one when an event begins, one when it is over.

    Args:
        source: its name, without secrets.
        notify: told each notice, fit to be written as JSON.
    """

    def __init__(
        self, source: str, threshold: float, notify: Callable[[dict[str, Any]], None]
    ) -> None:
        self.count = 0
        self._source = source
        self._threshold = threshold
        self._notify = notify
        self._event: Event | None = None
        self._time = ""  # when it began

    def add(self, window: Window, gap: float, began: datetime) -> None:
        """Take the next window.

        Args:
            gap: seconds between windows of one event, at most.
            began: when its first frame was seen.
        """
        event = event_after(self._event, window, self._threshold, gap)
        if self._event and (event is None or event.start != self._event.start):
            self._tell(ongoing=False)
            self._event = None
        is_new = event is not None and self._event is None
        self._event = event
        if is_new:
            self.count += 1
            self._time = began.isoformat(timespec="milliseconds")
            self._tell(ongoing=True)

    def close(self, before: float | None = None) -> None:
        """End the event, if there is one; with `before`, if it has ended by that time."""
        if self._event and (before is None or self._event.end < before):
            self._tell(ongoing=False)
            self._event = None

    def _tell(self, ongoing: bool) -> None:
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
            }
        )


@dataclass
class LiveStatistics:
    """How a machine keeps up with a source."""

    seconds: float = 0.0
    frames: int = 0  # that came
    samples: int = 0  # of them, that were given to VGG19
    windows: int = 0  # that were judged
    skipped: int = 0
    events: int = 0
    total_lag: float = 0.0  # seconds from the end of a window to its verdict, all together
    max_lag: float = 0.0
    max_probability: float = 0.0  # probability
    windows_coming: float = 0.0  # a second
    windows_per_second: float = 0.0  # that this machine can judge

    def in_words(self) -> str:
        """Return a line."""
        counts = (
            f"{self.seconds:.0f} s: {self.frames} frames, {self.windows} windows judged, "
            f"{self.skipped} skipped, {self.events} events"
        )
        if not self.windows:
            return counts
        return (
            f"{counts}; highest probability {self.max_probability:.3f}; verdicts "
            f"{self.total_lag / self.windows:.2f} s after a window's end, at most "
            f"{self.max_lag:.2f} s; {self.windows_coming:.2f} windows a second come, this "
            f"machine can judge {self.windows_per_second:.2f}"
        )


class LiveMonitor:
    """Watches a source until it ends; made before the source is opened, since it warms up.

    Args:
        detector: on one device.
        notify: told each event, when it begins and when it is over.
        say: told, in a line, what else is to be known.
        clock: seconds that pass.
    """

    def __init__(
        self,
        detector: Detector,
        sampling: Sampling,
        notify: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.detector = detector
        self.sampling = sampling
        self.total = LiveStatistics()
        self.error: str | None = None  # why the source could not be read to its end
        self._recent = LiveStatistics()  # since the last report
        self._gap = 0.0  # seconds of video that were skipped since the last window
        self._notify = notify
        self._say = say
        self._clock = clock
        self._pass_seconds = deque([self._warm_up()], PASSES)

    def _warm_up(self) -> float:
        """Return the seconds of a pass; the first takes far longer, and is not counted."""
        streams, frames = len(self.detector.streams), self.detector.frames
        images = np.zeros((streams, 224, 224, 3), np.uint8)
        self.detector.predict_features(
            np.zeros((1, frames, self.detector.features_per_frame), np.float32)
        )
        self.detector.image_features(images, batch_size=streams)
        began = self._clock()
        self.detector.image_features(images, batch_size=streams)
        return self._clock() - began

    def run(self, reader: Reader) -> LiveStatistics:
        """Judge what a reader brings until its source is over; return how that kept up.

        A line tells the same every minute, and at the end, whatever ends it.

        Raises:
            UserError: the source is not a live one.
        """
        events = LiveEvents(reader.source.display_name, self.detector.threshold, self._notify)
        self._reported = began = self._clock()
        try:
            self._watch(reader, events)
        finally:
            events.close()
            self.total.seconds = self._clock() - began
            self._say(self.total.in_words())
        return self.total

    def _watch(self, reader: Reader, events: LiveEvents) -> None:
        name = reader.source.display_name
        judge: LivePredictor | None = None
        origin: float | None = None  # the time of the source's first frame
        is_lost = is_over = is_idle = False
        while not (is_over and is_idle):
            raise_if_interrupted()
            for item in reader.take(IDLE if is_idle else 0.0):
                if isinstance(item, Begun):
                    judge, is_lost = self._begin(item.frames_per_second), False
                    self._say(
                        f"{name}: frames come; windows of {self.sampling.window:g} s, "
                        f"{judge.windows_coming:.2f} a second"
                    )
                elif isinstance(item, Arrival):
                    assert judge is not None
                    judge.add(item)
                    if origin is None:
                        origin = 0.0 if reader.source.kind == "file" else item.sample.time
                elif isinstance(item, Tally):
                    self._count(frames=item.frames)
                elif isinstance(item, Lost):
                    is_lost = True
                    self._say(f"{name}: {item.reason}; connecting again in {item.pause:g} s")
                else:
                    is_over = True
                    self._end(item, name, judge)
            is_idle = judge is None or not self._step(judge, origin or 0.0, events)
            if is_lost and origin is not None:
                # A window that would go on with it cannot come any more.
                events.close(before=self._clock() - origin - 2 * self.sampling.window)
            if self._clock() - self._reported >= REPORT_EVERY:
                self._report()

    def _begin(self, frames_per_second: float | None) -> LivePredictor:
        interval = self.sampling.interval(frames_per_second)
        return LivePredictor(
            self.detector, self.sampling, interval, self._pass_seconds, self._clock
        )

    def _end(self, over: Over, name: str, judge: LivePredictor | None) -> None:
        if isinstance(over.error, NotLive):
            raise UserError(f"--source {name}: {over.error}")
        if over.error is not None:
            self.error = str(over.error)
        if judge:
            judge.end()

    def _step(self, judge: LivePredictor, origin: float, events: LiveEvents) -> bool:
        """Do what there is to do next; return whether there was anything."""
        computed, skipped = judge.computed, judge.skipped
        windows = judge.step()
        self._count(samples=judge.computed - computed)
        if judge.skipped > skipped:
            self._skip(judge, judge.skipped - skipped)
        for figures in (self.total, self._recent):
            figures.windows_coming = judge.windows_coming
            figures.windows_per_second = judge.windows_per_second
        for found in windows or ():
            start, end, probability = found.window
            window = Window(start - origin, end - origin, probability)
            self._take(found._replace(window=window), judge, events)
        return windows is not None

    def _skip(self, judge: LivePredictor, windows: int) -> None:
        if not self._recent.skipped:
            needed = judge.seconds_for_window
            advice = ""
            if needed > 2 * self.sampling.window:
                advice = (
                    f"; computing a window takes {needed:.1f} s here, so that verdicts come more "
                    f"than a window late: --window {math.ceil(needed)} would keep up"
                )
            self._say(
                "windows are skipped, so that verdicts are not long past: "
                f"{judge.windows_coming:.2f} a second come, this machine can judge "
                f"{judge.windows_per_second:.2f}{advice}"
            )
        self._count(skipped=windows)
        self._gap += windows / judge.windows_coming

    def _take(self, found: LiveWindow, judge: LivePredictor, events: LiveEvents) -> None:
        count = events.count
        if math.isfinite(found.window.probability):
            seen = datetime.now(UTC) - timedelta(seconds=self._clock() - found.arrived)
            events.add(found.window, self.sampling.stride + self._gap, seen)
            self._gap = 0.0
        else:
            dtype = self.detector.recipes[0].dtype
            self._say(
                f"{timestamp(found.window.start)}: a window cannot be judged: its features are "
                f"too large for {dtype}"
            )
        self._count(windows=1, events=events.count - count, total_lag=found.lag)
        for figures in (self.total, self._recent):
            figures.max_lag = max(figures.max_lag, found.lag)
            figures.max_probability = max(figures.max_probability, found.window.probability)

    def _count(self, **amounts: float) -> None:
        for figures in (self.total, self._recent):
            for name, amount in amounts.items():
                setattr(figures, name, getattr(figures, name) + amount)

    def _report(self) -> None:
        self._recent.seconds = self._clock() - self._reported
        self._say(self._recent.in_words())
        self._recent, self._reported = LiveStatistics(), self._clock()
