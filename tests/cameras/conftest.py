from pathlib import Path

import pytest

from violence_detection.inference.detector import Detector, load_detector


@pytest.fixture(scope="package")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")
