import csv
import json
import signal
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.conftest import SHORT
from train_rtx5000_dual_optimized import main
from violence_detection.experiments import run as experiments
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings
from violence_detection.training.loop import fit
from violence_detection.training.trainer import Trainer

pytestmark = pytest.mark.slow


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def two_folds(features_before: None, flags: list[str]) -> list[str]:
    """Return flags of a search on the drawn clips."""
    return [*flags, *SHORT, "--cross-validate", "2"]


def test_search_writes_a_config_for_a_run_and_resumes(
    two_folds: list[str],
    flags: list[str],
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*two_folds, "--tune", "1"]) == 0
    (first,) = rows_in(run / "trials.csv")
    assert main([*two_folds, "--tune", "2"]) == 0
    trials = rows_in(run / "trials.csv")
    assert trials[0] == first and len(trials) == 2
    assert f"--config {run / 'best_config.json'}" in capsys.readouterr().out
    best = json.loads((run / "best_config.json").read_text())
    top = max(trials, key=lambda trial: float(trial["score"]))
    assert best["head"] == top["head"]
    assert best["dropout"] == pytest.approx(float(top["dropout"]))
    settings = parse_settings([*flags, "--config", str(run / "best_config.json")]).as_json()
    assert {name: settings[name] for name in best} == best


@pytest.mark.usefixtures("not_hurried")
def test_grid_resumes_tries_every_combination_and_names_the_best(
    two_folds: list[str],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C while the second combination is tried: the first is not tried again."""
    grid = tmp_path / "grid.json"
    grid.write_text('{"head": ["mean", "self-attention"], "dropout": [0.1]}')
    tried: list[str] = []

    def interrupted(settings: Settings, *others: Any) -> Trainer:
        tried.append(settings.model.head)
        if len(tried) == 3:
            signal.raise_signal(signal.SIGINT)
        return fit(settings, *others)

    monkeypatch.setattr(experiments, "fit", interrupted)
    command = [*two_folds, "--grid", str(grid)]
    assert main(command) == 130
    assert main(command) == 0
    assert tried == ["mean"] * 2 + ["self-attention"] * 3  # two folds each; one was interrupted
    rows = rows_in(run / "grid.csv")
    assert [(row["head"], row["dropout"]) for row in rows] == [
        ("mean", "0.1"),
        ("self-attention", "0.1"),
    ]
    best = max(rows, key=lambda row: float(row["roc_auc"]))
    chosen = json.loads((run / "best_config.json").read_text())
    assert chosen == {"head": best["head"], "dropout": 0.1}


def test_grid_with_a_combination_that_contradicts_itself(
    two_folds: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.json"
    grid.write_text('{"warmup_epochs": [1, 9]}')
    assert main([*two_folds, "--grid", str(grid)]) == 2
    assert "--epochs 2 is not above --warmup-epochs 9" in capsys.readouterr().err


@pytest.mark.usefixtures("features_before")
def test_range_test_writes_its_losses_and_its_plot(
    flags: list[str], run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status = main([*flags, *SHORT, "--find-lr"])
    assert "oneDNN" not in capfd.readouterr().err  # native messages are in the log
    assert status in (0, 2)  # 2: too few clips to find a rate, which is reported
    rows = rows_in(run / "learning_rate.csv")
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == sorted(rates) and rates[0] == pytest.approx(1e-6)
    assert cv2.imread(str(run / "learning_rate.png")) is not None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--find-lr", "--tune", "3"], "give one of them"),
        (["--find-lr", "--cross-validate", "3"], "give one of them"),
        (["--unlabeled", ".", "--tune", "3"], "drop it"),
        (["--cross-validate", "15"], "use at most 14"),
    ],
)
def test_impossible_experiment_is_refused_before_features_are_computed(
    flags: list[str],
    tmp_path: Path,
    wrong: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*flags, *wrong]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
