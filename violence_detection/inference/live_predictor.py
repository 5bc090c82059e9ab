"""Predictions for windows of a live source, on a machine that may be too slow for all of them.

Frames arrive at their own pace. Windows that could only be predicted late are skipped, so that
the predictions never lag far behind the source.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from violence_detection.clips.sampling import Sample, Sampling
from violence_detection.inference.detector import Detector
from violence_detection.inference.events import Window
from violence_detection.inference.live_source import Arrival
from violence_detection.inference.windows import WindowPredictor
from violence_detection.settings.constants import FRAME_SIZE

MAX_DELAY = 0.8  # windows; an expected delay below 1 leaves room for passes slower than the mean
SIMILAR = 0.125  # windows; expected delays that differ by less count as equal


class LiveWindow(NamedTuple):
    """A window that was predicted."""

    window: Window  # in the source's times
    arrived: float  # when its first frame arrived, in the clock's seconds
    delay: float  # seconds from the arrival of its last frame to its prediction


class Computed(NamedTuple):
    """The features of a sample, computed beside those of other sources."""

    number: int  # of the sample
    features: np.ndarray  # (features_per_frame,)
    seconds: float  # that the pass took


class LivePredictor:
    """Takes samples as they arrive and predicts the windows for which there is time.

    A sample's features are computed once, as soon as it arrives: when the last sample of a window
    arrives, the others are done. The next window to be predicted is the first one with a small
    enough expected delay; the windows before it are skipped. Memory holds the samples of about two
    windows.

    Args:
        detector: makes the predictions.
        sampling: of the windows.
        interval: seconds from sample to sample.
        pass_seconds: durations of the last passes of VGG19 over a sample, at least one; new ones
            are appended.
        clock: returns seconds; the one by which arrivals are timed.
        takes_turns: other sources are computed in between. A sample then waits for its turn, for up
            to two passes; without allowing for that, each window would be given up for a later one.
    """

    def __init__(
        self,
        detector: Detector,
        sampling: Sampling,
        interval: float,
        pass_seconds: deque[float],
        clock: Callable[[], float] = time.monotonic,
        takes_turns: bool = False,
    ):
        self._takes_turns = takes_turns
        self.computed = 0  # samples that VGG19 was run on
        self.skipped = 0  # windows
        self._windows = WindowPredictor(detector, sampling, interval, samples_per_batch=1)
        self._sampling = sampling
        self._interval = interval
        self._pass_seconds = pass_seconds
        self._clock = clock
        self._ended = False  # no more samples will arrive
        self._finished = False  # the last window has been predicted
        self._newest = -1  # the last sample that arrived
        self._added = -1  # the last sample that was passed on to the windows
        self._current = -1  # start of the window for which that was done
        self._pending: dict[int, Arrival] = {}
        self._arrived: dict[int, float] = {}  # by sample, in the clock's seconds

    @property
    def windows_due_per_second(self) -> float:
        """How many windows the source yields per second."""
        return 1 / (self._windows.step * self._interval)

    @property
    def windows_possible_per_second(self) -> float:
        """How many windows this machine can predict per second."""
        samples = self._windows.step // self._sampling.unit
        return 1 / (samples * self._mean_pass)

    @property
    def seconds_per_window(self) -> float:
        """How long it takes to compute all samples of a window."""
        return self._sampling.frames // self._sampling.unit * self._mean_pass

    @property
    def _mean_pass(self) -> float:
        return statistics.fmean(self._pass_seconds)

    def add(self, arrival: Arrival) -> None:
        """Take the next sample."""
        number = arrival.sample.number
        self._newest = number
        self._pending[number] = arrival
        self._arrived[number] = arrival.arrived
        if len(self._pending) > 2 * self._sampling.frames + self._windows.step:
            # Far too slow a machine: drop the oldest sample that the current window can spare.
            after = self._windows.next_start + self._sampling.frames
            del self._pending[min(number for number in self._pending if number >= after)]

    def end(self) -> None:
        """Expect no more samples: a last window is added that ends at the last one."""
        self._ended = True

    def due(self) -> Sample | None:
        """Return the sample that `step` would process now; None: none is waiting."""
        self._skip_late_windows()
        arrival = self._pending.get(max(self._added + 1, self._windows.next_start))
        return None if arrival is None else arrival.sample

    def step(self, computed: Computed | None = None) -> list[LiveWindow] | None:
        """Process one sample.

        Args:
            computed: the features of the sample that was due; None: they are computed.

        Returns:
            The windows that have become complete; None if no sample was waiting.
        """
        self._skip_late_windows()
        start = self._windows.next_start
        number = max(self._added + 1, start)
        if number in self._pending:
            known = computed if computed is not None and computed.number == number else None
            windows = self._process(number, start, known)
        elif self._ended and not self._finished:
            self._finished = True
            start = self._sampling.last_start(self._newest + 1)
            windows = self._windows.predict(ended=True)
        else:
            return None
        last, now = start + self._sampling.frames - 1, self._clock()
        predicted = [
            LiveWindow(window, self._arrived[start], now - self._arrived[last])
            for window in windows
        ]
        self._forget(self._windows.next_start - self._windows.step)
        return predicted

    def _process(self, number: int, start: int, computed: Computed | None) -> list[Window]:
        began = self._clock() - (computed.seconds if computed else 0.0)
        sample = self._pending.pop(number).sample
        self._windows.add(sample, computed and computed.features)
        windows = self._windows.predict()
        self._added, self._current = number, start
        if sample.images is not None:
            self.computed += 1
            self._pass_seconds.append(self._clock() - began)
        return windows

    def _skip_late_windows(self) -> None:
        """Skip the windows whose predictions would come too late."""
        next_start, length = self._windows.next_start, self._sampling.window
        delays = self._expected_delays()
        is_in_progress = self._current == next_start and next_start in delays
        wait = 2 * self._mean_pass if self._takes_turns else 0.0
        if not delays or (is_in_progress and delays[next_start] <= length + wait):
            return
        # One that has yet to begin always looks a little better than one whose samples wait:
        # to give this one up for that would go on for ever. If none is in time, the one in
        # progress is as good as any.
        least = min(delays.values())
        enough = max(MAX_DELAY * length + wait, least + SIMILAR * length + wait)
        keep = is_in_progress and least > MAX_DELAY * length + wait
        chosen = next(start for start, delay in delays.items() if delay <= enough or keep)
        if chosen > next_start:
            self.skipped += (chosen - next_start) // self._windows.step
            self._windows.skip_to(chosen)
            self._forget(chosen)

    def _expected_delays(self) -> dict[int, float]:
        """Return the expected delays of the windows that may be next, by their starts, in order."""
        step, next_start = self._windows.step, self._windows.next_start
        newest = self._newest - self._sampling.frames + 1 if self._ended else self._newest + step
        starts = range(next_start, max(next_start, newest) + 1, step)
        return {start: self._expected_delay(start) for start in starts if self._is_possible(start)}

    def _is_possible(self, start: int) -> bool:
        """Return whether all samples of a window are available or have yet to arrive."""
        missing = range(max(start, self._added + 1), start + self._sampling.frames)
        return all(number in self._pending or number > self._newest for number in missing)

    def _expected_delay(self, start: int) -> float:
        """Return the seconds from a window's end to its prediction, if it is the next one."""
        last = start + self._sampling.frames - 1
        missing = range(max(start, self._added + 1), last + 1)
        done = self._arrival(last)
        if missing:
            work = self._mean_pass * sum(map(self._sampling.is_used, missing))
            began = max(self._clock(), self._arrival(missing[0]))
            done = max(done + self._mean_pass, began + work)
        return done - self._arrival(last)

    def _arrival(self, number: int) -> float:
        """Return when a sample arrived, or is expected to."""
        if number in self._arrived:
            return self._arrived[number]
        now = self._clock()
        newest = self._arrived.get(self._newest, now)
        return max(now, newest + (number - self._newest) * self._interval)

    def _forget(self, before: int) -> None:
        for number in [number for number in self._arrived if number < before]:
            del self._arrived[number]
            self._pending.pop(number, None)


def warm_up(detector: Detector, sources: int, clock: Callable[[], float]) -> float:
    """Run the networks for so many sources at once; return the seconds of a pass.

    The first one, which takes far longer, is not measured.

    Args:
        detector: whose networks are run.
        sources: samples in a pass.
        clock: returns seconds.
    """
    shape = (1, len(detector.streams), detector.frames, FRAME_SIZE, FRAME_SIZE, 3)
    clip = np.zeros(shape, np.uint8)
    run: Callable[[], object] = partial(detector.predict_images, clip)
    run()
    if not detector.takes_clips:
        run = partial(detector.frame_features, clip[:, :, 0], frames_at_once=sources)
        run()
    began = clock()
    run()
    return clock() - began
