"""Many cameras, one detector: a process reads each, and every pass is over samples of all."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from violence_detection.cameras.alarms import AlarmState, is_within
from violence_detection.cameras.events import CameraEvents, Notify
from violence_detection.cameras.settings import Camera, WatchSettings
from violence_detection.cameras.store import EventStore
from violence_detection.cameras.view import FROZEN, LOST, WATCHED, CameraView
from violence_detection.clips.sampling import Sample
from violence_detection.inference.detector import Detector
from violence_detection.inference.live import PASSES, REPORT_EVERY
from violence_detection.inference.live_predictor import (
    Computed,
    LivePredictor,
    LiveWindow,
    warm_up,
)
from violence_detection.inference.live_source import (
    Arrival,
    Ended,
    Item,
    Lost,
    Picture,
    SourceReader,
    Started,
)
from violence_detection.inference.windows import window_sampling
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.wording import count_of

log = logging.getLogger(__name__)

IDLE = 0.02  # seconds to wait when no sample is due
TICK = 1.0  # seconds from one look at recordings to the next


class Reader(Protocol):
    """The interface of `live_source.SourceReader`."""

    def __enter__(self) -> "Reader":
        """Begin to read."""

    def __exit__(self, *error: object) -> None:
        """End the reading."""

    def take(self, wait: float) -> Sequence[Item]:
        """Return the items that have arrived."""


@dataclass
class Report:
    """How a camera was kept up with since the last report."""

    windows: int = 0
    skipped: int = 0
    longest_delay: float = 0.0  # seconds

    def line(self, name: str, status: str) -> str:
        """Return it in words."""
        words = [f"{name}: {status}", count_of(self.windows, "window")]
        if self.skipped:
            words.append(f"{self.skipped} skipped to keep up")
        if self.windows:
            words.append(f"at most {self.longest_delay:.1f} s late")
        return ", ".join(words)


class WatchedCamera:
    """A camera, the state of its windows and alarms.

    Args:
        camera: its settings.
        detector: makes the predictions.
        settings: of the watcher.
        store: of the events.
        notify: called with each line of JSON.
        pass_seconds: that a pass over a sample of each camera takes.
        open_reader: makes the reader of a source; another one in tests.
        clock: by which arrivals are timed.
    """

    def __init__(
        self,
        camera: Camera,
        detector: Detector,
        settings: WatchSettings,
        store: EventStore,
        notify: Notify,
        pass_seconds: float,
        open_reader: Callable[..., Reader] = SourceReader,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.camera = camera
        self.report = Report()
        self.has_ended = False
        self._detector = detector
        self._frozen_after = settings.frozen
        self._clock = clock
        self._sampling = window_sampling(detector, camera.window, camera.stride, camera.mask)
        self.events = CameraEvents(camera.name, store, notify, camera.window)
        self.events.recover()
        threshold = detector.threshold if camera.threshold is None else camera.threshold
        self._alarms = AlarmState(camera.alarm, threshold)
        self._predictor: LivePredictor | None = None
        self._pass_seconds = deque([pass_seconds], PASSES)
        self.view = CameraView(camera, threshold)
        self._images: np.ndarray | None = None  # the last that were unlike those before
        self._changed = clock()  # when they arrived
        recording = None if camera.source.kind == "file" else self.events.recordings
        self.reader = open_reader(
            *(camera.source, self._sampling, settings.silence),
            recording=recording,
            with_pictures=settings.page is not None,
        )

    @property
    def _status(self) -> str:
        return self.view.state.status

    @property
    def _offset(self) -> float:
        """What is added to the clock's seconds for seconds since 1970."""
        return time.time() - self._clock()

    def handle(self, items: Sequence[Item]) -> None:
        """Take what has arrived of the source."""
        for item in items:
            if isinstance(item, Started):
                self._start(item)
            elif isinstance(item, Arrival) and self._predictor is not None:
                self._look_whether_frozen(item.sample)
                if self._is_scheduled():
                    self._predictor.add(item)
            elif isinstance(item, Picture):
                self.view.set_picture(item.jpeg, time.time())
            elif isinstance(item, Lost):
                self._lose(item.reason)
            elif isinstance(item, Ended):
                self.has_ended = True
                if item.error is not None:
                    self._lose(str(item.error))
                elif self._predictor is not None:
                    self._predictor.end()

    def _start(self, item: Started) -> None:
        if self._status == LOST:
            self.events.note("back", time.time())
        interval = self._sampling.interval(item.frames_per_second)
        self._predictor = LivePredictor(
            *(self._detector, self._sampling, interval, self._pass_seconds, self._clock),
            takes_turns=True,
        )
        self._changed, self._images = self._clock(), None
        self.view.set_status(WATCHED, time.time())

    def _lose(self, reason: str) -> None:
        if self._status != LOST:
            self.events.note("lost", time.time(), reason=reason)
            self.view.set_status(LOST, time.time(), reason)
        self._end_alarm()

    def _look_whether_frozen(self, sample: Sample) -> None:
        if sample.images is None:
            return
        if self._images is None or not np.array_equal(self._images, sample.images):
            self._images, self._changed = sample.images, self._clock()
            if self._status == FROZEN:
                self.events.note("moving", time.time())
                self.view.set_status(WATCHED, time.time())
        elif self._status == WATCHED and self._clock() - self._changed >= self._frozen_after:
            self.events.note("frozen", time.time())
            self.view.set_status(FROZEN, time.time())

    def _is_scheduled(self) -> bool:
        spans = self.camera.schedule
        return not spans or is_within(datetime.now(), spans)

    def due(self) -> Sample | None:
        """Return the sample that is to be computed next; None: none is waiting."""
        return None if self._predictor is None else self._predictor.due()

    def step(self, computed: Computed | None) -> bool:
        """Process the sample that is due; return whether there was one."""
        if self._predictor is None:
            return False
        skipped = self._predictor.skipped
        windows = self._predictor.step(computed)
        self.report.skipped += self._predictor.skipped - skipped
        for predicted in windows or ():
            self._take(predicted)
        return windows is not None

    def _take(self, predicted: LiveWindow) -> None:
        window, offset = predicted.window, self._offset
        self.report.windows += 1
        self.report.longest_delay = max(self.report.longest_delay, predicted.delay)
        # By arrival: of a file, the window's own times are those in the file.
        start = predicted.arrived
        end = start + window.end - window.start
        moment = datetime.fromtimestamp(end + offset)
        begun, ended = self._alarms.add(start, end, window.probability, moment)
        self.view.add_score(end + offset, window.probability)
        if ended is not None:
            self.events.end()
            self.view.set_alarm(None)
        if begun is not None:
            self.view.set_alarm(self.events.start(begun, offset))

    def _end_alarm(self) -> None:
        if self._alarms.end() is not None:
            self.events.end()
            self.view.set_alarm(None)

    def reported(self) -> str:
        """Return how it was kept up with since the last call."""
        report, self.report = self.report, Report()
        return report.line(self.camera.name, self._status)

    def close(self) -> None:
        """End the alarm in progress, and write what was recorded of it."""
        self._end_alarm()
        self.events.tick(time.time(), last_call=True)


class Watcher:
    """Watches cameras until a signal, or until all sources have ended.

    Args:
        detector: on a single device.
        settings: of the cameras.
        notify: called with each line of JSON.
        open_reader: makes the reader of a source; another one in tests.
    """

    def __init__(
        self,
        detector: Detector,
        settings: WatchSettings,
        notify: Notify,
        open_reader: Callable[..., Reader] = SourceReader,
    ):
        self.detector = detector
        self.settings = settings
        self._notify = notify
        self._open_reader = open_reader
        self.store = EventStore(settings.events, settings.clips)
        self._cameras: dict[str, WatchedCamera] = {}
        self._ticked = self._reported = 0.0

    def run(self, reloaded: Callable[[], WatchSettings | None] = lambda: None) -> None:
        """Watch.

        Args:
            reloaded: returns new settings once they are asked for; cameras that are as they were
                are watched on without a gap.

        Raises:
            Interrupted: Ctrl-C or SIGTERM was received; alarms in progress are written.
        """
        self._reported = time.monotonic()
        try:
            self._take_up(self.settings)
            while any(not camera.has_ended for camera in self._cameras.values()):
                raise_if_interrupted()
                if settings := reloaded():
                    self._take_up(settings)
                if not self._step():
                    time.sleep(IDLE)
                self._tick()
            while self._step():
                raise_if_interrupted()
        finally:
            for name in list(self._cameras):
                self._drop(name)

    @property
    def cameras(self) -> Mapping[str, WatchedCamera]:
        """The cameras that are watched, by name, in the settings' order; for any thread."""
        cameras = dict(self._cameras)
        names = [camera.name for camera in self.settings.cameras]
        return {name: cameras[name] for name in names if name in cameras}

    def _take_up(self, settings: WatchSettings) -> None:
        """Watch the cameras of settings; those that are the same go on."""
        self.settings, self.store.rule = settings, settings.clips
        wanted = {camera.name: camera for camera in settings.cameras}
        for name, watched in list(self._cameras.items()):
            if wanted.get(name) != watched.camera:
                self._drop(name)
        pass_seconds = warm_up(self.detector, len(wanted), time.monotonic)
        for name, camera in wanted.items():
            if name not in self._cameras:
                watched = WatchedCamera(
                    *(camera, self.detector, settings, self.store, self._notify, pass_seconds),
                    self._open_reader,
                )
                watched.reader.__enter__()
                self._cameras[name] = watched
                log.info("watching %s: %s", name, camera.source.display_name)

    def _drop(self, name: str) -> None:
        watched = self._cameras.pop(name)
        watched.reader.__exit__(None, None, None)
        watched.close()

    def _step(self) -> bool:
        """Process one sample of each camera that has one; return whether any had.

        Each camera has its turn, however far others are behind: one that cannot be kept up with
        skips its own windows.
        """
        cameras = list(self._cameras.values())
        for camera in cameras:
            camera.handle(camera.reader.take(0.0))
        due = [(camera, camera.due()) for camera in cameras]
        shown = [(c, s.number, s.images) for c, s in due if s is not None and s.images is not None]
        computed: dict[str, Computed] = {}
        # Backbones of whole clips see them only when they are complete.
        if shown and not self.detector.takes_clips:
            began = time.monotonic()
            images = np.stack([images for _, _, images in shown])
            features = self.detector.frame_features(images, frames_at_once=len(cameras))
            seconds = time.monotonic() - began
            for (camera, number, _), values in zip(shown, features, strict=True):
                computed[camera.camera.name] = Computed(number, values, seconds)
        stepped = [camera.step(computed.get(camera.camera.name)) for camera in cameras]
        return any(stepped)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._ticked >= TICK:
            self._ticked = now
            for camera in self._cameras.values():
                camera.events.tick(time.time())
        if now - self._reported >= REPORT_EVERY:
            self._reported = now
            self.store.prune()
            for camera in self._cameras.values():
                log.info("%s", camera.reported())
