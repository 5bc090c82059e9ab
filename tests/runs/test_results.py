"""What a finished run writes."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from violence_detection.clips.clip import Clip
from violence_detection.evaluation.calibration import OperatingPoint
from violence_detection.evaluation.metrics import evaluate
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.leakage import Leak
from violence_detection.runs import results as run_results
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.results import (
    CheckedClips,
    TrainingData,
    write_detector,
    write_predictions,
    write_results,
)
from violence_detection.runs.usage import usage
from violence_detection.storage.files import read_json

POINT = OperatingPoint(temperature=1.5, threshold=0.45, chosen_for="f1")
CLIPS = [
    Clip(Path("/clips"), f"{split}/violent/{number}.mp4", 1, split, "camera" if number else None)
    for split in ("train", "test")
    for number in range(2)
]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    run.history = [
        {"epoch": epoch, "val_accuracy": accuracy, "val_loss": 0.5}
        for epoch, accuracy in enumerate((0.6, 0.8, 0.7), start=1)
    ]
    return run


@pytest.fixture
def results(run: RunDirectory) -> dict[str, Any]:
    """Return the results of a run of three epochs, as they are read back."""
    figures = evaluate(np.array([1, 0]), np.array([0.9, 0.2]), 0.45, ["a", "b"], 0)
    first, second, third, last = CLIPS
    write_results(
        run,
        epochs=5,
        point=POINT,
        promised=figures | {"accuracy": 0.75},
        tested=run_results.Tested(
            "test", figures, figures, figures, verdict=["Good.", "Next: more."]
        ),
        clips=CheckedClips(
            usable=[third, last],
            unlabeled=[],
            counts={"train": {"nonviolent": 0, "violent": 2}},
            bad={first: "not a video"},
            on_bad_clip="skip",
            leaks=[Leak(second, last, None, "same group")],
            left_out={second},
            groups_on_two_sides={"camera": ["test", "train"]},
            under_both_labels=[[first, third]],
            static=[third],
        ),
        training=TrainingData("shuffled", ("flip",), (1.5, 0.75)),
        untrained_vgg19=False,
        used=usage(10.0, None, 0.12, None),
        seconds_by_stage={"training": 10.0},
    )
    return read_json(run / "training_results.json")


def test_results_have_the_best_epoch_and_whether_training_stopped_early(
    results: dict[str, Any],
) -> None:
    assert (results["best_epoch"], results["epochs_trained"]) == (2, 3)
    assert results["stopped_early"] is True
    assert results["validation"]["val_accuracy"] == 0.8
    assert results["evaluated_split"] == "test"
    assert results["evaluation"]["accuracy"] == 1
    assert results["verdict"] == ["Good.", "Next: more."]
    assert (results["temperature"], results["threshold"], results["chosen_for"]) == (
        1.5,
        0.45,
        "f1",
    )
    assert results["chosen_on"]["accuracy"] == 0.75  # of the clips that promised it
    assert results["class_factors"] == {"nonviolent": 1.5, "violent": 0.75}


def test_results_name_the_clips_with_problems(results: dict[str, Any]) -> None:
    names = [clip.name for clip in CLIPS]
    assert results["bad_clips"] == [{"clip": names[0], "split": "train", "reason": "not a video"}]
    (leak,) = results["leakage"]
    assert (leak["clip"], leak["repeated"]) == (names[1], names[3])
    assert results["clips_left_out_for_leakage"] == [names[1]]
    assert results["one_file_under_both_labels"] == [[names[0], names[2]]]
    assert results["static_clips"] == [names[2]]


def test_detector_names_its_model_and_how_its_features_are_computed(run: RunDirectory) -> None:
    (run / "best_model.keras").write_bytes(b"weights")
    recipes = [
        Recipe(16, "fc2", "imagenet", 4096, "float16", stream, flipped)
        for stream in ("rgb", "flow")
        for flipped in (False, True)
    ]
    write_detector(run, 16, recipes, untrained_vgg19=True, point=POINT)
    detector = read_json(run / "detector.json")
    assert detector["model"] == "best_model.keras"
    assert [recipe["stream"] for recipe in detector["features"]] == ["rgb", "flow"]
    assert detector["untrained_vgg19"] is True
    assert detector["threshold"] == 0.45
    before = detector["model_checksum"]
    (run / "best_model.keras").write_bytes(b"others")
    write_detector(run, 16, recipes, untrained_vgg19=True, point=POINT)
    assert read_json(run / "detector.json")["model_checksum"] != before


def test_predictions_have_a_row_per_clip(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    attention = np.array([[0.75, 0.25], [0.5, 0.5]])
    write_predictions(CLIPS[2:], np.array([0.45, 0.449]), 0.45, attention, path)
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["clip"], first["group"], first["label"]) == (CLIPS[2].name, "", "violent")
    assert second["group"] == "camera"
    assert (first["verdict"], second["verdict"]) == ("violent", "nonviolent")  # at the threshold
    assert float(first["probability"]) == 0.45
    assert [float(first[f"attention_{number}"]) for number in (1, 2)] == [0.75, 0.25]
