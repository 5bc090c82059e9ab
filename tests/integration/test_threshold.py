"""A finished run whose threshold is chosen anew, for another goal."""

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import results_of
from train_rtx5000_dual_optimized import main


@pytest.mark.usefixtures("run_before")
def test_threshold_goal_can_be_changed_without_training(flags: list[str], run: Path) -> None:
    history = (run / "training_history.csv").read_bytes()
    assert (run / "report.html").exists()
    assert main([*flags, "--threshold-for", "recall=1"]) == 0
    assert (run / "training_history.csv").read_bytes() == history
    assert not (run / "report.html").exists()  # its figures were of the other threshold
    detector = json.loads((run / "detector.json").read_text())
    results = results_of(run)
    assert detector["chosen_for"] == results["chosen_for"] == "recall=1"
    for name in ("temperature", "threshold"):
        assert detector[name] == results[name]
    assert results["evaluation"]["threshold"] == detector["threshold"]
    assert results["evaluation_at_0.5"]["threshold"] == 0.5
    (recipe,) = detector["features"]
    assert (recipe["layer"], recipe["stream"]) == ("block1_conv1", "rgb")
    assert detector["frames"] == 4
    config = json.loads((run / "training_config.json").read_text())
    assert config["settings"]["threshold_for"] == "recall=1"
    with (run / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            violent = float(row["probability"]) >= detector["threshold"] - 1e-6
            assert row["verdict"] == ("violent" if violent else "nonviolent")
    intervals = results["evaluation"]["intervals"]
    for name, value in results["evaluation"].items():
        if name in intervals and name != "ece":  # of few clips it is too high, its interval is not
            low, high = intervals[name]
            assert low <= value <= high, name
    assert set(intervals) >= {"accuracy", "f1", "roc_auc", "pr_auc", "ece", "brier"}
