"""Runs that combine several backbones, or classifiers of several kinds."""

import json
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.conftest import SHORT, figures_of, results_of
from tests.integration.predicted import require_predicted_and_explained
from tests.integration.test_pixels import flags_in
from tests.integration.test_remote_run import probabilities_of
from train_rtx5000_dual_optimized import main
from violence_detection.commands.export import main as export
from violence_detection.commands.predict import main as predict
from violence_detection.runs.directory import RunDirectory
from violence_detection.training import callbacks
from violence_detection.training.callbacks import write_models_of_last_epoch
from violence_detection.training.trainer import Trainer

SMALL = ("--vgg19-weights", "random", "--feature-layer", "block1_conv1", "--head", "mean", *SHORT)
MIXED = (*SMALL, "--ensemble", "features,3d", "--streams", "rgb,flow", "--pixels", "32")


def require_exported(run: Path, folder: Path, *formats: str) -> None:
    """Fail unless end-to-end files of a run predict as it does."""
    files = ["--output", str(folder), "--format", *formats, "--clips", "2", "--end-to-end"]
    assert export(["--checkpoint-dir", str(run), *files]) == 0
    assert len(json.loads((folder / "export.json").read_text())["exports"]) == len(formats)


def require_features_described(run: Path, folder: Path) -> None:
    """Fail unless the file that starts from features says which are whose, in their order."""
    files = ["--output", str(folder), "--format", "keras", "--clips", "1"]
    assert export(["--checkpoint-dir", str(run), *files]) == 0
    (item,) = json.loads((folder / "export.json").read_text())["exports"]
    described = [
        (each["backbone"], each["stream"], each["size"], each["values"])
        for each in item["metadata"]["features"]
    ]
    pixels = 32 * 32 * 3
    assert described == [
        ("vgg19", "rgb", [224, 224], [0, 64]),
        ("vgg19", "flow", [224, 224], [64, 128]),
        ("pixels", "rgb", [32, 32], [128, 128 + pixels]),
        ("pixels", "difference", [32, 32], [128 + pixels, 128 + 2 * pixels]),
    ]
    assert item["metadata"]["inputs"][0]["shape"][2] == 128 + 2 * pixels


@pytest.mark.slow
@pytest.mark.usefixtures("not_hurried")
def test_features_and_pixels_are_learned_from_in_one_run(
    few_clips: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted in the network from pixels, the second kind, and resumed."""
    interrupted: list[str] = []

    def interrupt(of_run: RunDirectory, trainer: Trainer) -> None:
        write_models_of_last_epoch(of_run, trainer)
        if of_run.folder.name == "member_3" and not interrupted:
            interrupted.append("once")
            signal.raise_signal(signal.SIGINT)

    flags = flags_in(tmp_path, few_clips, *MIXED, "--folds", "2", "--report")
    with monkeypatch.context() as pressed:
        pressed.setattr(callbacks, "write_models_of_last_epoch", interrupt)
        assert main(flags) == 130
    before = figures_of(run)
    assert main(flags) == 0
    assert figures_of(run) == before
    assert [len(figures_of(run / f"member_{number}")) for number in (2, 3, 4)] == [2, 2, 2]
    results = results_of(run)
    assert set(results["fusion"]) == {"mean on vgg19 block1_conv1", "3d", "bias"}
    assert results["chosen_on"]["clips"] == 8
    assert len(results["members_at_0.5"]) == 4
    shown = capsys.readouterr().out
    assert "flow features of 12 clips at block1_conv1" in shown
    assert "difference frames of 12 clips at 32 pixels" in shown
    assert "weighted sum of the logits of <strong>2 kinds" in (run / "report.html").read_text()
    require_predicted_and_explained(run, few_clips, tmp_path / "why", capsys)
    require_exported(run, tmp_path / "files", "keras", "openvino")
    require_features_described(run, tmp_path / "features")
    loaded = keras.models.load_model(run / "best_model.keras", safe_mode=True)
    assert loaded(np.zeros((1, *loaded.input.shape[1:]))).shape == (1, 1)
    capsys.readouterr()
    assert main([*flags, "--ensemble", "3d,features"]) == 2
    assert "--ensemble features,3d; now --ensemble 3d,features" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "layer", "fusion"),
    [("MobileNetV3Small", "last", "joined"), ("vgg19", "block1_pool", "late")],
)
def test_several_backbones_are_combined(
    other: str,
    layer: str,
    fusion: str,
    few_clips: Path,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbones = ["--backbone", f"vgg19,{other}", "--feature-layer", f"block1_conv1,{layer}"]
    flags = flags_in(tmp_path, few_clips, *SMALL, *backbones, "--streams", "rgb,difference")
    assert main([*flags, "--fusion", fusion]) == 0
    shown = capsys.readouterr().out
    assert f"difference features of 12 clips at {layer}" in shown
    assert ("VGG19 and MobileNetV3Small HAVE RANDOM WEIGHTS" in shown) == (other != "vgg19")
    assert len(list(run.glob("member_*"))) == (fusion == "late")
    require_predicted_and_explained(run, few_clips, tmp_path / "why", capsys)
    require_exported(run, tmp_path / "files", "onnx")

    name = next(iter(probabilities_of(run)))
    windows = ["--window", "1", "--stride", "0.5", "--json"]
    command = ["--checkpoint-dir", str(run), str(few_clips / name), *windows]
    capsys.readouterr()
    assert predict(command) == 0
    assert len(json.loads(capsys.readouterr().out)["clips"][0]["windows"]) >= 2
    assert predict([*command, "--vgg19-weights", "random,random,random"]) == 2
    assert f"names 3, but the detector has vgg19, {other}" in capsys.readouterr().err
