import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest

from tests.export.test_graph import KINDS, draw_features, draw_images, make_classifier
from violence_detection.export.graph import FLOAT32_ONLY, detector_network, end_to_end_network
from violence_detection.export.litert import write_litert
from violence_detection.export.onnx import OPSET, write_onnx
from violence_detection.export.runtimes import (
    open_litert,
    open_onnx,
    open_saved_model,
    predict_clips,
)
from violence_detection.export.saved_model import write_saved_model
from violence_detection.models.classifier import load_vgg19_weights, vgg19

WRITERS = {"litert": write_litert, "onnx": write_onnx}
OPENERS = {"litert": open_litert, "onnx": open_onnx}
SUFFIXES = {"litert": "tflite", "onnx": "onnx"}
VALUES = 32
# Of ONNX's operations, those that NVIDIA lists for TensorRT's builder, among them all used here.
TENSORRT = frozenset(
    (
        *("Abs", "Add", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv", "DequantizeLinear"),
        *("Div", "Erf", "Exp", "Expand", "Gather", "Gemm", "GlobalAveragePool", "Identity", "Log"),
        *("MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pow", "QuantizeLinear", "Reciprocal"),
        *("ReduceMean", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Slice"),
        *("Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
    )
)


def one_each(inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the clips of a batch, one by one."""
    clips = len(next(iter(inputs.values())))
    return [{name: values[n : n + 1] for name, values in inputs.items()} for n in range(clips)]


def features_of(clips: int, values: int = VALUES) -> list[dict[str, np.ndarray]]:
    return one_each({"features": draw_features(clips, values)})


@pytest.fixture(scope="module")
def network_of() -> Callable[[str], keras.Model]:
    """Return a function that makes the network of a kind of classifier, each once."""
    made: dict[str, keras.Model] = {}

    def network(kind: str) -> keras.Model:
        if kind not in made:
            made[kind] = detector_network(make_classifier(kind), 1.5)
        return made[kind]

    return network


def largest_difference(judged: Any, expected: Any) -> float:
    """Return that of probability and attention."""
    return max(float(np.abs(a - b).max()) for a, b in zip(judged, expected, strict=True))


def own_words(network: keras.Model, clips: list[dict[str, np.ndarray]]) -> Any:
    inputs = {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}
    judged = network(inputs if len(inputs) > 1 else next(iter(inputs.values())), training=False)
    return judged["probability"].numpy(), judged["attention"].numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", WRITERS)
def test_every_head_says_the_same_in_every_runtime(
    form: str, kind: str, network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    path, clips = tmp_path / f"detector.{SUFFIXES[form]}", features_of(7)
    WRITERS[form](network_of(kind), path)
    judged = predict_clips(OPENERS[form](path), clips, batch_size=3)
    assert largest_difference(judged, own_words(network_of(kind), clips)) < 1e-5
    if form == "onnx":
        model = onnx.load(path)
        assert {node.domain for node in model.graph.node} == {""}
        assert {node.op_type for node in model.graph.node} <= TENSORRT
        assert [(o.domain, o.version) for o in model.opset_import if not o.domain] == [("", OPSET)]


@pytest.mark.parametrize(
    ("form", "quantize", "share"),
    [
        ("litert", "float16", 0.7),
        ("litert", "dynamic", 0.6),
        ("litert", "int8", 0.6),
        ("onnx", "float16", 0.7),
        ("onnx", "dynamic", 0.6),
        ("onnx", "int8", 0.6),
    ],
)
def test_quantized_files_are_smaller_and_say_nearly_the_same(
    form: str, quantize: str, share: float, tmp_path: Path
) -> None:
    values = 2048  # for the weights to be most of the file
    network = detector_network(make_classifier("attention-lstm", values), 1.5)
    plain, rounded = (tmp_path / f"{name}.{SUFFIXES[form]}" for name in ("plain", "rounded"))
    WRITERS[form](network, plain)
    calibration, clips = features_of(30, values)[:24], features_of(30, values)
    WRITERS[form](network, rounded, quantize, calibration=calibration)
    assert rounded.stat().st_size < share * plain.stat().st_size
    judged = predict_clips(OPENERS[form](rounded), clips, batch_size=8)
    difference = largest_difference(judged, own_words(network, clips))
    assert 0 < difference < (2e-3 if quantize == "float16" else 0.03)


@pytest.mark.parametrize("quantize", ["none", "float16", "dynamic", "int8"])
def test_large_weights_go_around_onnxs_converter_and_are_all_there(
    quantize: str,
    network_of: Callable[[str], keras.Model],
    tmp_path: Path,
) -> None:
    clips, network = features_of(7), network_of("attention-lstm")
    write_onnx(network, tmp_path / "usual.onnx", quantize, calibration=clips)
    write_onnx(network, tmp_path / "around.onnx", quantize, calibration=clips, large_weight=24 * 24)
    usual, around = (
        predict_clips(open_onnx(tmp_path / f"{name}.onnx"), clips, batch_size=3)
        for name in ("usual", "around")
    )
    assert largest_difference(usual, around) < 1e-5
    assert len(onnx.load(tmp_path / "around.onnx").graph.input) == 1


@pytest.mark.parametrize("quantize", ["none", "float16", "dynamic", "int8"])
@pytest.mark.parametrize("form", WRITERS)
def test_a_batch_can_be_fixed(
    form: str, quantize: str, network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    path, clips = tmp_path / f"detector.{SUFFIXES[form]}", features_of(7)
    WRITERS[form](network_of("mean"), path, quantize, batch=3, calibration=clips)
    judge = OPENERS[form](path)
    assert judge.batch == 3
    difference = largest_difference(
        predict_clips(judge, clips, batch_size=1), own_words(network_of("mean"), clips)
    )
    assert difference < 1e-5 if quantize == "none" else difference < 0.05


def test_onnx_tells_its_dimensions(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    import onnxruntime

    path = tmp_path / "detector.onnx"
    write_onnx(network_of("mean"), path)
    session = onnxruntime.InferenceSession(path)
    assert {i.name: i.shape for i in session.get_inputs()} == {"features": ["clips", 4, VALUES]}
    told = {output.name: output.shape for output in session.get_outputs()}
    assert told == {"probability": ["clips"], "attention": ["clips", 4]}


WITHOUT_THIS_PROGRAM = """
import sys
assert not any(path.endswith("main") for path in sys.path), sys.path
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
given = np.load(sys.argv[2])
for name in ("serving_default", "from_features"):
    for clips in (1, 5):
        judged = model.signatures[name](features=tf.constant(given["features"][:clips]))
        assert sorted(judged) == ["attention", "probability"]
        for output, values in judged.items():
            np.testing.assert_allclose(values, given[output][:clips], atol=1e-5)
print(sorted(model.signatures))
"""


def test_saved_model_needs_nothing_of_this_program(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    clips = features_of(5)
    network = network_of("attention-lstm")
    write_saved_model({"from_features": network}, tmp_path / "1")
    probability, attention = own_words(network, clips)
    features = np.concatenate([clip["features"] for clip in clips])
    given = {"features": features, "probability": probability, "attention": attention}
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-I", "-c", WITHOUT_THIS_PROGRAM, "1", "given.npz"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "['from_features', 'serving_default']\n"
    judged = predict_clips(open_saved_model(tmp_path / "1"), clips, batch_size=2)
    assert largest_difference(judged, (probability, attention)) < 1e-5


@pytest.fixture(scope="module")
def end_to_end() -> tuple[keras.Model, keras.Model]:
    """Return a network from images of two streams, and the one from features inside it."""
    extractor = vgg19("block1_conv2")
    load_vgg19_weights(extractor, "random", "block1_conv2")
    head = detector_network(make_classifier("attention-lstm", 2 * 64), 1.5)
    return end_to_end_network(head, extractor, ("difference", "flow"), 4, "float16"), head


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["none", "float16", "dynamic", "int8"])
@pytest.mark.parametrize("form", WRITERS)
def test_end_to_end_files_say_the_same(
    form: str, quantize: str, end_to_end: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    network, _ = end_to_end
    path = tmp_path / f"detector.{SUFFIXES[form]}"
    clips = one_each(draw_images(3, ("difference", "flow")))
    WRITERS[form](network, path, quantize, calibration=clips[:2])
    judged = predict_clips(OPENERS[form](path), clips, batch_size=2)
    difference = largest_difference(judged, own_words(network, clips))
    assert difference < (1e-4 if quantize == "none" else 0.05)
    if form == "onnx" and quantize == "none":
        model = onnx.load(path)
        casts = [node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"]
        assert onnx.TensorProto.FLOAT16 in casts  # features are rounded as in the cache
        # TensorRT takes 8 bits for nothing but the cast from them.
        readers = [n.op_type for n in model.graph.node if {"difference", "flow"} & set(n.input)]
        assert readers == ["Cast", "Cast"]


@pytest.mark.slow
def test_saved_model_has_both_beginnings(
    end_to_end: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    import tensorflow as tf

    whole, head = end_to_end
    write_saved_model({"from_images": whole, "from_features": head}, tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    images = draw_images(2, ("difference", "flow"))
    expected = own_words(whole, one_each(images))
    for name in ("serving_default", "from_images"):
        judged = signatures[name](**{key: tf.constant(value) for key, value in images.items()})
        np.testing.assert_allclose(judged["probability"], expected[0], atol=1e-5)
    features = draw_features(2, 2 * 64)
    judged = signatures["from_features"](features=tf.constant(features))
    np.testing.assert_allclose(judged["probability"], head(features)["probability"], atol=1e-5)


def test_what_is_marked_exact_is_not_quantized(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "detector.tflite"
    write_litert(network_of("mean"), path, "int8", calibration=features_of(4))
    tensors = Interpreter(str(path)).get_tensor_details()
    logarithms = [t for t in tensors if FLOAT32_ONLY in t["name"] and "Log1p" in t["name"]]
    assert {tensor["dtype"] for tensor in logarithms} == {np.float32}
    assert any(tensor["dtype"] is np.int8 for tensor in tensors)
