"""One detector, one server and a few clips for all tests of the service."""

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import pytest

from tests.serving.detectors import ScriptedDetector, scripted
from tests.serving.http import LIMITS, ready
from tests.waiting import wait_until
from violence_detection.inference.detector import Detector, load_detector
from violence_detection.serving.service import Service


@pytest.fixture(scope="package")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


@pytest.fixture(scope="package")
def scripted_detector(detector: Detector) -> ScriptedDetector:
    """Return a copy of the detector that waits and fails when a test wants it to."""
    return scripted(detector)


@pytest.fixture(scope="package")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the servers' uploads."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture
def uploads_removed(uploads: Path) -> Iterator[None]:
    """Fail if a test leaves an upload behind."""
    yield
    wait_until(lambda: list(uploads.iterdir()) == [], 10)  # after the response


@pytest.fixture(scope="package")
def service(detector: Detector, uploads: Path) -> Service:
    return Service(detector, uploads, LIMITS)


@pytest.fixture(scope="package")
def client(service: Service) -> Iterator[httpx.Client]:
    """Return a client of a server that is ready and lets anybody in."""
    with ready(service) as client:
        yield client


@pytest.fixture
def clip(drawn_clips: Path) -> bytes:
    return (drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes()


@pytest.fixture(scope="package")
def long_clip(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clip of 6 s: three drawn ones, one after the other, the second of them violent."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    writer = None
    for name in ("nonviolent/nonviolent0", "violent/violent0", "nonviolent/nonviolent1"):
        clip = cv2.VideoCapture(str(drawn_clips / "test" / f"{name}.mp4"))
        while (image := clip.read()[1]) is not None:
            size = image.shape[1], image.shape[0]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = writer or cv2.VideoWriter(str(path), code, 12, size)
            writer.write(image)
    assert writer is not None
    writer.release()
    return path


@pytest.fixture
def run_predictions(trained: Path, drawn_clips: Path) -> dict[Path, tuple[float, bool]]:
    """Return probability and prediction of each clip in the run's own test."""
    with (trained / "run" / "predictions.csv").open(newline="") as file:
        return {
            drawn_clips / row["clip"]: (float(row["probability"]), row["verdict"] == "violent")
            for row in csv.DictReader(file)
        }
