"""Augmentation of frames."""

import numpy as np
import pytest
import tensorflow as tf

from violence_detection.training.pixel_augmentation import NUMBERS, PixelAugmentation

SIZE = 16
STREAMS = ("rgb", "flow")


@pytest.fixture
def images() -> np.ndarray:
    """Return two clips of three frames and two streams."""
    return np.random.default_rng(0).uniform(-1, 1, (2, 3, SIZE, SIZE, 6)).astype(np.float32)


def augmented(
    images: np.ndarray, kinds: str, random: np.ndarray | float = 0.5, size: int = SIZE
) -> np.ndarray:
    numbers = tf.constant(np.broadcast_to(random, (len(images), NUMBERS)), tf.float32)
    kind_names = kinds.split(",") if kinds else []
    return PixelAugmentation(STREAMS, kind_names)(tf.constant(images), numbers, size).numpy()


def test_without_kinds_clips_stay_as_they_are(images: np.ndarray) -> None:
    np.testing.assert_array_equal(augmented(images, ""), images)


def test_smaller_frames_are_means_of_areas(images: np.ndarray) -> None:
    smooth = np.cumsum(images, axis=2) / SIZE
    halves = smooth.reshape(2, 3, SIZE // 2, 2, SIZE // 2, 2, 6).mean(axis=(3, 5))
    found = augmented(smooth, "", size=SIZE // 2)
    assert found.shape == (2, 3, SIZE // 2, SIZE // 2, 6)
    assert np.abs(found - halves).mean() < 0.05
    constant = np.full_like(images, 0.25)
    np.testing.assert_allclose(augmented(constant, "crop", size=10), 0.25, rtol=1e-5)


def test_mirrored_clip_is_reversed_and_moves_the_other_way(images: np.ndarray) -> None:
    random = np.array([[0.9], [0.1]])  # the first is mirrored, the second is not
    found = augmented(images, "flip", random)
    expected = images[0, :, :, ::-1].copy()
    expected[..., 3] *= -1  # horizontal flow
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    np.testing.assert_allclose(found[1], images[1], atol=1e-6)


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_crop_is_a_part_of_all_frames_of_a_clip(corner: float) -> None:
    """Pixels have their position for a value, so that a crop shows where it is from."""
    position = np.linspace(-1, 1, SIZE, dtype=np.float32)
    rows = np.broadcast_to(position[:, None, None], (1, 2, SIZE, SIZE, 6)).copy()
    random = np.array([[1.0, 1.0, corner, corner, 0, 0, 0, 0]])
    found = augmented(rows, "crop", random)
    assert found.min() == pytest.approx(-1 if corner == 0 else -0.4, abs=0.07)
    assert found.max() == pytest.approx(0.4 if corner == 0 else 1, abs=0.07)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_colours_of_frames_change_and_those_of_flow_do_not(images: np.ndarray) -> None:
    found = augmented(images / 2, "colour", np.array([[0.9], [0.5]]))
    np.testing.assert_array_equal(found[..., 3:], images[..., 3:] / 2)
    assert (found[0, ..., :3] > images[0, ..., :3] / 2).mean() > 0.9  # brighter
    np.testing.assert_allclose(found[1], images[1] / 2, atol=1e-6)


def test_clips_are_changed_each_by_its_own_numbers(images: np.ndarray) -> None:
    numbers = np.random.default_rng(0).random((2, NUMBERS))
    both = augmented(images, "crop,flip,colour", numbers)
    for clip in (0, 1):
        alone = augmented(images[clip : clip + 1], "crop,flip,colour", numbers[clip : clip + 1])
        np.testing.assert_allclose(both[clip], alone[0], atol=1e-5)
