from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from violence_detection.clips.frames import read_frames
from violence_detection.errors import UserError
from violence_detection.models.pooling import pooled
from violence_detection.models.vgg19 import load_vgg19_weights, vgg19
from violence_detection.models.vgg19_weights import (
    feature_size,
    identify_weights,
    layers_with_weights,
)
from violence_detection.settings.constants import VGG19_LAYERS


def keras_features(
    ours: keras.Model, feature_layer: str, frames: np.ndarray, top: bool = False
) -> np.ndarray:
    """Return what keras.applications.VGG19 gives in float32 with the kernels of `ours`."""
    theirs = keras.applications.VGG19(weights=None, include_top=top)
    for name in layers_with_weights(feature_layer):
        theirs.get_layer(name).set_weights(ours.get_layer(name).get_weights())
    inputs = keras.applications.vgg19.preprocess_input(frames.astype(np.float32))
    cut = keras.Model(theirs.input, theirs.get_layer(feature_layer).output)
    values = cut.predict(inputs, verbose=0)
    return values.mean(axis=(1, 2)) if values.ndim == 4 else values


def test_real_features_are_those_of_keras(real_clips: Path, real_weights: Path) -> None:
    frames = read_frames(sorted(real_clips.glob("val/violent/*.mp4"))[0], 4)
    plain = vgg19("block3_pool")
    load_vgg19_weights(plain, str(real_weights), "block3_pool")
    expected = keras_features(plain, "block3_pool", frames)
    for dtype, tolerance in (("float32", 1e-4), ("float16", 4e-3), ("bfloat16", 3e-2)):
        model = vgg19("block3_pool", dtype)
        load_vgg19_weights(model, str(real_weights), "block3_pool")
        found = model.predict(frames, verbose=0)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max(), dtype


@pytest.mark.slow
def test_fc2_features_are_those_of_keras() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    model = vgg19("fc2")
    load_vgg19_weights(model, "random", "fc2")
    found = model.predict(frames, verbose=0)
    assert found.shape == (1, 4096)
    expected = keras_features(model, "fc2", frames, top=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [2.0, 50.0]),
        ("max", [19.0, 50.0]),
        ("top", [18.0, 50.0]),
        ("mean+max", [2.0, 50.0, 19.0, 50.0]),
        ("grid", [41 / 9, 50.0, 14 / 9, 50.0, 0.0, 50.0, 0.0, 50.0]),
    ],
)
def test_maps_are_pooled(pooling: str, expected: list[float]) -> None:
    """One channel is active in the upper left corner, the other everywhere."""
    maps = np.full((1, 5, 5, 2), 50, np.float32)
    maps[..., 0] = 0
    maps[0, 0, :2, 0] = 17, 19
    maps[0, 0, 2, 0] = 5
    maps[0, 0, 4, 0] = 4
    maps[0, 1, 3, 0] = 5
    ours = vgg19("block5_pool", pooling=pooling)
    assert ours.output.shape == (None, feature_size("block5_pool", pooling))
    (found,) = np.asarray(pooled(maps, pooling))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("layer", ["block1_conv1", "block2_pool", "block5_pool"])
def test_nothing_above_the_layer_is_built(layer: str) -> None:
    model = vgg19(layer)
    built = [item.name for item in model.layers if item.name in VGG19_LAYERS]
    assert built == list(VGG19_LAYERS[: VGG19_LAYERS.index(layer) + 1])
    assert model.output.shape == (None, feature_size(layer))


def test_random_weights_are_the_same_whatever_is_built() -> None:
    low, high = vgg19("block1_conv1"), vgg19("block2_conv1")
    load_vgg19_weights(low, "random", "block1_conv1")
    load_vgg19_weights(high, "random", "block2_conv1")
    for ours, theirs in zip(
        low.get_layer("block1_conv1").get_weights(),
        high.get_layer("block1_conv1").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def write_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write a weights file in Keras's old layout."""
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
            group["kernel:0"] = np.zeros(shape, np.float32)
            group["bias:0"] = np.zeros(shape[-1:], np.float32)
    return path


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, ["block1_conv1", "is missing"]),
        ({"block1_conv1": (3, 3, 3, 64)}, ["block1_conv2", "is missing"]),
        (
            {"block1_conv1": (3, 3, 1, 64), "block1_conv2": (3, 3, 64, 64)},
            ["block1_conv1", "1, 64"],
        ),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: list[str]
) -> None:
    path = write_weights(tmp_path / "weights.h5", shapes)
    with pytest.raises(UserError) as error:
        identify_weights(str(path), "block1_pool")
    assert all(word in str(error.value) for word in [str(path), *words])


def test_weights_that_are_not_hdf5(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"PK" * 100)
    with pytest.raises(UserError, match="not an HDF5 file"):
        identify_weights(str(tmp_path / "weights.h5"), "fc2")


def test_only_the_layers_needed_must_be_in_the_file(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.h5", {"block1_conv1": (3, 3, 3, 64)})
    assert identify_weights(str(path), "block1_conv1").startswith("md5-")
