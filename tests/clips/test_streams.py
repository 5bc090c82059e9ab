"""Movement in the streams: its place, direction and speed, without the camera's own."""

import cv2
import numpy as np
import pytest

from violence_detection.clips.streams import FLOW_SCALE, stream_images
from violence_detection.settings.constants import STREAMS

SIDE = 224
INNER = slice(40, -40)  # away from what a pan uncovers


def texture(seed: int, side: int = SIDE) -> np.ndarray:
    """Return `(side, side, 3)` uint8: clouds of some pixels' size, which a flow can follow."""
    noise = np.random.default_rng(seed).random((side, side, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def clip_of_body(
    background: np.ndarray, steps: tuple[int, int], frames: int = 4, size: int = 60
) -> np.ndarray:
    """Return frames of a textured square that starts at (80, 80) and moves by `steps` a frame."""
    body, images = texture(9)[:size, :size] // 2 + 127, []
    for number in range(frames):
        image = background.copy()
        right, down = (80 + step * number for step in steps)
        image[down : down + size, right : right + size] = body
        images.append(image)
    return np.stack(images)


@pytest.fixture
def moving_body() -> np.ndarray:
    """Return a clip of a body that moves right by 4 pixels a frame and up by 3, all else still."""
    return clip_of_body(texture(0), (4, -3))


@pytest.fixture
def pan() -> np.ndarray:
    """Return a clip whose picture moves as a whole, right by 3 pixels a frame and down by 2."""
    scene = texture(0, SIDE + 20)
    return np.stack(
        [scene[20 - 2 * n : SIDE + 20 - 2 * n, 20 - 3 * n : SIDE + 20 - 3 * n] for n in range(4)]
    )


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_images_have_the_shape_of_the_frames(stream: str, frames: int) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (frames, SIDE, SIDE, 3), np.uint8)
    images = stream_images(clip, stream)
    assert (images.shape, images.dtype) == (clip.shape, np.uint8)


def test_rgb_is_the_frames_or_their_mirror_image(moving_body: np.ndarray) -> None:
    np.testing.assert_array_equal(stream_images(moving_body, "rgb"), moving_body)
    mirrored = stream_images(moving_body, "rgb", flipped=True)
    np.testing.assert_array_equal(mirrored, moving_body[:, :, ::-1])


def test_still_shows_no_difference_and_no_flow() -> None:
    clip = np.stack([texture(0)] * 4)
    assert not stream_images(clip, "difference").any()
    flow = stream_images(clip, "flow")
    np.testing.assert_array_equal(flow, np.broadcast_to((128, 128, 0), flow.shape))


def test_difference_is_where_the_movement_is(moving_body: np.ndarray) -> None:
    images = stream_images(moving_body, "difference")
    changed = images[2].max(axis=2) > 20
    rows, columns = np.nonzero(changed)
    # At both positions of the body, (84, 77) before and (88, 74) now, and nowhere else.
    assert (rows.min(), rows.max()) == (74, 77 + 60 - 1)
    assert (columns.min(), columns.max()) == (84, 88 + 60 - 1)
    np.testing.assert_array_equal(images[0], images[1])  # the first has no frame before it


@pytest.mark.parametrize("steps", [(4, -3), (-4, 3), (5, 0), (0, 5)])
def test_flow_shows_direction_and_speed_of_a_body(steps: tuple[int, int]) -> None:
    flow = stream_images(clip_of_body(texture(0), steps), "flow")[2].astype(float)
    right, down = (80 + 2 * step for step in steps)
    body = flow[down + 15 : down + 45, right + 15 : right + 45]
    expected = np.array([128 + FLOW_SCALE * step for step in steps])
    np.testing.assert_allclose(np.median(body[..., :2], axis=(0, 1)), expected, atol=8)
    length = FLOW_SCALE * np.hypot(*steps)
    np.testing.assert_allclose(np.median(body[..., 2]), length, atol=8)
    assert np.median(np.abs(flow[:40, :, :2] - 128)) < 2  # the background stays
    assert np.median(flow[:40, :, 2]) < 2


def test_camera_shift_is_removed(pan: np.ndarray) -> None:
    plain = cv2.absdiff(pan[1], pan[2])[INNER, INNER].mean()
    difference = stream_images(pan, "difference")[2, INNER, INNER].mean()
    assert plain > 10
    assert difference < 0.1 * plain
    flow = stream_images(pan, "flow")[2, INNER, INNER].astype(float)
    assert np.abs(flow[..., :2] - 128).mean() < 0.25 * FLOW_SCALE  # of 3.6 pixels
    assert flow[..., 2].mean() < 0.25 * FLOW_SCALE


def test_body_is_not_mistaken_for_the_camera() -> None:
    """A large one, which covers a quarter of the background."""
    clip = clip_of_body(texture(0), (6, 4), size=112)
    difference = stream_images(clip, "difference")[2]
    assert difference[:70].max() == 0
    assert difference[92 + 10 : 200, 92 + 10 : 200].mean() > 5


@pytest.mark.parametrize("stream", ["difference", "flow"])
def test_flipped_stream_is_of_the_mirrored_clip(moving_body: np.ndarray, stream: str) -> None:
    flipped = stream_images(moving_body, stream, flipped=True)
    mirrored = np.ascontiguousarray(moving_body[:, :, ::-1])
    np.testing.assert_array_equal(flipped, stream_images(mirrored, stream))


def test_flow_to_the_right_is_one_to_the_left_in_the_mirrored_clip(
    moving_body: np.ndarray,
) -> None:
    flow = stream_images(moving_body, "flow")[2].astype(float)
    flipped = stream_images(moving_body, "flow", flipped=True)[2, :, ::-1].astype(float)
    body = flow[..., 2] > FLOW_SCALE
    assert body.sum() > 1000
    assert np.median(np.abs(flow[body, 0] + flipped[body, 0] - 2 * 128)) < 4
    assert np.median(np.abs(flow[body] - flipped[body]), axis=0)[1:].max() < 4
