from collections.abc import Callable
from pathlib import Path

import keras
import onnx
import onnxruntime
import pytest

from tests.export.examples import (
    FRAMES,
    KINDS,
    STREAMS,
    VALUES,
    draw_images,
    feature_clips,
    largest_difference,
    run_network,
    split_clips,
)
from violence_detection.export.onnx import OPSET, write_onnx
from violence_detection.export.runtimes import open_onnx, open_openvino, predict_clips

# The ONNX operations that NVIDIA lists for TensorRT's builder, as far as they could be needed.
TENSORRT = frozenset(
    (
        *("Abs", "Add", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv", "DequantizeLinear"),
        *("Div", "Erf", "Exp", "Expand", "Gather", "Gemm", "GlobalAveragePool", "Identity", "Log"),
        *("MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pow", "QuantizeLinear", "Reciprocal"),
        *("ReduceMean", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Slice"),
        *("Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
    )
)


@pytest.mark.parametrize("kind", KINDS)
def test_file_predicts_as_the_network_with_operations_of_tensorrt(
    kind: str, network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    path, clips = tmp_path / "detector.onnx", feature_clips(7)
    write_onnx(network_of(kind), path)
    expected = run_network(network_of(kind), clips)
    for open_file in (open_onnx, open_openvino):
        found = predict_clips(open_file(path), clips, batch_size=3)
        assert largest_difference(found, expected) < 1e-5
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert {node.op_type for node in model.graph.node} <= TENSORRT
    assert [(o.domain, o.version) for o in model.opset_import if not o.domain] == [("", OPSET)]


def test_dimensions_have_names_and_sizes(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    write_onnx(network_of("mean"), tmp_path / "detector.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx")
    inputs = {value.name: value.shape for value in session.get_inputs()}
    assert inputs == {"features": ["clips", FRAMES, VALUES]}
    outputs = {value.name: value.shape for value in session.get_outputs()}
    assert outputs == {"probability": ["clips"], "attention": ["clips", FRAMES]}


def test_batch_can_be_fixed(network_of: Callable[[str], keras.Model], tmp_path: Path) -> None:
    path, clips = tmp_path / "detector.onnx", feature_clips(7)
    write_onnx(network_of("mean"), path, batch=3)
    predictor = open_onnx(path)
    assert predictor.batch == 3
    found = predict_clips(predictor, clips, batch_size=1)
    assert largest_difference(found, run_network(network_of("mean"), clips)) < 1e-5


@pytest.mark.parametrize("quantize", ["none", "dynamic"])
def test_large_weights_bypass_the_converter(
    quantize: str, network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    clips, network = feature_clips(7), network_of("attention-lstm")
    converted, bypassed = tmp_path / "converted.onnx", tmp_path / "bypassed.onnx"
    write_onnx(network, converted, quantize)
    write_onnx(network, bypassed, quantize, large_weight=24 * 24)
    outputs = [predict_clips(open_onnx(path), clips, 3) for path in (converted, bypassed)]
    assert largest_difference(*outputs) < 1e-5
    assert [value.name for value in onnx.load(bypassed).graph.input] == ["features"]


@pytest.mark.slow
def test_end_to_end_file_rounds_features_as_the_cache_and_casts_images_first(
    end_to_end: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    network, _ = end_to_end
    path, clips = tmp_path / "detector.onnx", split_clips(draw_images(3, STREAMS))
    write_onnx(network, path)
    found = predict_clips(open_onnx(path), clips, batch_size=2)
    assert largest_difference(found, run_network(network, clips)) < 1e-4
    model = onnx.load(path)
    casts = [node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"]
    assert onnx.TensorProto.FLOAT16 in casts
    # TensorRT supports uint8 only as the input of a cast.
    readers = [node.op_type for node in model.graph.node if set(STREAMS) & set(node.input)]
    assert readers == ["Cast", "Cast"]
