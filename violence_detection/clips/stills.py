"""Whether anything moves between two frames."""

import cv2
import numpy as np

BLOCK = 8  # pixels; the mean of a block has little noise
LEAST_CHANGE = 10  # levels of a block's mean; the encoding of a still picture changes it by less


def block_means(image: np.ndarray) -> np.ndarray:
    """Return the means of a frame's blocks, `(28, 28, 3)` int16.

    Args:
        image: `(224, 224, 3)` uint8.
    """
    size = image.shape[1] // BLOCK, image.shape[0] // BLOCK
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.int16)


def has_moved(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether two frames differ in more than noise, from their `block_means`."""
    return bool(np.abs(after - before).max() > LEAST_CHANGE)


def is_still(images: np.ndarray) -> bool:
    """Return whether nothing moves after the first frame.

    Args:
        images: `(frames, 224, 224, 3)` uint8.
    """
    first = block_means(images[0])
    # From the last one on: of most clips it shows already that something moves.
    return not any(has_moved(first, block_means(image)) for image in images[:0:-1])
