import shutil
from pathlib import Path

import pytest

from violence_detection.errors import UserError
from violence_detection.export.comparison_data import (
    ComparisonData,
    MovedFolders,
    load_comparison_data,
)
from violence_detection.inference.detector import Detector, load_detector


@pytest.fixture(scope="module")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


def load(
    detector: Detector, moved: MovedFolders, *, clips: int | None, calibrate: bool
) -> ComparisonData:
    return load_comparison_data(
        detector, moved, end_to_end=False, calibrate=calibrate, clips=clips, clip_timeout=60
    )


@pytest.mark.parametrize(("clips", "expected"), [(None, 8), (3, 3)])
def test_files_are_compared_on_validation_clips(
    detector: Detector, clips: int | None, expected: int
) -> None:
    data = load(detector, MovedFolders(), clips=clips, calibrate=False)
    assert len(data.validation) == len(data.labels) == expected
    assert {inputs["features"].shape[:2] for inputs in data.validation} == {(1, 4)}
    assert set(data.labels) == {0, 1}
    assert data.calibration == []
    assert (data.as_trained is None) == (data.trained_in == "float32")


def test_ranges_are_measured_on_training_clips(detector: Detector) -> None:
    data = load(detector, MovedFolders(), clips=1, calibrate=True)
    assert len(data.calibration) == 12


def test_moved_folders_are_used_and_must_exist(
    detector: Detector, trained: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    cache = Path(shutil.copytree(trained / "cache", tmp_path / "cache"))
    data = load(detector, MovedFolders(cache_dir=cache), clips=2, calibrate=False)
    assert len(data.validation) == 2
    with pytest.raises(UserError, match="neither features"):
        load(detector, MovedFolders(gone, gone), clips=2, calibrate=False)
