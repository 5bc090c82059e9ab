"""Frames made smaller."""

import cv2
import numpy as np
import pytest

from violence_detection.models.pixels import pixel_extractor, pixel_values


@pytest.mark.parametrize("size", [224, 112, 96, 50])
def test_frames_are_those_of_opencv(size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), np.uint8)
    frames = noise.repeat(4, axis=1).repeat(4, axis=2)
    smaller = pixel_extractor(size)(frames).numpy()
    assert smaller.shape == (3, pixel_values(size))
    assert (smaller == smaller.round()).all()
    expected = [cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in frames]
    difference = np.abs(smaller.reshape(3, size, size, 3) - np.stack(expected))
    assert difference.max() <= 1  # of 255: rounded the other way
    assert difference.mean() < 0.05
