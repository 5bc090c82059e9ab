"""A network, written in the formats of other runtimes: SavedModel, LiteRT, ONNX."""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from violence_detection.errors import failing_as
from violence_detection.export.graph import EXACT
from violence_detection.export.validation_clips import Inputs

DEFAULT_SIGNATURE = "serving_default"  # what TensorFlow Serving takes if no name is given
OPSET = 17  # of ONNX: TensorRT has it from 8.6 on, and nothing here needs a later one
CLIPS = "clips"  # the first dimension's name, where it is not fixed
NORMALIZING = ("MEAN", "SQUARED_DIFFERENCE", "RSQRT")  # in LiteRT's: 8 bits hold no variance
PRODUCTS = ("Conv", "MatMul", "Gemm")  # in ONNX's words: what is worth rounding
LARGE = 2**22  # values of a weight: 16 MB
WITHIN_RANGE = 99.99  # percent of the values that a range in 8 bits is to hold


def write_saved_model(
    networks: Mapping[str, keras.Model], folder: Path, batch: int | None = None
) -> None:
    """Write a SavedModel with a signature of each network's name; the first is the default, too.

    Args:
        networks: functional models whose inputs and outputs have names.
        folder: must not be there yet.
        batch: clips at once; None: any number.

    Raises:
        RunError: it cannot be written.
    """
    module = tf.Module()
    # Keras's own export would write every weight twice.
    module.weights = [weight.value for network in networks.values() for weight in network.weights]
    functions = {
        name: tf.function(_function(network), input_signature=_specs(network, batch))
        for name, network in networks.items()
    }
    signatures = {DEFAULT_SIGNATURE: next(iter(functions.values())), **functions}
    with failing_as(folder):
        try:
            tf.saved_model.save(module, str(folder), signatures)
        except tf.errors.OpError as error:
            raise OSError(error.message) from error


def write_litert(
    network: keras.Model,
    path: Path,
    quantize: str = "none",
    batch: int = 1,
    calibration: Sequence[Inputs] = (),
) -> None:
    """Write a LiteRT file (.tflite) of built-in operations, with the default signature.

    Args:
        network: a functional model whose inputs and outputs have names.
        quantize: "none"; "float16": weights in 16 bits; "dynamic": weights in 8 bits, activations
            rounded as they come; "int8": both in 8 bits, but for what has `EXACT` in its name.
            Inputs and outputs stay as they are.
        batch: clips at once, always.
        calibration: clips, one each, that "int8" tells ranges from.

    Raises:
        RunError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow, of its own use of its old interpreter
        saved = Path(folder) / "saved_model"
        write_saved_model({DEFAULT_SIGNATURE: network}, saved, batch)
        convert = partial(
            tf.lite.TFLiteConverter.from_saved_model,
            str(saved),
            signature_keys=[DEFAULT_SIGNATURE],
        )
        converter = convert()
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = partial(_in_batches, calibration, batch)
            content = _int8_litert(converter, exact=_exact_tensors(convert().convert()))
        else:
            content = converter.convert()
    with failing_as(path):
        path.write_bytes(content)


def _exact_tensors(content: bytes) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    tensors = Interpreter(model_content=content).get_tensor_details()
    return [tensor["name"] for tensor in tensors if EXACT in tensor["name"]]


def _int8_litert(converter: tf.lite.TFLiteConverter, exact: Sequence[str]) -> bytes:
    # The converter itself knows no exceptions. This does, and it calibrates the same way.
    quantizer = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=list(exact), denylisted_ops=list(NORMALIZING)
        ),
    )
    return quantizer.get_nondebug_quantized_model()


def write_onnx(
    network: keras.Model,
    path: Path,
    quantize: str = "none",
    batch: int | None = None,
    calibration: Sequence[Inputs] = (),
) -> None:
    """Write an ONNX file of standard operations.

    Args:
        network: a functional model whose inputs and outputs have names.
        quantize: "none"; "float16": weights and activations; "dynamic": weights in 8 bits,
            activations rounded as they come, of dense layers only; "int8": both in 8 bits around
            0, as pairs of QuantizeLinear and DequantizeLinear, which TensorRT reads. What has
            `EXACT` in its name stays in float32, and inputs and outputs as they are.
        batch: clips at once; None: any number.
        calibration: clips, one each, that "int8" tells ranges from.

    Raises:
        RunError: it cannot be written.
    """
    import onnx

    model = _as_onnx(network, batch)
    if quantize == "float16":
        model = _float16_onnx(model)
    with failing_as(path):
        if quantize == "dynamic":
            _write_dynamic_onnx(model, path)
        elif quantize == "int8":
            _write_int8_onnx(model, path, list(_in_batches(calibration, batch or 1)))
        else:
            onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def _as_onnx(network: keras.Model, batch: int | None) -> Any:
    """Return the network as ONNX's own message, in float32."""
    import onnx

    specs = _specs(network, batch)
    # These go around the converter: it copies the weights that it sees two dozen times.
    kernels = [weight for weight in network.weights if math.prod(weight.shape) > LARGE]
    names = [f"kernel_{number}" for number, _ in enumerate(kernels, start=1)]
    kernel_specs = [
        tf.TensorSpec(kernel.shape, kernel.dtype, name)
        for kernel, name in zip(kernels, names, strict=True)
    ]
    judge = _function(network)

    def judge_with_kernels(*given: tf.Tensor) -> dict[str, tf.Tensor]:
        handed_in = zip(kernels, given[len(specs) :], strict=True)
        with keras.StatelessScope(state_mapping=list(handed_in)):
            return judge(*given[: len(specs)])

    model = _converted(tf.function(judge_with_kernels, input_signature=[*specs, *kernel_specs]))
    for kernel, name in zip(kernels, names, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(kernel.numpy(), name))
    inputs = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    shapes = {tensor.name: tensor.shape for tensor in network.inputs}
    shapes |= {name: tensor.shape for name, tensor in network.output.items()}
    for value in (*model.graph.input, *model.graph.output):  # the converter makes up names
        sizes = value.type.tensor_type.shape.dim
        for size, known in zip(sizes, (batch or CLIPS, *shapes[value.name][1:]), strict=True):
            size.CopyFrom(onnx.TensorShapeProto.Dimension(**{_kind_of(known): known}))
    _produce_constant_outputs(model)
    return model


def _converted(function: Any) -> Any:
    """Return a `tf.function` of one signature as ONNX's message."""
    from tf2onnx import convert, optimizer, tf_loader, tfonnx

    concrete = function.get_concrete_function()
    names = {
        "input_names": [t.name for t in concrete.inputs if t.dtype != tf.resource],
        "output_names": [t.name for t in concrete.outputs],
    }
    frozen = tf_loader.from_function(concrete, **names)
    # Step by step: in one, `tf2onnx.convert` would copy all for each of its optimizers.
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        converted = tfonnx.process_tf_graph(
            graph,
            opset=OPSET,
            custom_op_handlers={
                "Log1p": (_log1p, []),
                "Erfc": (_erfc, []),
                "ReverseV2": (_reverse, []),
            },
            tensors_to_rename=convert.tensor_names_from_structed(concrete, **names),
            **names,
        )
        return optimizer.optimize_graph(converted, catch_errors=False).make_model("detector")


def _kind_of(size: int | str) -> str:
    return "dim_value" if isinstance(size, int) else "dim_param"


def _produce_constant_outputs(model: Any) -> None:
    """Let an operation give each output that is the same for all clips, as runtimes expect it."""
    import onnx

    outputs = {output.name for output in model.graph.output}
    for constant in model.graph.initializer:
        if constant.name in outputs:
            name, constant.name = constant.name, f"{EXACT}_{constant.name}"
            for node in model.graph.node:
                node.input[:] = [constant.name if put == name else put for put in node.input]
            node = onnx.helper.make_node("Identity", [constant.name], [name], f"{EXACT}_{name}")
            model.graph.node.append(node)


# What the converter lacks, or writes in a way that TensorRT does not take. Each changes a node of
# TensorFlow's into ONNX's own; the signature is the converter's.


def _log1p(context: Any, node: Any, name: str, arguments: Any) -> None:
    one = context.make_const(f"{name}_one", np.ones((), np.float32))
    context.insert_new_node_on_input(node, "Add", [node.input[0], one.output[0]])
    node.type, node.domain = "Log", ""


def _erfc(context: Any, node: Any, name: str, arguments: Any) -> None:
    one = context.make_const(f"{name}_one", np.ones((), np.float32))
    erf = context.make_node("Erf", [node.input[0]])
    context.replace_inputs(node, [one.output[0], erf.output[0]])
    node.type, node.domain = "Sub", ""


def _reverse(context: Any, node: Any, name: str, arguments: Any) -> None:
    (axis,) = node.inputs[1].get_tensor_value()
    whole = {"starts": -1, "ends": np.iinfo(np.int64).min, "axes": axis, "steps": -1}
    order = [
        context.make_const(f"{name}_{part}", np.array([value], np.int64)).output[0]
        for part, value in whole.items()
    ]
    context.replace_inputs(node, [node.input[0], *order])
    node.type, node.domain = "Slice", ""


def _float16_onnx(model: Any) -> Any:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"],
        node_block_list=_exact_nodes(model),
    )
    OnnxModel(converted).topological_sort()
    return converted


def _write_dynamic_onnx(model: Any, path: Path) -> None:
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],  # convolutions would be four times slower
        nodes_to_exclude=_exact_nodes(model),
        per_channel=True,
        extra_options={"MatMulConstBOnly": True},
    )


def _write_int8_onnx(model: Any, path: Path, clips: Sequence[dict[str, np.ndarray]]) -> None:
    from onnxruntime import quantization

    class FirstClips(quantization.CalibrationDataReader):
        """It takes ranges from these as well; those that count are handed over."""

        left = iter(clips[:1])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    ranges = {
        name: [{"rmin": -largest, "rmax": largest}]
        for name, largest in _largest_inputs(model, clips).items()
    }
    quantization.quantize_static(
        model,
        path,
        FirstClips(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(PRODUCTS),
        nodes_to_exclude=[n.name for n in model.graph.node if not _is_rounded(model, n)],
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            # A result is rounded only where it goes into the next product.
            "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
            "TensorQuantOverrides": ranges,
        },
    )


def _largest_inputs(model: Any, clips: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return what goes into the products with weights, and how large it is but for the odd value.

    The largest over the clips of a percentile: to hold the odd value, all others would lose bits.
    """
    import onnx
    import onnxruntime

    names = {node.input[0] for node in model.graph.node if _is_rounded(model, node)}
    telling = onnx.ModelProto()
    telling.CopyFrom(model)
    for name in names - {given.name for given in model.graph.input}:
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        telling.graph.output.append(output)
    session = onnxruntime.InferenceSession(telling.SerializeToString())
    largest = dict.fromkeys(names, 0.0)
    for clip in clips:
        for name, values in zip(largest, session.run(list(largest), clip), strict=True):
            within = float(np.percentile(np.abs(values), WITHIN_RANGE))
            largest[name] = max(largest[name], within)
    return {name: np.array(value, np.float32) for name, value in largest.items()}


def _is_rounded(model: Any, node: Any) -> bool:
    weights = {constant.name for constant in model.graph.initializer}
    return node.op_type in PRODUCTS and EXACT not in node.name and node.input[1] in weights


def _exact_nodes(model: Any) -> list[str]:
    return [node.name for node in model.graph.node if EXACT in node.name]


def _specs(network: keras.Model, batch: int | None) -> list[tf.TensorSpec]:
    return [
        tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name=tensor.name)
        for tensor in network.inputs
    ]


def _function(network: keras.Model) -> Callable[..., dict[str, tf.Tensor]]:
    names = [tensor.name for tensor in network.inputs]
    by_name = isinstance(network.input, dict)

    def judge(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        given = dict(zip(names, inputs, strict=True)) if by_name else inputs[0]
        return network(given, training=False)

    return judge


def _in_batches(clips: Sequence[Inputs], batch: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the clips in whole batches; the last clip fills the last one."""
    for first in range(0, len(clips), batch):
        yield together(clips[first : first + batch], batch)


def together(clips: Sequence[Inputs], batch: int) -> dict[str, np.ndarray]:
    """Return clips, one each, as a batch; the last one is repeated to fill it."""
    padded = [*clips, *[clips[-1]] * (batch - len(clips))]
    return {name: np.concatenate([clip[name] for clip in padded]) for name in clips[0]}
