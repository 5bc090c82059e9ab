import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from violence_detection.clips.frames import read_frames
from violence_detection.errors import UserError
from violence_detection.models.classifier import (
    OneProductLSTM,
    as_plain_keras,
    classifier,
    feature_size,
    identify_weights,
    layers_with_weights,
    load_vgg19_weights,
    vgg19,
    with_attention,
)
from violence_detection.settings.constants import HEADS, VGG19_LAYERS
from violence_detection.training.trainer import standardize_on


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


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-4), ("float16", 4e-3), ("bfloat16", 3e-2)]
)
def test_real_features_are_those_of_keras(
    real_clips: Path, real_weights: Path, dtype: str, tolerance: float
) -> None:
    frames = read_frames(sorted(real_clips.glob("val/violent/*.mp4"))[0], 4)
    plain = vgg19("block3_pool")
    load_vgg19_weights(plain, str(real_weights), "block3_pool")
    expected = keras_features(plain, "block3_pool", frames)
    model = vgg19("block3_pool", dtype)
    load_vgg19_weights(model, str(real_weights), "block3_pool")
    found = model.predict(frames, verbose=0)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.slow
def test_fc2_features_are_those_of_keras() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    model = vgg19("fc2")
    load_vgg19_weights(model, "random", "fc2")
    found = model.predict(frames, verbose=0)
    assert found.shape == (2, 4096)
    expected = keras_features(model, "fc2", frames, top=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


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
        ({}, ["block1_conv1", "not in it"]),
        ({"block1_conv1": (3, 3, 3, 64)}, ["block1_conv2", "not in it"]),
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


def test_weights_that_are_no_hdf5(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"PK" * 100)
    with pytest.raises(UserError, match="not an HDF5 file"):
        identify_weights(str(tmp_path / "weights.h5"), "fc2")


def test_only_the_layers_needed_must_be_in_the_file(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.h5", {"block1_conv1": (3, 3, 3, 64)})
    assert identify_weights(str(path), "block1_conv1").startswith("md5-")


def test_classifier_has_about_two_million_parameters_at_fc2() -> None:
    model = classifier(16, 4096, dropout=0.5, l2=1e-4)
    assert 1.8e6 < model.count_params() < 2.2e6


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_probability_and_attention_by_name(dtype: str, head: str) -> None:
    model = classifier(16, 32, dropout=0.5, l2=1e-4, head=head, dtype=dtype)
    clips = np.random.default_rng(0).random((3, 16, 32), dtype=np.float32)
    outputs = with_attention(model)(clips.astype(np.float16))
    violence, attention = (np.asarray(outputs[name]) for name in ("violence", "attention"))
    assert violence.shape == (3, 1)
    assert violence.dtype == np.float32
    assert ((violence > 0) & (violence < 1)).all()
    assert attention.shape == (3, 16)
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-5)


def test_saved_classifier_loads_without_this_program(tmp_path: Path) -> None:
    model = classifier(4, 8, dropout=0.5, l2=1e-4, head="bidirectional")
    clips = np.random.default_rng(0).random((5, 4, 8), dtype=np.float32)
    standardize_on(model, tf.data.Dataset.from_tensors(3 * clips + 1))
    as_plain_keras(model).save(tmp_path / "model.keras")
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1], safe_mode=True)\n"
        "np.save(sys.argv[2], model(np.load(sys.argv[2])))\n"
    )
    values = tmp_path / "values.npy"
    np.save(values, clips)
    command = [sys.executable, "-c", script, str(tmp_path / "model.keras"), str(values)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(values), model(clips), rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_every_head_is_the_same_when_it_was_saved(tmp_path: Path, head: str, dtype: str) -> None:
    keras.utils.set_random_seed(0)
    model = classifier(6, 8, dropout=0.5, l2=1e-4, head=head, dtype=dtype, projection=16, units=16)
    clips = np.random.default_rng(0).random((5, 6, 8), dtype=np.float32)
    standardize_on(model, tf.data.Dataset.from_tensors(clips))
    as_plain_keras(model).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    expected, found = (np.asarray(network(clips)) for network in (model, loaded))
    assert np.ptp(expected) > 1e-3  # the clips are told apart
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("head", HEADS)
def test_order_of_the_frames_matters_but_for_the_mean(head: str) -> None:
    keras.utils.set_random_seed(0)
    model = classifier(6, 8, dropout=0.5, l2=0.0, head=head, projection=16, units=16)
    # Each value's logarithm grows evenly, so that the changes are the same in reverse.
    slopes = np.random.default_rng(0).random((9, 1, 8), dtype=np.float32)
    clips = np.expm1(slopes * np.arange(6, dtype=np.float32)[:, None])
    forward, backward = np.asarray(model(clips)), np.asarray(model(clips[:, ::-1]))
    assert np.allclose(forward, backward, atol=1e-5) == (head == "mean")


@pytest.mark.parametrize("head", HEADS)
def test_one_frame_a_clip_is_enough_for_every_head(head: str) -> None:
    clips = np.random.default_rng(0).random((3, 1, 8), dtype=np.float32)
    assert classifier(1, 8, dropout=0.5, l2=0.0, head=head)(clips).shape == (3, 1)


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_lstm_is_that_of_keras_forward_and_backward(steps: int, dtype: str) -> None:
    clips = tf.random.stateless_normal((3, steps, 5), seed=(1, 2))
    results = []
    for kind in (OneProductLSTM, keras.layers.LSTM):
        layer = kind(4, return_sequences=True, use_cudnn=False, dtype=dtype)
        layer.build(clips.shape)
        weights = np.random.default_rng(0)
        layer.set_weights([weights.standard_normal(w.shape) for w in layer.get_weights()])
        with tf.GradientTape() as tape:
            tape.watch(clips)
            states = layer(clips)
            total = tf.reduce_sum(tf.cast(states, tf.float32) ** 2)
        wanted = [clips, *(weight.value for weight in layer.trainable_variables)]
        results.append([states, *tape.gradient(total, wanted)])
    tolerance = 1e-5 if dtype == "float32" else 0.1
    for ours, theirs in zip(*results, strict=True):
        ours, theirs = (np.asarray(values, np.float32) for values in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_lstm_with_a_mask_is_that_of_keras() -> None:
    clips = np.random.default_rng(0).standard_normal((3, 6, 5), dtype=np.float32)
    mask = np.arange(6) < np.array([[6], [2], [4]])
    ours, theirs = (
        OneProductLSTM(4, return_sequences=True),
        keras.layers.LSTM(4, return_sequences=True),
    )
    ours.build(clips.shape)
    theirs.build(clips.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(clips, mask=mask), theirs(clips, mask=mask), rtol=1e-5)
