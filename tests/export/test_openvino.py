from collections.abc import Callable
from pathlib import Path

import keras
import pytest

from tests.export.examples import feature_clips, largest_difference, run_network
from violence_detection.errors import RunError
from violence_detection.export.openvino import write_openvino
from violence_detection.export.runtimes import open_openvino, predict_clips


@pytest.mark.parametrize("batch", [None, 3])
def test_file_predicts_as_the_network(
    batch: int | None, network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    """In other tests the ONNX file, from which it is made, is run of each kind of classifier."""
    path, clips = tmp_path / "detector.xml", feature_clips(7)
    write_openvino(network_of("mean"), path, batch=batch)
    predictor = open_openvino(path)
    assert predictor.batch == batch
    found = predict_clips(predictor, clips, batch_size=2)
    assert largest_difference(found, run_network(network_of("mean"), clips)) < 1e-5
    assert sorted(each.name for each in tmp_path.iterdir()) == ["detector.bin", "detector.xml"]


def test_error_names_a_file_that_cannot_be_written(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    (tmp_path / "detector.xml").mkdir()
    with pytest.raises(RunError, match=r"detector\.xml"):
        write_openvino(network_of("mean"), tmp_path / "detector.xml")
