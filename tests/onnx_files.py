"""Small ONNX files, as someone might have exported a backbone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FRAMES_NETWORK = {"layout": "NCHW", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
CLIPS_NETWORK = {"layout": "NCTHW", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
VALUES = 5


def weights() -> np.ndarray:
    """Return `(3, VALUES)` float32: of each channel, in each of the features."""
    return np.random.default_rng(0).standard_normal((3, VALUES)).astype(np.float32)


def write_network(
    path: Path,
    shape: list[int | str],
    metadata: dict[str, Any],
    axes: list[int],
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """Write a network: the means over some axes, squared, times `weights`.

    Args:
        path: of the file.
        shape: of the input, its channels second.
        metadata: of the file; a number or list as JSON.
        axes: that are averaged over: of the pictures, or of pictures and time.
        dtype: of the input.
    """
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "mean"], ["squares"]),
    ]
    last = "squares"
    if len(shape) - len(axes) == 3:  # (n, channels, time): time before channels
        nodes.append(helper.make_node("Transpose", ["squares"], ["by_time"], perm=[0, 2, 1]))
        last = "by_time"
    nodes.append(helper.make_node("MatMul", [last, "weights"], ["features"]))
    output: list[str | int] = ["n", *(["t"] if last == "by_time" else []), VALUES]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", dtype, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, output)],
        [
            numpy_helper.from_array(np.array(axes, np.int64), "axes"),
            numpy_helper.from_array(weights(), "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(
        model,
        {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in metadata.items()
        },
    )
    onnx.save(model, str(path))
    return path


def write_frames_network(path: Path, **metadata: Any) -> Path:
    """Write a network of single frames of 64 pixels, in any number at once."""
    return write_network(path, ["n", 3, 64, 64], FRAMES_NETWORK | metadata, [2, 3])


def write_clips_network(path: Path, frames: int | str, **metadata: Any) -> Path:
    """Write a network of clips, one at a time, with one vector for each."""
    shape: list[int | str] = [1, 3, frames, 32, 32]
    return write_network(path, shape, CLIPS_NETWORK | metadata, [2, 3, 4])
