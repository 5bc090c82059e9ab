from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips.demo import draw_clip
from violence_detection.inference.detector import Detector, load_detector


@pytest.fixture(scope="session")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


@pytest.fixture(scope="session")
def short_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of two seconds, 12 frames a second."""
    path = tmp_path_factory.mktemp("short") / "clip.mp4"
    draw_clip(path, True, np.random.default_rng(3))
    return path


class Clock:
    """Time that passes only when someone sleeps or works."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()
