from collections.abc import Callable
from pathlib import Path

import keras
import onnx

from tests.export.examples import (
    feature_clips,
)
from violence_detection.export.graph import FLOAT32_ONLY
from violence_detection.export.onnx import write_onnx
from violence_detection.export.runtimes import open_onnx


def test_int8_with_a_fixed_batch_quantizes_only_what_may_be(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    path, clips = tmp_path / "detector.onnx", feature_clips(7)
    write_onnx(network_of("mean"), path, "int8", batch=3, calibration=clips)
    assert open_onnx(path).batch == 3
    nodes = onnx.load(path).graph.node
    quantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    readers = [node for node in nodes if quantized & set(node.input)]
    assert readers
    assert not [node.name for node in readers if FLOAT32_ONLY in node.name]
