from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from tests.inference.conftest import Clock
from tests.inference.detectors import with_network
from violence_detection.clips.sampling import Sample, Sampling
from violence_detection.inference.detector import Detector
from violence_detection.inference.live_source import Arrival, Item, Source, Started

FILE = Source("clip.mp4", "file")
CAMERA = Source("rtsp://me:secret@camera/1", "network")
RATE = 12.0  # frames a second


class PlayedReader:
    """Delivers items when they are due, by a clock."""

    def __init__(self, source: Source, items: Sequence[tuple[float, Item]], clock: Clock):
        self.source = source
        self.items = deque(items)
        self.clock = clock

    def take(self, wait: float) -> list[Item]:
        if wait and self.items and self.items[0][0] > self.clock.now:
            self.clock.now = min(self.clock.now + wait, self.items[0][0])
        taken = []
        while self.items and self.items[0][0] <= self.clock.now:
            taken.append(self.items.popleft()[1])
        return taken


def timed(
    detector: Detector, clock: Clock, seconds: Callable[[], float], **changes: object
) -> Detector:
    """Return a detector with a network that projects pixels; a pass takes so many seconds."""
    features = detector.recipes[0].features
    projection = np.random.default_rng(0).random((4 * 4 * 3, features), np.float32)

    def network(images: np.ndarray) -> np.ndarray:
        clock.sleep(seconds())
        pixels = images[:, :, ::56, ::56] / np.float32(255)
        return pixels.reshape(*images.shape[:2], -1) @ projection

    return with_network(detector, network, **changes)


def camera_items(
    detector: Detector, sampling: Sampling, seconds: float, start: float = 1000.0
) -> list[tuple[float, Item]]:
    """Return what a camera delivers in so many seconds, and when."""
    random = np.random.default_rng(0)
    shape = (8, len(detector.streams), 224, 224, 3)
    images = random.integers(0, 255, shape, np.uint8)
    interval = sampling.interval(RATE)
    items: list[tuple[float, Item]] = [(start, Started(RATE))]
    for number in range(int(seconds / interval)):
        time = start + number * interval
        own = images[number % len(images)] if sampling.is_used(number) else None
        items.append((time, Arrival(Sample(number, time, own), time)))
    return items
