"""Small videos that the exports name."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

WriteVideo = Callable[..., Path]


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Return a function that writes a video below `tmp_path`: 100 frames, 10 a second."""

    def write(name: str, frames: int = 100, rate: int = 10) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (32, 24))
        # No two videos are the same.
        picture = np.full((24, 32, 3), sum(map(ord, name)) % 256, np.uint8)
        for _ in range(frames):
            writer.write(picture)
        writer.release()
        return path

    return write
