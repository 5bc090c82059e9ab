"""Runs on networks from pixels: training, resuming, prediction, explanation, export."""

import json
import signal
from pathlib import Path

import pytest

from tests.conftest import SHORT, figures_of, results_of
from tests.integration.predicted import require_predicted_and_explained
from train_rtx5000_dual_optimized import main
from violence_detection.commands.export import main as export
from violence_detection.runs.directory import RunDirectory
from violence_detection.training import callbacks
from violence_detection.training.callbacks import write_models_of_last_epoch
from violence_detection.training.trainer import Trainer


def flags_in(folder: Path, clips: Path, *more: str) -> list[str]:
    """Return the flags of a run of seconds, its folders below `folder`."""
    return [
        *("--dataset-path", str(clips), "--cache-dir", str(folder / "cache")),
        *("--checkpoint-dir", str(folder / "run"), "--frames", "4", "--batch-size", "4"),
        *("--epochs", "3", "--warmup-epochs", "1", "--deterministic", "--no-mixed-precision"),
        *("--groups", "none", "--folds", "1", "--no-report", *more),
    ]


@pytest.mark.slow
def test_interrupted_run_resumes_with_the_same_results(
    few_clips: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after an epoch of small frames, which are augmented on the device."""
    network = ("--model", "flow-gated", "--pixels", "16,32", "--cached-frames", "6")
    network += ("--augment", "crop,flip,colour,jitter")
    whole = tmp_path / "whole"
    assert main(flags_in(whole, few_clips, *network)) == 0

    def interrupt(of_run: RunDirectory, trainer: Trainer) -> None:
        write_models_of_last_epoch(of_run, trainer)
        if len(of_run.history) == 1:
            signal.raise_signal(signal.SIGINT)

    flags = flags_in(tmp_path, few_clips, *network)
    with monkeypatch.context() as pressed:
        pressed.setattr(callbacks, "write_models_of_last_epoch", interrupt)
        assert main(flags) == 130
    assert main(flags) == 0
    assert figures_of(run) == figures_of(whole / "run")
    assert results_of(run)["evaluation"] == results_of(whole / "run")["evaluation"]


@pytest.mark.slow
def test_residual_network_is_trained_predicts_and_is_exported(
    few_clips: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags_in(tmp_path, few_clips, "--model", "3d", "--pixels", "32", *SHORT)) == 0
    assert "rgb frames of 12 clips at 32 pixels" in capsys.readouterr().out
    recipes = json.loads((run / "detector.json").read_text())["features"]
    assert [(recipe["stream"], recipe["dtype"]) for recipe in recipes] == [
        ("rgb", "uint8"),
        ("difference", "uint8"),
    ]
    require_predicted_and_explained(run, few_clips, tmp_path / "why", capsys)

    command = ["--checkpoint-dir", str(run), "--end-to-end", "--clips", "2", "--tolerance", "0.02"]
    for quantize, formats in (("none", ["onnx", "litert"]), ("int8", ["litert"])):
        folder = tmp_path / quantize
        files = ["--output", str(folder), "--quantize", quantize, "--format", *formats]
        assert export([*command, *files]) == 0
        written = json.loads((folder / "export.json").read_text())["exports"]
        assert len(written) == len(formats)
