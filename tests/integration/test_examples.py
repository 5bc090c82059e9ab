"""The examples that run exported files, each in its own runtime and without this package."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT
from violence_detection.commands.export import PACKAGES
from violence_detection.commands.export import main as export
from violence_detection.commands.predict import main as predict

FILES = {
    "onnx": "detector_end_to_end.onnx",
    "litert": "detector_end_to_end.tflite",
    "saved_model": "saved_model_end_to_end/1",
    "keras": "detector_end_to_end.keras",
    "openvino": "detector_end_to_end.xml",
}


def draw_moving_clip(path: Path) -> None:
    """Draw a square that crosses a textured wall, filmed by a camera that turns."""
    random = np.random.default_rng(3)
    wall = cv2.resize(random.integers(0, 256, (60, 120, 3), np.uint8), (640, 320))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (320, 240))
    for number in range(23):
        picture = wall[number : number + 240, 4 * number : 4 * number + 320].copy()
        place = (12 * number, 60 + 5 * number)
        cv2.rectangle(picture, place, (place[0] + 50, place[1] + 50), (30, 60, 220), -1)
        writer.write(picture)
    writer.release()


def probability_by_example(name: str, model: Path, clip: Path) -> float:
    """Return what an example prints; it runs where it does not find this package."""
    command = [sys.executable, str(ROOT / "examples" / f"run_{name}.py"), str(model), str(clip)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        command, cwd=clip.parent, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    probability, label = ended.stdout.split()
    assert label in ("violent", "nonviolent")
    return float(probability)


def probability_by_predict(run: Path, clip: Path, output: Path) -> float:
    """Return what predict.py says; in float32, as exported files compute."""
    flags = ["--checkpoint-dir", str(run), "--no-mixed-precision", "--json", "--quiet"]
    assert predict([*flags, "--output", str(output), str(clip)]) == 0
    return json.loads(output.read_text())["clips"][0]["probability"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_example_predicts_as_predict_does(
    name: str, trained: Path, exported: Path, tmp_path: Path
) -> None:
    if missing := [each for each in PACKAGES[name] if importlib.util.find_spec(each) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    draw_moving_clip(tmp_path / "clip.mp4")
    expected = probability_by_predict(trained / "run", tmp_path / "clip.mp4", tmp_path / "p.json")
    found = probability_by_example(name, exported / FILES[name], tmp_path / "clip.mp4")
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_example_calibrates_what_is_not_in_the_file(finished: Path, tmp_path: Path) -> None:
    """Frames themselves, with a temperature that changes much, two clips per call."""
    run = finished / "run"
    flags = ["--format", "keras", "--end-to-end", "--no-calibrated", "--clips", "1"]
    assert export(["--checkpoint-dir", str(run), "--output", str(tmp_path), *flags]) == 0
    draw_moving_clip(tmp_path / "clip.mp4")
    expected = probability_by_predict(run, tmp_path / "clip.mp4", tmp_path / "p.json")
    model = tmp_path / "detector_end_to_end_uncalibrated.keras"
    found = probability_by_example("keras", model, tmp_path / "clip.mp4")
    assert found == pytest.approx(expected, abs=1e-3)
