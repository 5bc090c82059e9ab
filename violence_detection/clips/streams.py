"""What VGG19 is shown of a clip: its frames, or how they differ, or how they move.

A violent act is a movement, which single frames do not show. Every stream is frames of 224 x 224
pixels, uint8, so that one network computes the features of all. A moving camera moves everything:
the shift that two frames have in common is taken out first.
"""

import cv2
import numpy as np

FLOW_SCALE = 16.0  # grey levels per pixel of motion: up to 8 pixels between two frames are told
THUMBNAIL_SIZE = 8  # pixels, both sides
THUMBNAIL_VALUES = 3 * THUMBNAIL_SIZE**2
MARGIN = 4  # pixels: OpenCV pads 224 to 225, and of an odd size it is half a pixel off
LEAST_SHIFT = 0.5  # pixels; less is noise


def stream_images(frames: np.ndarray, stream: str, flipped: bool = False) -> np.ndarray:
    """Return what a stream shows of a clip.

    Args:
        frames: `(frames, height, width, 3)` uint8 RGB, in time order.
        stream: one of `config.STREAMS`: "rgb" is the frames themselves, "difference" the absolute
            difference to the frame before, "flow" the dense optical flow from the frame before:
            its horizontal and vertical part around 128, and its length. The first frame has none
            before it and repeats what the second shows.
        flipped: mirror the clip first, left to right.

    Returns:
        Images of the frames' shape, uint8.
    """
    if flipped:
        frames = np.ascontiguousarray(frames[:, :, ::-1])
    if stream == "rgb":
        return frames
    of_pair = {"difference": _difference, "flow": _flow}[stream]
    images = np.zeros_like(frames)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    for now in range(1, len(frames)):
        shift = global_shift(greys[now - 1], greys[now])
        images[now] = of_pair(frames[now - 1 : now + 1], greys[now - 1 : now + 1], shift)
    images[0] = images[min(1, len(frames) - 1)]
    return images


def thumbnails(clips: np.ndarray) -> np.ndarray:
    """Return `(clips, frames, 192)` float32: each frame in 8 x 8 pixels, three colours.

    Args:
        clips: `(clips, frames, height, width, 3)` uint8.
    """
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    small = [
        cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for clip in clips for frame in clip
    ]
    return np.stack(small).reshape(*clips.shape[:2], THUMBNAIL_VALUES).astype(np.float32)


def global_shift(before: np.ndarray, now: np.ndarray) -> tuple[float, float]:
    """Return by how many pixels (right, down) a picture has moved as a whole; (0, 0): it has not.

    Phase correlation (Kuglin and Hines, 1975). It takes a large body in motion for the whole
    picture at times: a shift counts only if the two frames differ less with it than without.

    Args:
        before, now: `(height, width)` uint8.
    """
    middles = [image[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32) for image in (before, now)]
    (right, down), _ = cv2.phaseCorrelate(middles[0], middles[1], _window(middles[0]))
    shift = right, down
    if np.hypot(*shift) < LEAST_SHIFT:
        return 0.0, 0.0
    difference = cv2.absdiff(_moved(before, shift), now)
    return shift if difference.mean() < cv2.absdiff(before, now).mean() else (0.0, 0.0)


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
    """Return the flow of Kroeger et al. (https://arxiv.org/abs/1603.03590) as an image."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(_moved(greys[0], shift), greys[1], np.empty(0))
    length = np.linalg.norm(flow, axis=2, keepdims=True)
    image = np.concatenate([128 + FLOW_SCALE * flow, FLOW_SCALE * length], axis=2)
    return np.clip(image, 0, 255).round().astype(np.uint8)
