from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from tests.export.examples import (
    KINDS,
    feature_clips,
    largest_difference,
    run_network,
)
from violence_detection.export.graph import FLOAT32_ONLY
from violence_detection.export.litert import write_litert
from violence_detection.export.runtimes import open_litert, predict_clips


@pytest.mark.parametrize("kind", KINDS)
def test_file_predicts_as_the_network(
    kind: str, network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    path, clips = tmp_path / "detector.tflite", feature_clips(7)
    write_litert(network_of(kind), path)
    found = predict_clips(open_litert(path), clips, batch_size=3)
    assert largest_difference(found, run_network(network_of(kind), clips)) < 1e-5


@pytest.mark.parametrize(("quantize", "difference"), [("none", 1e-5), ("int8", 0.05)])
def test_batch_can_be_fixed(
    quantize: str,
    difference: float,
    network_of: Callable[[str], keras.Model],
    tmp_path: Path,
) -> None:
    path, clips = tmp_path / "detector.tflite", feature_clips(7)
    write_litert(network_of("mean"), path, quantize, batch=3, calibration=clips)
    predictor = open_litert(path)
    assert predictor.batch == 3
    found = predict_clips(predictor, clips, batch_size=1)
    assert largest_difference(found, run_network(network_of("mean"), clips)) < difference
    tensors = Interpreter(str(path)).get_tensor_details()
    assert any(tensor["dtype"] is np.int8 for tensor in tensors) == (quantize == "int8")
    logarithms = [t for t in tensors if FLOAT32_ONLY in t["name"] and "Log1p" in t["name"]]
    assert {tensor["dtype"] for tensor in logarithms} == {np.float32}
