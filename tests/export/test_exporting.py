from pathlib import Path

import numpy as np
import pytest

from violence_detection.errors import UserError
from violence_detection.export.comparison_data import (
    ComparisonData,
    MovedFolders,
    load_comparison_data,
)
from violence_detection.export.exporting import ExportOptions, export_detector
from violence_detection.inference.detector import Detector, load_detector
from violence_detection.runs.files import CONFIG
from violence_detection.storage.files import read_json

OPTIONS = ExportOptions(("onnx",), "none", end_to_end=False, batch=2, tolerance=1e-3)


@pytest.fixture(scope="module")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


@pytest.fixture(scope="module")
def data(detector: Detector) -> ComparisonData:
    return load_comparison_data(
        detector, MovedFolders(), end_to_end=False, calibrate=True, clips=3, clip_timeout=60.0
    )


def test_data_are_clips_of_the_run_as_inputs_of_a_file(
    detector: Detector, data: ComparisonData
) -> None:
    assert len(data.validation) == len(data.labels) == 3
    assert len(data.calibration) == 12  # all training clips
    shape = (1, detector.frames, detector.features_per_frame)
    for clip in (*data.validation, *data.calibration):
        assert {name: values.shape for name, values in clip.items()} == {"features": shape}
        assert clip["features"].dtype == np.float32
    precision = read_json(detector.checkpoint_dir / CONFIG)["precision"]
    assert data.trained_in == precision
    assert (data.as_trained is None) == (precision == "float32")


def test_data_in_folders_that_do_not_exist_name_their_flags(
    detector: Detector, tmp_path: Path
) -> None:
    moved = MovedFolders(dataset_path=tmp_path / "none", cache_dir=tmp_path / "none")
    with pytest.raises(UserError, match=r"--cache-dir.*--dataset-path"):
        load_comparison_data(
            detector, moved, end_to_end=False, calibrate=False, clips=None, clip_timeout=60.0
        )


def test_files_are_named_compared_and_timed(
    detector: Detector, data: ComparisonData, tmp_path: Path
) -> None:
    original, (exported,) = export_detector(detector, data, OPTIONS, tmp_path)
    assert exported.path == tmp_path / "detector_batch2.onnx"
    assert exported.size == exported.path.stat().st_size
    assert exported.passed
    assert exported.comparison.clips == original.comparison.clips == 3
    assert original.comparison.largest_difference == 0
    assert exported.speed.clips_per_second > 0
    (listed,) = read_json(tmp_path / "export.json")["exports"]
    assert listed["file"] == "detector_batch2.onnx"
    assert listed["clips_per_second"] == exported.speed.clips_per_second
