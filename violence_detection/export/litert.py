"""A network as a LiteRT file (.tflite), in float32 or quantized."""

import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from violence_detection.errors import failing_as
from violence_detection.export.graph import FLOAT32_ONLY
from violence_detection.export.inputs import Inputs, batches
from violence_detection.export.saved_model import DEFAULT_SIGNATURE, write_saved_model

# Operations of a layer normalization, LiteRT's names: 8 bits cannot represent a variance.
FLOAT32_OPS = ("MEAN", "SQUARED_DIFFERENCE", "RSQRT")


def write_litert(
    network: keras.Model,
    path: Path,
    quantize: str = "none",
    batch: int = 1,
    calibration: Sequence[Inputs] = (),
) -> None:
    """Write a LiteRT file of built-in operations, with the default signature.

    Inputs and outputs keep their dtypes, whatever is quantized.

    Args:
        network: a functional model whose inputs and outputs have names.
        path: the file to write.
        quantize: "none": float32. "float16": weights. "dynamic": weights in int8, activations
            when they are computed. "int8": weights and activations, except operations with
            `FLOAT32_ONLY` in their names.
        batch: the fixed number of clips per call.
        calibration: one clip each; "int8" takes the ranges of the activations from them.

    Raises:
        RunError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter warns of its own use of an old interpreter
        saved = Path(folder) / "saved_model"
        write_saved_model({DEFAULT_SIGNATURE: network}, saved, batch)
        make_converter = partial(
            tf.lite.TFLiteConverter.from_saved_model,
            str(saved),
            signature_keys=[DEFAULT_SIGNATURE],
        )
        converter = make_converter()
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = partial(batches, calibration, batch)
            unquantized = make_converter().convert()
            content = _convert_to_int8(converter, _float32_tensors(unquantized))
        else:
            content = converter.convert()
    with failing_as(path):
        path.write_bytes(content)


def _float32_tensors(content: bytes) -> list[str]:
    """Return the names of the tensors in a .tflite file that stay in float32."""
    from ai_edge_litert.interpreter import Interpreter

    tensors = Interpreter(model_content=content).get_tensor_details()
    return [tensor["name"] for tensor in tensors if FLOAT32_ONLY in tensor["name"]]


def _convert_to_int8(converter: tf.lite.TFLiteConverter, float32_tensors: Sequence[str]) -> bytes:
    # The converter cannot exclude operations; the debugger calibrates in the same way and can.
    quantizer = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=list(float32_tensors), denylisted_ops=list(FLOAT32_OPS)
        ),
    )
    return quantizer.get_nondebug_quantized_model()
