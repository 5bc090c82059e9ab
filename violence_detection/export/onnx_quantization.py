"""ONNX models in fewer bits: float16, int8 weights, int8 weights and activations.

Nodes with `FLOAT32_ONLY` in their names stay in float32, and so do inputs and outputs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.export.graph import FLOAT32_ONLY
from violence_detection.export.inputs import Inputs

QUANTIZED_OPS = ("Conv", "MatMul", "Gemm")
CALIBRATION_PERCENTILE = 99.99  # of the absolute values; larger ones saturate


def to_float16(model: Any) -> Any:
    """Return an `onnx.ModelProto` with weights and activations in float16."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"],
        node_block_list=_float32_nodes(model),
    )
    OnnxModel(converted).topological_sort()
    return converted


def write_dynamic(model: Any, path: Path) -> None:
    """Write an `onnx.ModelProto` with the weights of dense layers in int8.

    Convolutions stay in float32: ONNX Runtime takes four times as long for them in int8.
    """
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=_float32_nodes(model),
        per_channel=True,
        extra_options={"MatMulConstBOnly": True},
    )


def write_int8(model: Any, path: Path, calibration: Sequence[Inputs]) -> None:
    """Write an `onnx.ModelProto` with weights and activations in int8, symmetric around 0.

    Quantization is expressed as pairs of QuantizeLinear and DequantizeLinear, which TensorRT
    reads.

    Args:
        model: in float32.
        path: the file to write.
        calibration: batches; the ranges of the activations are taken from them.
    """
    from onnxruntime import quantization

    class FirstBatch(quantization.CalibrationDataReader):
        """One batch: ONNX Runtime requires some, but the ranges are given below."""

        remaining = iter(calibration[:1])

        def get_next(self) -> Inputs | None:
            return next(self.remaining, None)

    ranges = {
        name: [{"rmin": np.array(-largest, np.float32), "rmax": np.array(largest, np.float32)}]
        for name, largest in _activation_ranges(model, calibration).items()
    }
    quantization.quantize_static(
        model,
        path,
        FirstBatch(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTIZED_OPS),
        nodes_to_exclude=[n.name for n in model.graph.node if not _is_quantized(model, n)],
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            # A result is quantized only where it enters the next product.
            "OpTypesToExcludeOutputQuantization": list(QUANTIZED_OPS),
            "TensorQuantOverrides": ranges,
        },
    )


def _activation_ranges(model: Any, calibration: Sequence[Inputs]) -> dict[str, float]:
    """Return the largest absolute value to represent, by the name of each product's input.

    It is the largest over the batches of a percentile: a range that covers the rare outliers would
    cost all other values precision.
    """
    import onnx
    import onnxruntime

    names = {node.input[0] for node in model.graph.node if _is_quantized(model, node)}
    with_activations = onnx.ModelProto()
    with_activations.CopyFrom(model)
    for name in names - {value.name for value in model.graph.input}:
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        with_activations.graph.output.append(output)
    session = onnxruntime.InferenceSession(with_activations.SerializeToString())
    largest = dict.fromkeys(names, 0.0)
    for batch in calibration:
        activations = session.run(list(largest), dict(batch))
        for name, values in zip(largest, activations, strict=True):
            percentile = float(np.percentile(np.abs(values), CALIBRATION_PERCENTILE))
            largest[name] = max(largest[name], percentile)
    return largest


def _is_quantized(model: Any, node: Any) -> bool:
    """Return whether a node is a product with constant weights that may be quantized."""
    constants = {constant.name for constant in model.graph.initializer}
    return (
        node.op_type in QUANTIZED_OPS
        and FLOAT32_ONLY not in node.name
        and node.input[1] in constants
    )


def _float32_nodes(model: Any) -> list[str]:
    return [node.name for node in model.graph.node if FLOAT32_ONLY in node.name]
