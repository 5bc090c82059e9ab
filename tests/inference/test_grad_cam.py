import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from violence_detection.inference.detector import Detector, PredictedClip
from violence_detection.inference.grad_cam import GradCam
from violence_detection.models.classifier import STANDARDIZING, classifier
from violence_detection.settings.constants import FRAME_SIZE

TIMEOUT = 60.0  # seconds


@pytest.fixture(scope="module")
def predicted(detector: Detector, drawn_clips: Path) -> list[PredictedClip]:
    paths = sorted((drawn_clips / "test" / "violent").glob("*.mp4"))
    return list(detector.predict_with_inputs(paths, TIMEOUT, with_pictures=True))


def with_classifier(detector: Detector, layer: str, values: int) -> Detector:
    """Return a detector of one stream of another layer, whose classifier has random weights."""
    keras.utils.set_random_seed(0)
    model = classifier(4, values, dropout=0.0, l2=0.0, projection=8, units=8)
    for name in STANDARDIZING:
        model.get_layer(name).finalize_state()
    recipe = dataclasses.replace(detector.recipes[1], layer=layer, features=values)
    changes = {"recipes": (recipe,), "weights": {recipe.network: "random"}}
    return dataclasses.replace(detector, classifier=model, computation="float32", **changes)


def test_heat_is_where_clips_move(detector: Detector, predicted: Sequence[PredictedClip]) -> None:
    grad_cam, difference = GradCam(detector), detector.streams.index("difference")
    heat = [grad_cam.heat_maps(clip.features, clip.clip.images, range(4)) for clip in predicted]
    assert heat[0].shape == (4, 2, FRAME_SIZE, FRAME_SIZE)
    assert np.min(heat) >= 0
    of_difference = np.stack(heat)[:, :, difference]
    moves = np.stack([clip.clip.images[difference].max(axis=3) > 20 for clip in predicted])
    assert 0.02 < moves.mean() < 0.5
    assert of_difference[moves].mean() > 1.5 * of_difference[~moves].mean()


def test_map_is_the_channels_weighted_by_their_gradients(
    detector: Detector, predicted: Sequence[PredictedClip]
) -> None:
    """The paper's equations 1 and 2, with gradients from differences."""
    small = with_classifier(detector, "block1_pool", 64)
    images = predicted[0].clip.images[1:]
    features = small.clip_features(images[np.newaxis])[0].astype(np.float32)
    frame, step = 2, 0.05
    changed = np.repeat(features[np.newaxis], 128, axis=0)
    for channel in range(64):
        changed[2 * channel, frame, channel] += step
        changed[2 * channel + 1, frame, channel] -= step
    probabilities = small.classifier.predict(changed, verbose=0)[:, 0].astype(np.float64)
    logits = np.log(probabilities / (1 - probabilities))
    gradients = (logits[::2] - logits[1::2]) / (2 * step)
    network = small.make_extractor(small.recipes[0])
    channels = keras.Model(network.input, network.get_layer("block1_pool").output)
    activations = channels.predict(images[0, frame : frame + 1], verbose=0)[0]
    expected = np.maximum(0, activations @ gradients) / activations[..., 0].size
    (heat,) = GradCam(small).heat_maps(features, images, [frame])[0]
    expected = cv2.resize(expected, (FRAME_SIZE, FRAME_SIZE))
    np.testing.assert_allclose(heat, expected, atol=0.02 * expected.max())


def test_layer_without_a_map_is_explained_by_the_last_convolution(
    detector: Detector, predicted: Sequence[PredictedClip]
) -> None:
    images = predicted[0].clip.images[1:]
    deep = with_classifier(detector, "flatten", 25088)
    features = deep.clip_features(images[np.newaxis])[0]
    heat = GradCam(deep).heat_maps(features, images, [3])
    assert heat.shape == (1, 1, FRAME_SIZE, FRAME_SIZE)
    assert heat.max() > 0
