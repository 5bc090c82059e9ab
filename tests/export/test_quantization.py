from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
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
from violence_detection.export.litert import write_litert
from violence_detection.export.onnx import write_onnx
from violence_detection.export.openvino import write_openvino
from violence_detection.export.runtimes import open_litert, open_onnx, open_openvino, predict_clips
from violence_detection.runtime.devices import cpu_flags

FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path], Any]]] = {
    "tflite": (write_litert, open_litert),
    "onnx": (write_onnx, open_onnx),
    "xml": (write_openvino, open_openvino),
}
ONNX_INT8 = pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni"} & set(cpu_flags()),
    reason="without VNNI, ONNX Runtime's int8 products saturate at 16 bits",
)


def cases(*quantized: tuple[Any, ...]) -> list[Any]:
    """Return each case for each format."""
    return [
        pytest.param(form, *case, marks=[ONNX_INT8] if (form, case[0]) == ("onnx", "int8") else [])
        for form in FORMATS
        for case in quantized
        if (form, case[0]) != ("xml", "dynamic")
    ]


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of its weights if they are beside it."""
    weights = path.with_suffix(".bin")
    return (weights if weights.exists() else path).stat().st_size


@pytest.fixture(scope="module")
def plain_sizes(large_network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the size in bytes of the large network's file in float32, by format."""
    folder = tmp_path_factory.mktemp("plain")
    sizes = {}
    for form, (write, _) in FORMATS.items():
        write(large_network, folder / f"detector.{form}")
        sizes[form] = size_of(folder / f"detector.{form}")
    return sizes


@pytest.mark.parametrize(
    ("form", "quantize", "size", "difference"),
    cases(("float16", 0.7, 2e-3), ("dynamic", 0.6, 0.03), ("int8", 0.6, 0.03)),
)
def test_quantized_files_are_smaller_and_predict_nearly_the_same(
    form: str,
    quantize: str,
    size: float,
    difference: float,
    plain_sizes: dict[str, int],
    large_network: keras.Model,
    tmp_path: Path,
) -> None:
    write, open_file = FORMATS[form]
    path, clips = tmp_path / f"detector.{form}", feature_clips(30, LARGE_VALUES)
    write(large_network, path, quantize, calibration=clips[:24])
    assert size_of(path) < size * plain_sizes[form]
    found = predict_clips(open_file(path), clips, batch_size=8)
    assert 0 < largest_difference(found, run_network(large_network, clips)) < difference


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "quantize", "difference"),
    [("tflite", "none", 1e-4), *cases(("int8", 0.05)), ("onnx", "float16", 0.05)],
)
def test_end_to_end_files_predict_nearly_the_same(
    form: str,
    quantize: str,
    difference: float,
    end_to_end: tuple[keras.Model, keras.Model],
    tmp_path: Path,
) -> None:
    write, open_file = FORMATS[form]
    network, _ = end_to_end
    path, clips = tmp_path / f"detector.{form}", split_clips(draw_images(3, STREAMS))
    write(network, path, quantize, calibration=clips[:2])
    found = predict_clips(open_file(path), clips, batch_size=2)
    assert largest_difference(found, run_network(network, clips)) < difference
