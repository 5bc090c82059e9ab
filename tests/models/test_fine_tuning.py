"""VGG19's upper layers in the classifier."""

import keras
import numpy as np
import pytest

from violence_detection.models.classifier import classifier
from violence_detection.models.vgg19 import build_extractor, load_vgg19_weights
from violence_detection.settings.constants import CACHED_BELOW, FINE_TUNED


@pytest.mark.parametrize("kind", [pytest.param("fc", marks=pytest.mark.slow), "block5"])
def test_untrained_they_compute_what_vgg19_does(kind: str) -> None:
    """From what is cached below them, for each stream of each frame."""
    frames, streams = 2, 2
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (frames * streams, 224, 224, 3), np.uint8)
    layer, pooling = CACHED_BELOW[kind]
    below = build_extractor(layer, "random", pooling=pooling)(images).numpy()
    expected = build_extractor(FINE_TUNED[kind][-1], "random")(images).numpy()

    values = streams * below.shape[1]
    model = classifier(
        frames, values, dropout=0.5, l2=0.0, head="mean", fine_tune=kind, streams=streams
    )
    load_vgg19_weights(model, "random", FINE_TUNED[kind][-1])
    upper = keras.Model(model.input, model.get_layer("standardize").input)
    found = upper(below.reshape(1, frames, values)).numpy()
    # The classifier takes logarithms of what VGG19 computes.
    np.testing.assert_allclose(
        found.reshape(frames * streams, -1), np.log1p(expected), rtol=1e-3, atol=1e-4
    )
