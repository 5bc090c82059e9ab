"""Pictures of a clip for people: in the clip's own shape, as JPEG files."""

import cv2
import numpy as np


def shrink(image: np.ndarray, aspect_ratio: float, side: int) -> np.ndarray:
    """Return an image in the shape of the clip it was taken from, `(height, width, 3)` uint8.

    Args:
        image: `(224, 224, 3)` uint8; the network's images are squares whatever the clip's shape.
        aspect_ratio: the clip's width over its height.
        side: the longer side of the result, in pixels.
    """
    width = max(1, round(side * min(1.0, aspect_ratio)))
    height = max(1, round(side * min(1.0, 1 / aspect_ratio)))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def as_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return an image as the content of a JPEG file.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        quality: from 0 to 100.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)[1].tobytes()
