from collections.abc import Callable
from pathlib import Path

import keras
import onnx
import pytest

from tests.export.conftest import LARGE_VALUES
from tests.export.examples import (
    STREAMS,
    draw_images,
    feature_clips,
    largest_difference,
    run_network,
    split_clips,
)
from violence_detection.export.graph import FLOAT32_ONLY
from violence_detection.export.onnx import write_onnx
from violence_detection.export.runtimes import open_onnx, predict_clips
from violence_detection.runtime.devices import cpu_flags

needs_vnni = pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni"} & set(cpu_flags()),
    reason="without VNNI, ONNX Runtime's int8 products saturate at 16 bits",
)
int8 = pytest.param("int8", 0.6, 0.03, marks=needs_vnni)


@pytest.fixture(scope="module")
def plain(large_network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the large network's file in float32."""
    path = tmp_path_factory.mktemp("plain") / "detector.onnx"
    write_onnx(large_network, path)
    return path


@pytest.mark.parametrize(
    ("quantize", "size", "difference"), [("float16", 0.7, 2e-3), ("dynamic", 0.6, 0.03), int8]
)
def test_quantized_files_are_smaller_and_predict_nearly_the_same(
    quantize: str,
    size: float,
    difference: float,
    plain: Path,
    large_network: keras.Model,
    tmp_path: Path,
) -> None:
    path, clips = tmp_path / "detector.onnx", feature_clips(30, LARGE_VALUES)
    write_onnx(large_network, path, quantize, calibration=clips[:24])
    assert path.stat().st_size < size * plain.stat().st_size
    found = predict_clips(open_onnx(path), clips, batch_size=8)
    assert 0 < largest_difference(found, run_network(large_network, clips)) < difference


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


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", pytest.param("int8", marks=needs_vnni)])
def test_end_to_end_files_predict_nearly_the_same(
    quantize: str, end_to_end: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    network, _ = end_to_end
    path, clips = tmp_path / "detector.onnx", split_clips(draw_images(3, STREAMS))
    write_onnx(network, path, quantize, calibration=clips[:2])
    found = predict_clips(open_onnx(path), clips, batch_size=2)
    assert largest_difference(found, run_network(network, clips)) < 0.05
