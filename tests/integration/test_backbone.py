"""A run on another backbone than VGG19: training, prediction, explanation, export."""

import json
from pathlib import Path

import pytest

from tests.conftest import SHORT, results_of
from tests.integration.predicted import require_predicted_and_explained
from train_rtx5000_dual_optimized import main
from violence_detection.commands.export import main as export


@pytest.mark.slow
def test_run_on_another_backbone(
    few_clips: Path,
    quick_flags: list[str],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--dataset-path", str(few_clips), *quick_flags, *SHORT]
    flags += ["--backbone", "mobilenetv3small", "--feature-layer", "last"]
    assert main(flags) == 0
    screen = capsys.readouterr().out
    assert "MobileNetV3Small HAS RANDOM WEIGHTS" in screen
    assert "rgb features of 12 clips at last of MobileNetV3Small" in screen
    (recipe,) = json.loads((run / "detector.json").read_text())["features"]
    assert (recipe["backbone"], recipe["features"]) == ("MobileNetV3Small", 576)
    assert results_of(run)["verdict"][0].startswith(
        "No verdict: MobileNetV3Small had random weights"
    )

    require_predicted_and_explained(run, few_clips, tmp_path / "why", capsys)

    command = ["--checkpoint-dir", str(run), "--end-to-end", "--format", "onnx", "litert"]
    assert export([*command, "--output", str(tmp_path / "files"), "--clips", "2"]) == 0
    written = json.loads((tmp_path / "files" / "export.json").read_text())["exports"]
    assert len(written) == 2
    assert all(item["largest_difference"] < 1e-3 for item in written)
