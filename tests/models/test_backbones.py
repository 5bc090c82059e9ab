from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from violence_detection.errors import RunError, UserError
from violence_detection.models.backbones import BODY, backbone, backbone_features, preprocessing
from violence_detection.models.extractor import build_extractor
from violence_detection.settings.constants import BACKBONES, FRAME_SIZE

SMALL = "MobileNetV3Small"
# A network of each kind of preprocessing, one of them for larger pictures.
NETWORKS = {
    SMALL: keras.applications.mobilenet_v3,
    "MobileNetV2": keras.applications.mobilenet_v2,
    "DenseNet121": keras.applications.densenet,
    "EfficientNetV2B1": keras.applications.efficientnet_v2,
}


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Return two pictures, `(2, 224, 224, 3)` uint8."""
    return np.random.default_rng(0).integers(0, 256, (2, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)


def own_network(name: str, pooling: str | None = None) -> keras.Model:
    size = BACKBONES[name]
    make = getattr(keras.applications, name)
    return make(include_top=False, weights=None, input_shape=(size, size, 3), pooling=pooling)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_keras(name: str, frames: np.ndarray) -> None:
    extractor = build_extractor(name, "last", "random")
    own = own_network(name, "avg")
    own.set_weights(extractor.get_layer(BODY).get_weights())
    resized = keras.ops.image.resize(frames.astype(np.float32), (BACKBONES[name],) * 2)
    preprocessed = NETWORKS[name].preprocess_input(np.array(resized))
    expected = own.predict(preprocessed, verbose=0)
    found = np.asarray(extractor(frames, training=False))
    assert found.shape == (2, backbone_features(name, "last", "mean"))
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_preprocessing_of_every_network_is_known(name: str) -> None:
    known = preprocessing(name)
    assert sorted(known.order) == [0, 1, 2]
    assert (known.scale > 0).all()


@pytest.mark.parametrize(("name", "order"), [("ResNet50", [2, 1, 0]), ("ResNet50V2", [0, 1, 2])])
def test_blue_comes_first_where_it_does(name: str, order: list[int]) -> None:
    assert preprocessing(name).order == order


def test_random_weights_are_the_same_each_time_and_fit_into_16_bits(frames: np.ndarray) -> None:
    one, other = (build_extractor("ResNet50V2", "last", "random")(frames) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert 0.01 < np.asarray(one).std() < 100


@pytest.mark.parametrize("name", [SMALL, "ConvNeXtTiny"])  # whose convolutions are grouped
def test_a_file_of_weights_is_loaded(name: str, frames: np.ndarray, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    own, file = own_network(name), tmp_path / "own.weights.h5"
    own.save_weights(file)
    found = build_extractor(name, "last", str(file))(frames)
    maps = np.asarray(own(frames.astype(np.float32), training=False))
    np.testing.assert_allclose(found, maps.mean(axis=(1, 2)), atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    own_network(SMALL).save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(UserError, match=r"small\.weights\.h5: not the weights of MobileNetV2"):
        build_extractor("MobileNetV2", "last", str(tmp_path / "small.weights.h5"))


def test_a_layer_is_pooled_and_an_unknown_one_named() -> None:
    assert backbone(SMALL, "conv_1", pooling="mean+max").output.shape[-1] == 2 * 576
    with pytest.raises(UserError, match="--feature-layer conv_9: MobileNetV3Small has no such"):
        backbone(SMALL, "conv_9")


def test_weights_that_cannot_be_downloaded_are_an_error_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(keras.applications, SMALL, refuse)
    with pytest.raises(RunError, match=r"cannot download those of MobileNetV3Small \(no network"):
        backbone(SMALL, "last", weights="imagenet")
