"""Runs on backbones in ONNX files: training, prediction, windows, export, serving."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import SHORT
from tests.integration.test_pixels import flags_in
from tests.integration.test_remote_run import probabilities_of
from tests.onnx_files import write_clips_network, write_frames_network
from tests.serving.http import LIMITS, form_of, ready
from train_rtx5000_dual_optimized import main
from violence_detection.commands.export import main as export
from violence_detection.commands.predict import main as predict
from violence_detection.inference.detector import load_detector
from violence_detection.serving.service import Service


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frames", "clips"])
def test_run_on_an_onnx_file(
    kind: str, few_clips: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"
    if kind == "frames":
        write_frames_network(path)
    else:
        write_clips_network(path, 2)
    flags = flags_in(tmp_path, few_clips, "--head", "mean", "--streams", "rgb,difference", *SHORT)
    assert main([*flags, "--backbone", str(path)]) == 0
    assert "rgb features of 12 clips at last of net.onnx" in capsys.readouterr().out
    name, probability = next(iter(probabilities_of(run).items()))

    # The file has moved since; another one in its place is refused.
    moved = tmp_path / "elsewhere" / "other.onnx"
    moved.parent.mkdir()
    shutil.move(path, moved)
    command = ["--checkpoint-dir", str(run), str(few_clips / name), "--json"]
    assert predict(command) == 2
    assert str(path) in capsys.readouterr().err
    weights = ["--backbone-weights", str(moved)]
    assert predict([*command, *weights]) == 0
    (found,) = json.loads(capsys.readouterr().out)["clips"]
    assert found["probability"] == pytest.approx(probability, abs=1e-4)
    assert len(found["frames"]) == 4

    windows = ["--window", "1", "--stride", "0.5", *weights]
    assert predict([*command, *windows]) == 0
    assert len(json.loads(capsys.readouterr().out)["clips"][0]["windows"]) >= 2
    assert predict([*command, *weights, "--explain"]) == 2
    assert "cannot be explained" in capsys.readouterr().err

    uploads = tmp_path / "uploads"
    uploads.mkdir()
    with ready(Service(load_detector(run, str(moved)), uploads, LIMITS)) as client:
        answer = client.post("/predict", **form_of((few_clips / name).read_bytes())).json()
    assert answer["probability"] == pytest.approx(probability, abs=1e-4)

    files = ["--checkpoint-dir", str(run), "--output", str(tmp_path / "files"), *weights]
    assert export([*files, "--format", "onnx", "--clips", "2"]) == 0
    (written,) = json.loads((tmp_path / "files" / "export.json").read_text())["exports"]
    for part in written["metadata"]["features"]:
        assert part["backbone"].endswith(".onnx")
        assert {"layout", "mean", "std", "scale", "size"} <= part.keys()
    assert export([*files, "--format", "onnx", "--end-to-end"]) == 2
    assert "leave --explain and --end-to-end out" in capsys.readouterr().err


def test_file_that_does_not_fit_is_refused_before_anything_is_decoded(
    few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags_in(tmp_path, few_clips, "--streams", "rgb", "--backbone")
    assert main([*flags, str(tmp_path / "none.onnx")]) == 2
    assert f"--backbone {tmp_path / 'none.onnx'}: no such file" in capsys.readouterr().err
    path = write_clips_network(tmp_path / "net.onnx", 3)
    assert main([*flags, str(path)]) == 2
    assert "takes 3 frames at once: give --frames 3 or 6" in capsys.readouterr().err
    path = write_frames_network(tmp_path / "other.onnx", layout="NHWC")
    assert main([*flags, str(path)]) == 2
    assert "64, not 3" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.rows"))
