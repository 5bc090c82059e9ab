"""The networks that are trained from pixels."""

from pathlib import Path

import keras
import numpy as np
import pytest

from violence_detection.models.classifier import as_plain_keras, average_of, with_attention
from violence_detection.models.pixels import pixel_values
from violence_detection.models.video_networks import PREPARED, pixel_classifier

SIZE, FRAMES = 32, 8


def network(model: str, frames: int = FRAMES) -> keras.Model:
    """Return a small network of two streams, the same each time."""
    keras.utils.set_random_seed(0)
    return pixel_classifier(model, frames, 2, SIZE, dropout=0.0, l2=1e-4)


def clips(count: int, frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(0).integers(
        0, 256, (count, frames, 2 * pixel_values(SIZE)), np.uint8
    )


@pytest.mark.parametrize(("model", "least", "most"), [("3d", 1e6, 3e6), ("flow-gated", 2e5, 4e5)])
def test_size_is_that_of_the_published_networks(model: str, least: float, most: float) -> None:
    assert least <= network(model).count_params() <= most


@pytest.mark.parametrize("model", ["3d", "flow-gated"])
@pytest.mark.parametrize("frames", [1, 5, 16])
def test_clips_of_any_number_of_frames(model: str, frames: int) -> None:
    predicted = with_attention(network(model, frames))(clips(2, frames))
    assert predicted["violence"].shape == (2, 1)
    np.testing.assert_allclose(predicted["attention"].numpy().sum(axis=1), 1, rtol=1e-5)
    assert predicted["attention"].shape == (2, frames)


@pytest.mark.parametrize("model", ["3d", "flow-gated"])
def test_streams_and_rows_are_read_as_they_are_stored(model: str) -> None:
    """The features of a frame are its streams' pictures, one after the other, in rows."""
    trained = network(model)
    stored = clips(2)
    prepared = keras.Model(trained.input, trained.get_layer(PREPARED).output)(stored).numpy()
    pictures = stored.reshape(2, FRAMES, 2, SIZE, SIZE, 3)
    for stream in (0, 1):
        channels = prepared[..., 3 * stream : 3 * stream + 3]
        np.testing.assert_allclose(channels, pictures[:, :, stream] / 127.5 - 1, atol=1e-6)


def test_gate_closes_where_nothing_moves() -> None:
    """Of the flow-gated network, frames count only as far as the flow lets them through."""
    trained = network("flow-gated")
    flow = trained.get_layer("flow_4_time")
    kernel, bias = flow.get_weights()
    flow.set_weights([np.zeros_like(kernel), np.full_like(bias, -100)])
    predictions = trained(clips(3)).numpy()
    np.testing.assert_allclose(predictions, predictions[0, 0], atol=1e-6)


@pytest.mark.parametrize("model", ["3d", "flow-gated"])
def test_saved_ensemble_predicts_the_mean(model: str, tmp_path: Path) -> None:
    members = [as_plain_keras(network(model)) for _ in range(2)]
    members[1].set_weights([0.9 * weight for weight in members[1].get_weights()])
    average_of(members).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    stored = clips(3)
    expected = np.mean([member(stored).numpy() for member in members], axis=0)
    np.testing.assert_allclose(loaded(stored).numpy(), expected, rtol=1e-4)
