import cv2
import numpy as np
import pytest

from violence_detection.clips.pictures import as_jpeg, shrink


@pytest.mark.parametrize(
    ("ratio", "width", "height"), [(1.0, 100, 100), (2.0, 100, 50), (0.25, 25, 100), (500, 100, 1)]
)
def test_picture_has_the_shape_of_its_clip(ratio: float, width: int, height: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    small = shrink(image, ratio, 100)
    assert (small.shape, small.dtype) == ((height, width, 3), np.uint8)
    assert small.mean() == pytest.approx(image.mean(), abs=3)


def test_jpeg_keeps_colours_and_its_quality_decides_the_size() -> None:
    red = np.full((48, 64, 3), (250, 0, 0), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(as_jpeg(red, 90), np.uint8), cv2.IMREAD_COLOR)
    blue, green, red_again = decoded.mean(axis=(0, 1))
    assert red_again > 240
    assert max(green, blue) < 10
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert len(as_jpeg(noise, 30)) < len(as_jpeg(noise, 90))
