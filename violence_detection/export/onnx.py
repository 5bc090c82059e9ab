"""A network as an ONNX file of standard operations, for ONNX Runtime and TensorRT."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from violence_detection.errors import failing_as
from violence_detection.export.graph import FLOAT32_ONLY, as_function, input_specs
from violence_detection.export.inputs import Inputs, batches
from violence_detection.export.onnx_quantization import to_float16, write_dynamic, write_int8

OPSET = 17  # TensorRT supports it from 8.6 on, and no later operation is needed
BATCH_DIMENSION = "clips"  # the name of the first dimension where it is not fixed
LARGE_WEIGHT = 2**22  # values: 16 MB in float32


def write_onnx(
    network: keras.Model,
    path: Path,
    quantize: str = "none",
    batch: int | None = None,
    calibration: Sequence[Inputs] = (),
    large_weight: int = LARGE_WEIGHT,
) -> None:
    """Write an ONNX file of standard operations.

    What has `FLOAT32_ONLY` in its name stays in float32, and so do inputs and outputs.

    Args:
        network: a functional model whose inputs and outputs have names.
        path: the file to write.
        quantize: "none": float32. "float16": weights and activations. "dynamic": the weights of
            dense layers in int8, their activations when they are computed. "int8": weights and
            activations, as pairs of QuantizeLinear and DequantizeLinear.
        batch: the fixed number of clips per call; None: any number.
        calibration: one clip each; "int8" takes the ranges of the activations from them.
        large_weight: weights of more values bypass the converter, which makes copies of the others.

    Raises:
        RunError: the file cannot be written.
    """
    import onnx

    model = _to_onnx(network, batch, large_weight)
    if quantize == "float16":
        model = to_float16(model)
    with failing_as(path):
        if quantize == "dynamic":
            write_dynamic(model, path)
        elif quantize == "int8":
            write_int8(model, path, list(batches(calibration, batch or 1)))
        else:
            onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def _to_onnx(network: keras.Model, batch: int | None, large_weight: int) -> Any:
    """Return the network as an `onnx.ModelProto` in float32."""
    import onnx

    # The converter copies the weights that it sees two dozen times: the large ones are inputs while
    # it works, and become constants afterwards.
    kernels = {
        f"kernel_{number}": weight
        for number, weight in enumerate(
            (weight for weight in network.weights if math.prod(weight.shape) > large_weight),
            start=1,
        )
    }
    model = _convert(_with_kernels_as_inputs(network, batch, kernels))
    for name, kernel in kernels.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(kernel.numpy(), name))
    inputs = [value for value in model.graph.input if value.name not in kernels]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    _name_dimensions(model, network, batch)
    _make_constant_outputs_nodes(model)
    return model


def _with_kernels_as_inputs(
    network: keras.Model, batch: int | None, kernels: dict[str, keras.Variable]
) -> Callable[..., dict[str, tf.Tensor]]:
    """Return a `tf.function` of the network's inputs, followed by the kernels, by their names."""
    specs = input_specs(network, batch)
    kernel_specs = [
        tf.TensorSpec(kernel.shape, kernel.dtype, name) for name, kernel in kernels.items()
    ]
    predict = as_function(network)

    def predict_with_kernels(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        mapping = list(zip(kernels.values(), tensors[len(specs) :], strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return predict(*tensors[: len(specs)])

    return tf.function(predict_with_kernels, input_signature=[*specs, *kernel_specs])


def _convert(function: Any) -> Any:
    """Return a `tf.function` with an input signature as an `onnx.ModelProto`."""
    from tf2onnx import convert, optimizer, tf_loader, tfonnx

    concrete = function.get_concrete_function()
    names = {
        "input_names": [t.name for t in concrete.inputs if t.dtype != tf.resource],
        "output_names": [t.name for t in concrete.outputs],
    }
    frozen = tf_loader.from_function(concrete, **names)
    # In steps, since `tf2onnx.convert` would copy the model for each of its optimizers.
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
        _give_added_scalars_a_dimension(converted)
        return optimizer.optimize_graph(converted, catch_errors=False).make_model("detector")


def _give_added_scalars_a_dimension(graph: Any) -> None:
    """Make constants that are added to tensors `(1,)`: the optimizer takes them for biases.

    `x + 3` after a convolution, as in hard-swish, ends it with an error otherwise.
    """
    for node in graph.get_nodes():
        if node.type != "Add":
            continue
        for constant, other in (node.inputs, node.inputs[::-1]):
            is_scalar = constant.is_const() and constant.get_tensor_value(as_list=False).ndim == 0
            if is_scalar and graph.get_rank(other.output[0]):
                value = constant.get_tensor_value(as_list=False).reshape(1)
                own = graph.make_const(f"{node.name}_{constant.name}", value)
                graph.replace_input(node, constant.output[0], own.output[0])


def _name_dimensions(model: Any, network: keras.Model, batch: int | None) -> None:
    """Set the dimensions of inputs and outputs, for which the converter invents names."""
    import onnx

    shapes = {tensor.name: tensor.shape for tensor in network.inputs}
    shapes |= {name: tensor.shape for name, tensor in network.output.items()}
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        sizes = (batch or BATCH_DIMENSION, *shapes[value.name][1:])
        for dimension, size in zip(dimensions, sizes, strict=True):
            kind = "dim_value" if isinstance(size, int) else "dim_param"
            dimension.CopyFrom(onnx.TensorShapeProto.Dimension(**{kind: size}))


def _make_constant_outputs_nodes(model: Any) -> None:
    """Put an Identity node before each output that is a constant: runtimes expect a node there."""
    import onnx

    outputs = {output.name for output in model.graph.output}
    for constant in model.graph.initializer:
        if constant.name in outputs:
            name, constant.name = constant.name, f"{FLOAT32_ONLY}_{constant.name}"
            for node in model.graph.node:
                node.input[:] = [
                    constant.name if source == name else source for source in node.input
                ]
            node = onnx.helper.make_node(
                "Identity", [constant.name], [name], f"{FLOAT32_ONLY}_{name}"
            )
            model.graph.node.append(node)


# Operations that the converter lacks, or converts into ones that TensorRT does not support. Each
# handler changes a node of TensorFlow's graph into ONNX's; tf2onnx defines the signature.


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
    backwards = {"starts": -1, "ends": np.iinfo(np.int64).min, "axes": axis, "steps": -1}
    slice_inputs = [
        context.make_const(f"{name}_{part}", np.array([value], np.int64)).output[0]
        for part, value in backwards.items()
    ]
    context.replace_inputs(node, [node.input[0], *slice_inputs])
    node.type, node.domain = "Slice", ""
