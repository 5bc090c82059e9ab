from collections.abc import Callable

import keras
import numpy as np
import pytest

from violence_detection.features.cache.rows import FeatureRows
from violence_detection.models.classifier import classifier, with_attention
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.predictions import predict_with_attention, violence_probabilities

CLIPS, FRAMES, VALUES = 7, 4, 6


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).random((CLIPS, FRAMES, VALUES), np.float32)


@pytest.fixture
def clips(
    features: np.ndarray, stored_features: Callable[[np.ndarray], FeatureRows]
) -> ClipFeatures:
    return ClipFeatures([stored_features(features)], range(CLIPS), np.arange(CLIPS) % 2)


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return classifier(FRAMES, VALUES, dropout=0.5, l2=0.0, units=8, projection=8)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_predictions_are_in_the_order_of_the_clips_without_padding(
    clips: ClipFeatures, features: np.ndarray, model: keras.Model, batch_size: int
) -> None:
    probabilities = violence_probabilities(model, clips, batch_size)
    assert (probabilities.shape, probabilities.dtype) == ((CLIPS,), np.float32)
    np.testing.assert_allclose(probabilities, np.asarray(model(features))[:, 0], atol=1e-6)
    assert np.ptp(probabilities) > 1e-4


def test_attention_of_each_clip_sums_to_one(clips: ClipFeatures, model: keras.Model) -> None:
    predicted = predict_with_attention(with_attention(model), clips, batch_size=4)
    expected = violence_probabilities(model, clips, 4)
    np.testing.assert_allclose(predicted.probabilities, expected, atol=1e-6)
    assert predicted.attention.shape == (CLIPS, FRAMES)
    np.testing.assert_allclose(predicted.attention.sum(axis=1), 1, atol=1e-5)
