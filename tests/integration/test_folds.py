"""A run of several classifiers, each validated on another part of the clips."""

import csv
import json
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.conftest import SHORT, figures_of, quick_flags_in, results_of
from train_rtx5000_dual_optimized import main
from violence_detection.commands import export, predict
from violence_detection.runs.directory import RunDirectory
from violence_detection.training import callbacks
from violence_detection.training.callbacks import write_models_of_last_epoch
from violence_detection.training.trainer import Trainer

FOLDS = [*SHORT, "--folds", "2"]


@pytest.fixture(scope="module")
def undisturbed(
    drawn_clips: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a run of two classifiers, not to be changed."""
    folder = tmp_path_factory.mktemp("folds")
    shutil.copytree(finished / "cache", folder / "cache")
    flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(folder), *FOLDS, "--report"]
    assert main(flags) == 0
    return folder


def weights_of(path: Path) -> list[bytes]:
    return [values.tobytes() for values in keras.models.load_model(path).get_weights()]


def probabilities_of(run: Path) -> dict[str, float]:
    with (run / "predictions.csv").open(newline="") as file:
        return {row["clip"]: float(row["probability"]) for row in csv.DictReader(file)}


def test_detector_is_the_mean_of_classifiers_validated_on_all_clips(undisturbed: Path) -> None:
    run = undisturbed / "run"
    results = results_of(run)
    assert results["chosen_on"]["clips"] == 20  # of training and validation
    assert results["evaluation"]["clips"] == 8
    assert len(results["members_at_0.5"]) == 2
    with (run / "label_issues.csv").open(newline="") as file:
        ranked = [row["clip"] for row in csv.DictReader(file)]
    assert len(set(ranked)) == 20 and not any(name.startswith("test/") for name in ranked)
    assert "Suspect labels" in (run / "report.html").read_text()
    assert json.loads((run / "detector.json").read_text())["model"] == "best_model.keras"
    paths = ("best_model.keras", "first_member.keras", "member_2/best_model.keras")
    mean, *members = (keras.models.load_model(run / path, safe_mode=True) for path in paths)
    features = np.random.default_rng(0).random((5, *mean.input_shape[1:])).astype(np.float32)
    each = [member.predict(features, verbose=0) for member in members]
    np.testing.assert_allclose(mean.predict(features, verbose=0), np.mean(each, 0), atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-4


@pytest.mark.usefixtures("features_before", "not_hurried")
def test_run_interrupted_in_its_second_classifier_resumes_with_the_same_results(
    flags: list[str],
    run: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(of_run: RunDirectory, trainer: Trainer) -> None:
        write_models_of_last_epoch(of_run, trainer)
        if of_run.folder.name == "member_2":
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as pressed:
        pressed.setattr(callbacks, "write_models_of_last_epoch", interrupt)
        assert main([*flags, *FOLDS]) == 130
    assert not (run / "best_model.keras").exists()
    assert (len(figures_of(run)), len(figures_of(run / "member_2"))) == (2, 1)
    assert main([*flags, *FOLDS]) == 0
    expected = undisturbed / "run"
    for folder in ("", "member_2"):
        assert figures_of(run / folder) == figures_of(expected / folder)
    for name in ("best_model.keras", "first_member.keras"):
        assert weights_of(run / name) == weights_of(expected / name)
    assert (run / "predictions.csv").read_text() == (expected / "predictions.csv").read_text()
    assert results_of(run)["evaluation"] == results_of(expected)["evaluation"]
    capsys.readouterr()
    assert main([*flags, *FOLDS]) == 0
    assert "finished" in capsys.readouterr().out
    assert main([*flags, *FOLDS, "--folds", "3"]) == 2
    assert "--folds 2; now --folds 3" in capsys.readouterr().err


def test_more_folds_than_clips_of_a_class_are_refused_before_the_run_begins(
    flags: list[str], features_before: None, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--folds", "11"]) == 2
    assert "--folds 11: only 10 groups" in capsys.readouterr().err
    assert not (run / "training_config.json").exists()


def test_predictions_of_the_finished_detector_are_those_of_its_test(
    undisturbed: Path, drawn_clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--checkpoint-dir", str(undisturbed / "run"), str(drawn_clips / "test")]
    assert predict.main([*command, "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)["clips"]
    ours = {str(Path(one["clip"]).relative_to(drawn_clips)): one["probability"] for one in found}
    assert ours == pytest.approx(probabilities_of(undisturbed / "run"), abs=2e-6)


def test_mean_of_classifiers_is_exported(undisturbed: Path, tmp_path: Path) -> None:
    command = ["--checkpoint-dir", str(undisturbed / "run"), "--output", str(tmp_path)]
    assert export.main([*command, "--format", "onnx", "--clips", "2"]) == 0
    (exported,) = json.loads((tmp_path / "export.json").read_text())["exports"]
    assert exported["passed"] and exported["changed_verdicts"] == 0
