from typing import Any

import keras
import numpy as np
import pytest

from tests.export.examples import FRAMES, KINDS, draw_features, draw_images, make_classifier
from violence_detection.evaluation.calibration import calibrate
from violence_detection.export.graph import (
    Source,
    detector_network,
    end_to_end_network,
    float32_copy,
)
from violence_detection.models.classifier import with_attention
from violence_detection.models.vgg19 import load_vgg19_weights, vgg19


def outputs_of(model: keras.Model, inputs: Any) -> Any:
    """Return arrays; without a graph, which takes longer to trace than these few clips."""
    return keras.tree.map_structure(np.asarray, model(inputs, training=False))


@pytest.mark.parametrize(
    ("kind", "temperature"), [(kind, (0.2, 1.8)[number % 2]) for number, kind in enumerate(KINDS)]
)
def test_detector_is_the_calibrated_classifier(kind: str, temperature: float) -> None:
    model, features = make_classifier(kind), draw_features(7)
    expected = outputs_of(with_attention(model), features)
    outputs = outputs_of(detector_network(model, temperature), features)
    probabilities = calibrate(expected["violence"][:, 0], temperature)
    assert np.ptp(probabilities) > 0.05
    assert outputs["probability"].shape == (7,)
    np.testing.assert_allclose(outputs["probability"], probabilities, atol=2e-6)
    np.testing.assert_allclose(outputs["attention"], expected["attention"], atol=1e-6)


def test_probabilities_that_round_to_0_and_1_are_calibrated_as_in_the_run() -> None:
    model, features = make_classifier("mean", deviation=100.0), draw_features(40)
    raw = outputs_of(model, features)[:, 0]
    assert raw.min() == 0
    assert raw.max() == 1
    outputs = outputs_of(detector_network(model, 3.0), features)["probability"]
    np.testing.assert_allclose(outputs, calibrate(raw, 3.0), atol=2e-5)


@pytest.mark.parametrize("kind", ["bidirectional", "transformer", "ensemble"])
def test_a_classifier_trained_in_bfloat16_computes_in_float32(kind: str) -> None:
    features = draw_features(5)
    exact, rounded = (make_classifier(kind, dtype=d) for d in ("float32", "mixed_bfloat16"))
    rounded.set_weights(exact.get_weights())
    expected, approximate = (outputs_of(m, features) for m in (exact, rounded))
    assert np.abs(expected - approximate).max() > 1e-4
    np.testing.assert_allclose(outputs_of(float32_copy(rounded), features), expected, atol=1e-6)
    outputs = outputs_of(detector_network(rounded, 1.0), features)
    np.testing.assert_allclose(outputs["probability"], expected[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("streams", "dtype", "layer", "pooling"),
    [
        (("rgb",), "float16", "block1_conv1", "max"),
        (("flow", "difference"), "float16", "block1_conv1", "mean"),
        (("flow", "rgb"), "float32", "block1_pool", "mean+max"),
        (("rgb",), "float16", "block2_pool", "top"),
        (("rgb",), "float16", "block2_pool", "grid"),
    ],
)
def test_end_to_end_network_is_vgg19_and_the_detector(
    streams: tuple[str, ...], dtype: str, layer: str, pooling: str
) -> None:
    network = vgg19(layer, pooling=pooling)
    load_vgg19_weights(network, "random", layer)
    images = draw_images(2, streams)
    by_stream = [
        outputs_of(network, images[stream].reshape(-1, 224, 224, 3)).reshape(2, FRAMES, -1)
        for stream in streams
    ]
    features = np.concatenate(by_stream, axis=2).astype(dtype).astype(np.float32)
    head = detector_network(make_classifier("attention-lstm", features.shape[2]), 1.5)
    expected = outputs_of(head, features)
    source = Source(network, "vgg19", streams, range(len(streams)), dtype, pooling)
    whole = end_to_end_network(head, [source], FRAMES)
    assert {tensor.name for tensor in whole.inputs} == set(streams)
    outputs = outputs_of(whole, images)
    for name in ("probability", "attention"):
        np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)
