"""A network as an OpenVINO model: `.xml`, and `.bin` with the weights beside it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from violence_detection.errors import failing_as
from violence_detection.export.inputs import Inputs
from violence_detection.export.metadata import KEY, as_text
from violence_detection.export.onnx import write_onnx


def write_openvino(
    network: keras.Model,
    path: Path,
    quantize: str = "none",
    batch: int | None = None,
    calibration: Sequence[Inputs] = (),
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write an OpenVINO model, from the network's ONNX file.

    Args:
        network: a functional model whose inputs and outputs have names.
        path: of the `.xml` file to write.
        quantize: "none": float32. "float16": weights. "int8": as `write_onnx` has it.
        batch: the fixed number of clips per call; None: any number.
        calibration: one clip each; "int8" takes the ranges of the activations from them.
        metadata: for its `rt_info`, under `KEY`.

    Raises:
        RunError: the files cannot be written.
    """
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx_path = Path(folder) / "detector.onnx"
        write_onnx(network, onnx_path, "int8" if quantize == "int8" else "none", batch, calibration)
        model = openvino.Core().read_model(onnx_path)
        if metadata is not None:
            model.set_rt_info(as_text(dict(metadata)), [KEY])
        with failing_as(path):
            openvino.save_model(model, path, compress_to_fp16=quantize == "float16")
