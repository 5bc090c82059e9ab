import keras
import numpy as np
import pytest

from violence_detection.evaluation.calibration import calibrate
from violence_detection.export.graph import detector_network, end_to_end_network, float32_copy
from violence_detection.models.classifier import (
    STANDARDIZING,
    as_plain_keras,
    average_of,
    classifier,
    load_vgg19_weights,
    vgg19,
    with_attention,
)
from violence_detection.settings.constants import HEADS

FRAMES, VALUES = 4, 32
KINDS = (*HEADS, "ensemble")


def make_classifier(
    kind: str, values: int = VALUES, dtype: str = "float32", deviation: float = 1.0
) -> keras.Model:
    """Return a classifier as a run saves it, its weights drawn; its logits are of a deviation."""
    if kind == "ensemble":
        return average_of(
            [make_classifier(head, values, dtype) for head in ("attention-lstm", "transformer")]
        )
    keras.utils.set_random_seed(HEADS.index(kind))
    model = classifier(
        FRAMES, values, dropout=0.5, l2=1e-2, head=kind, dtype=dtype, projection=24, units=24
    )
    random = np.random.default_rng(0)
    for name in STANDARDIZING:
        layer = model.get_layer(name)
        mean, variance, count = layer.get_weights()
        drawn = (random.uniform(0.2, 1, part.shape) for part in (mean, variance))
        layer.set_weights([*drawn, count])
        layer.finalize_state()
    last = model.get_layer("logit")
    logits = keras.Model(model.input, last.output).predict(draw_features(40, values), verbose=0)
    factor = deviation / logits.std()
    last.set_weights([factor * last.get_weights()[0], -factor * logits.mean(axis=0)])
    return as_plain_keras(model)


def draw_features(clips: int, values: int = VALUES) -> np.ndarray:
    """Return `(clips, frames, values)` float32 as VGG19 gives them: a few are far larger."""
    random = np.random.default_rng(1)
    features = np.exp(random.normal(0, 2, (clips, FRAMES, values)))
    return (features * (random.random(features.shape) < 0.5)).astype(np.float16).astype(np.float32)


def draw_images(clips: int, streams: tuple[str, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    shape = (clips, FRAMES, 224, 224, 3)
    return {stream: random.integers(0, 256, shape, np.uint8) for stream in streams}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.2, 1.8])
def test_detector_says_what_classifier_and_temperature_say(kind: str, temperature: float) -> None:
    model, features = make_classifier(kind), draw_features(7)
    expected = with_attention(model).predict(features, verbose=0)
    judged = detector_network(model, temperature).predict(features, verbose=0)
    probabilities = calibrate(expected["violence"][:, 0], temperature)
    assert np.ptp(probabilities) > 0.05
    assert judged["probability"].shape == (7,)
    np.testing.assert_allclose(judged["probability"], probabilities, atol=2e-6)
    np.testing.assert_allclose(judged["attention"], expected["attention"], atol=1e-6)


def test_probabilities_that_round_to_0_and_1_are_calibrated_as_in_the_run() -> None:
    model, features = make_classifier("mean", deviation=100.0), draw_features(40)
    raw = model.predict(features, verbose=0)[:, 0]
    assert raw.min() == 0
    assert raw.max() == 1
    judged = detector_network(model, 3.0).predict(features, verbose=0)["probability"]
    np.testing.assert_allclose(judged, calibrate(raw, 3.0), atol=2e-5)


@pytest.mark.parametrize("kind", ["bidirectional", "transformer", "ensemble"])
def test_what_was_trained_in_fewer_bits_is_computed_in_float32(kind: str) -> None:
    features = draw_features(5)
    exact, rough = (make_classifier(kind, dtype=d) for d in ("float32", "mixed_bfloat16"))
    rough.set_weights(exact.get_weights())
    expected, rounded = (m.predict(features, verbose=0) for m in (exact, rough))
    assert np.abs(expected - rounded).max() > 1e-4
    np.testing.assert_allclose(
        float32_copy(rough).predict(features, verbose=0), expected, atol=1e-6
    )
    judged = detector_network(rough, 1.0).predict(features, verbose=0)
    np.testing.assert_allclose(judged["probability"], expected[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("streams", "dtype", "layer"),
    [
        (("rgb",), "float16", "block1_conv1"),
        (("flow", "difference"), "float16", "block1_conv1"),
        (("flow", "rgb"), "float32", "block1_pool"),
    ],
)
def test_end_to_end_says_what_its_parts_say(
    streams: tuple[str, ...], dtype: str, layer: str
) -> None:
    network = vgg19(layer)
    load_vgg19_weights(network, "random", layer)
    images = draw_images(2, streams)
    by_stream = [
        network.predict(images[stream].reshape(-1, 224, 224, 3), verbose=0).reshape(2, FRAMES, -1)
        for stream in streams
    ]
    features = np.concatenate(by_stream, axis=2).astype(dtype).astype(np.float32)
    head = detector_network(make_classifier("attention-lstm", features.shape[2]), 1.5)
    expected = head.predict(features, verbose=0)
    whole = end_to_end_network(head, network, streams, FRAMES, dtype)
    assert {tensor.name for tensor in whole.inputs} == set(streams)
    judged = whole.predict(images, verbose=0)
    for name in ("probability", "attention"):
        np.testing.assert_allclose(judged[name], expected[name], atol=1e-5)
