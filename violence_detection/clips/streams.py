"""The streams of a clip: its frames, their differences, their optical flow.

A violent act is a movement, which single frames do not show. All streams are uint8 images of
224 x 224 pixels, so that one network computes the features of each. A moving camera moves the
whole picture: this global shift between two frames is removed first.
"""

import cv2
import numpy as np

FLOW_SCALE = 16.0  # grey levels per pixel of motion, up to 8 pixels between two frames
THUMBNAIL_SIZE = 8  # pixels, width and height
THUMBNAIL_VALUES = 3 * THUMBNAIL_SIZE**2
MARGIN = 4  # pixels cut off: OpenCV pads 224 to 225, and odd sizes are half a pixel off
MIN_SHIFT = 0.5  # pixels; less is noise


def stream_images(frames: np.ndarray, stream: str, flipped: bool = False) -> np.ndarray:
    """Return the images of one stream of a clip.

    Args:
        frames: `(frames, height, width, 3)` uint8 RGB, in time order.
        stream: one of `STREAMS`. "rgb" is the frames themselves, "difference" the absolute
            difference from the previous frame, "flow" the dense optical flow from the previous
            frame: horizontal and vertical components around 128, and the magnitude. The first
            frame has no previous one and repeats the image of the second.
        flipped: mirror the clip first, left to right.

    Returns:
        `(frames, height, width, 3)` uint8.
    """
    if flipped:
        frames = np.ascontiguousarray(frames[:, :, ::-1])
    if stream == "rgb":
        return frames
    image_of_pair = {"difference": _difference, "flow": _flow}[stream]
    images = np.zeros_like(frames)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    for index in range(1, len(frames)):
        shift = global_shift(greys[index - 1], greys[index])
        pair = slice(index - 1, index + 1)
        images[index] = image_of_pair(frames[pair], greys[pair], shift)
    images[0] = images[min(1, len(frames) - 1)]
    return images


def thumbnails(clips: np.ndarray) -> np.ndarray:
    """Return each frame in 8 x 8 pixels of three colours.

    Args:
        clips: `(clips, frames, height, width, 3)` uint8.

    Returns:
        `(clips, frames, 192)` float32, from 0 to 255.
    """
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    small = [
        cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for clip in clips for frame in clip
    ]
    return np.stack(small).reshape(*clips.shape[:2], THUMBNAIL_VALUES).astype(np.float32)


def global_shift(previous: np.ndarray, current: np.ndarray) -> tuple[float, float]:
    """Return by how many pixels (right, down) the whole picture moved; (0, 0) if it did not.

    Phase correlation (Kuglin and Hines, 1975). It sometimes mistakes a large moving body for the
    whole picture: a shift counts only if the two frames differ less with it than without.

    Args:
        previous: `(height, width)` uint8.
        current: the same of the next frame.
    """
    inner = slice(MARGIN, -MARGIN)
    first, second = (image[inner, inner].astype(np.float32) for image in (previous, current))
    (right, down), _ = cv2.phaseCorrelate(first, second, _window(first))
    shift = right, down
    if np.hypot(*shift) < MIN_SHIFT:
        return 0.0, 0.0
    difference = cv2.absdiff(_moved(previous, shift), current)
    is_better = difference.mean() < cv2.absdiff(previous, current).mean()
    return shift if is_better else (0.0, 0.0)


def _window(image: np.ndarray) -> np.ndarray:
    return cv2.createHanningWindow(image.shape[::-1], cv2.CV_32F)


def _moved(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    if shift == (0.0, 0.0):
        return image
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    size = image.shape[1], image.shape[0]
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)


def _difference(
    pair: np.ndarray, greys: list[np.ndarray], shift: tuple[float, float]
) -> np.ndarray:
    return cv2.absdiff(_moved(pair[0], shift), pair[1])


def _flow(pair: np.ndarray, greys: list[np.ndarray], shift: tuple[float, float]) -> np.ndarray:
    """Return DIS optical flow (Kroeger et al., https://arxiv.org/abs/1603.03590) as an image."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(_moved(greys[0], shift), greys[1], np.empty(0))
    magnitude = np.linalg.norm(flow, axis=2, keepdims=True)
    image = np.concatenate([128 + FLOW_SCALE * flow, FLOW_SCALE * magnitude], axis=2)
    return np.clip(image, 0, 255).round().astype(np.uint8)
