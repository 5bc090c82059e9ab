"""What is known of a camera now: written by the watcher, read by the page."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from violence_detection.cameras.settings import Camera

HOUR = 3600.0  # seconds of scores that are kept
CONNECTING, WATCHED, LOST, FROZEN = "connecting", "watched", "lost", "frozen"


@dataclass(frozen=True)
class CameraState:
    """A camera at one moment; times are seconds since 1970."""

    status: str = CONNECTING
    since: float = 0.0  # when the status began
    reason: str | None = None  # why it is lost
    alarm: str | None = None  # the event in progress
    picture: bytes | None = None  # JPEG
    pictured: float | None = None


class CameraView:
    """The state and the last hour's scores of a camera; for any thread.

    Args:
        camera: its settings.
        threshold: of its windows' probability.
    """

    def __init__(self, camera: Camera, threshold: float):
        self.camera = camera
        self.threshold = threshold
        self._state = CameraState()
        self._scores: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    @property
    def state(self) -> CameraState:
        """The state now."""
        return self._state

    def set_status(self, status: str, now: float, reason: str | None = None) -> None:
        """Note that a status begins."""
        self._state = replace(self._state, status=status, since=now, reason=reason)

    def set_alarm(self, event: str | None) -> None:
        """Note the event in progress; None: there is none."""
        self._state = replace(self._state, alarm=event)

    def set_picture(self, jpeg: bytes, now: float) -> None:
        """Keep the last picture."""
        self._state = replace(self._state, picture=jpeg, pictured=now)

    def add_score(self, moment: float, probability: float) -> None:
        """Keep the probability of the window that ended at a moment."""
        with self._lock:
            self._scores.append((moment, probability))
            while self._scores[0][0] < moment - HOUR:
                self._scores.popleft()

    def scores(self, seconds: float) -> Sequence[tuple[float, float]]:
        """Return the highest probability of each span of so many seconds, `(end, probability)`."""
        with self._lock:
            scores = list(self._scores)
        highest: dict[int, tuple[float, float]] = {}
        for moment, probability in scores:
            span = int(moment // seconds)
            if span not in highest or probability > highest[span][1]:
                highest[span] = (moment, probability)
        return list(highest.values())
