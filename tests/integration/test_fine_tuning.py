"""A run that trains VGG19's last block with the head."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.integration.test_pixels import flags_in
from train_rtx5000_dual_optimized import main
from violence_detection.commands.export import main as export
from violence_detection.models.vgg19 import build_extractor


@pytest.mark.slow
def test_last_block_is_trained_at_a_lower_rate(
    few_clips: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags_in(tmp_path, few_clips, "--fine-tune", "block5", "--streams", "rgb")
    flags += ["--vgg19-weights", "random", "--head", "mean", "--epochs", "2", "--frames", "2"]
    assert main([*flags, "--fine-tune-rate", "0.01", "--learning-rate", "0.01"]) == 0
    assert "fine-tuning block5_conv1" in capsys.readouterr().out
    before = build_extractor("block5_pool", "random").get_layer("block5_conv4").get_weights()[0]
    after = keras.models.load_model(run / "best_model.keras")
    moved = np.abs(after.get_layer("block5_conv4").get_weights()[0] - before)
    # Adam moves a weight by about the learning rate in each of three steps.
    assert 1e-6 < moved.mean() < 5e-4

    files = ["--checkpoint-dir", str(run), "--output", str(tmp_path / "files"), "--clips", "2"]
    assert export([*files, "--format", "onnx"]) == 0
    written = json.loads((tmp_path / "files" / "export.json").read_text())["exports"]
    assert all(item["largest_difference"] < 1e-3 for item in written)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--backbone", "ResNet50"], ["--fine-tune fc", "drop --backbone ResNet50"]),
        (["--feature-layer", "fc2"], ["--feature-layer flatten", "leave them out"]),
    ],
)
def test_settings_that_do_not_go_with_it_are_named(
    more: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset-path", ".", "--fine-tune", "fc", *more]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)
