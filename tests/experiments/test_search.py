import logging
import math
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tests.conftest import ROOT
from violence_detection.errors import RunError, UserError
from violence_detection.experiments.search import SPACE, trials_table, tune, write_config
from violence_detection.runtime.logs import package_log
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings

Report = Callable[[int, float], None]


SMALL_SPACE = {
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "dropout": FloatDistribution(0.0, 0.8),
    "batch_size": CategoricalDistribution((16, 32, 64)),
}


def closeness(settings: Settings, report: Report | None = None) -> float:
    """Return a score that is best, 0, at a rate of 3e-4, a dropout of 0.2 and a batch of 16."""
    return -(
        abs(math.log10(settings.training.learning_rate / 3e-4))
        + abs(settings.loss.dropout - 0.2)
        + (settings.training.batch_size != 16)
    )


def test_search_comes_near_the_optimum(tmp_path: Path) -> None:
    start = Settings()
    best = tune(start, closeness, 40, tmp_path / "search.sqlite", SMALL_SPACE)
    assert {name: type(value) for name, value in best.items()} == {
        "learning_rate": float,
        "dropout": float,
        "batch_size": int,
    }
    assert closeness(start.replace(**best)) > 0.25 * closeness(start)


def test_search_begins_with_the_settings_as_they_are(tmp_path: Path) -> None:
    start, tried = Settings(), []

    def score(settings: Settings, report: Report) -> float:
        tried.append(settings)
        return -len(tried)

    best = tune(start, score, 3, tmp_path / "search.sqlite")
    assert tried[0] == start
    assert best == {name: start.by_name()[name] for name in SPACE}
    assert len({settings.loss.dropout for settings in tried}) == 3


def test_what_is_found_for_a_network_from_pixels_can_be_trained(tmp_path: Path) -> None:
    """It has no head: one that was found would be refused."""
    flags = ["--dataset-path", ".", "--model", "3d"]
    best = tune(parse_settings(flags), lambda *_: 0.5, 3, tmp_path / "search.sqlite")
    write_config(best, tmp_path / "best.json")
    settings = parse_settings([*flags, "--config", str(tmp_path / "best.json")])
    assert settings.training.learning_rate == pytest.approx(best["learning_rate"], rel=1e-3)


def test_search_begins_with_the_settings_clipped_to_its_space(tmp_path: Path) -> None:
    tried = []
    start = Settings().replace(learning_rate=0.5, dropout=0.3, batch_size=24)
    tune(start, lambda s, _: tried.append(s) or 0.0, 1, tmp_path / "search.sqlite", SMALL_SPACE)
    assert (tried[0].training.learning_rate, tried[0].loss.dropout) == (1e-2, 0.3)
    assert tried[0].training.batch_size in (16, 32, 64)


def test_search_resumes(tmp_path: Path) -> None:
    path, calls = tmp_path / "search.sqlite", []

    def score(settings: Settings, report: Report) -> float:
        calls.append(settings)
        return closeness(settings)

    first = tune(Settings(), score, 5, path, SMALL_SPACE)
    second = tune(Settings(), score, 8, path, SMALL_SPACE)
    assert len(calls) == len(trials_table(path)) == 8
    assert len({settings.loss.dropout for settings in calls}) == 8
    scores = [closeness(Settings().replace(**best)) for best in (first, second)]
    assert scores[1] >= scores[0]
    assert tune(Settings(), score, 8, path, SMALL_SPACE) == second
    assert len(calls) == 8


KILLED = """
import os, signal, sys
from pathlib import Path
from violence_detection.settings.schema import Settings
from violence_detection.experiments.search import tune
from tests.experiments.test_search import SMALL_SPACE, closeness

calls = []

def score(settings, report):
    calls.append(settings)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return closeness(settings)

tune(Settings(), score, 14, Path(sys.argv[1]), SMALL_SPACE)
"""


@pytest.mark.slow
def test_killed_search_resumes_with_the_same_trials(tmp_path: Path) -> None:
    at = 12  # after those that are drawn without looking at the others
    path, whole = tmp_path / "search.sqlite", tmp_path / "whole.sqlite"
    command = [sys.executable, "-c", KILLED, str(path), str(at)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert [row["state"] for row in trials_table(path)] == ["complete"] * (at - 1) + ["running"]
    best = tune(Settings(), closeness, 14, path, SMALL_SPACE)
    assert best == tune(Settings(), closeness, 14, whole, SMALL_SPACE)
    table = trials_table(path)
    assert table.pop(at - 1)["state"] == "fail"
    values = [[{**row, "number": 0} for row in rows] for rows in (table, trials_table(whole))]
    assert values[0] == values[1]


def test_bad_trial_is_pruned_and_counts(tmp_path: Path) -> None:
    path, folds = tmp_path / "search.sqlite", []

    def score(settings: Settings, report: Report) -> float:
        trial = sum(fold == 0 for _, fold in folds)
        for fold in range(3):
            folds.append((trial, fold))
            report(fold, 0.1 if trial == 7 else 0.9 + 0.001 * trial)
        return 0.9

    tune(Settings(), score, 9, path, SMALL_SPACE)
    assert folds.count((7, 0)) == 1
    assert (7, 1) not in folds
    table = trials_table(path)
    assert len(table) == 9
    assert (table[7]["state"], table[7]["score"]) == ("pruned", 0.1)
    assert list(table[0]) == ["number", "state", "score", *SMALL_SPACE]


def test_diverged_training_is_never_the_best(tmp_path: Path) -> None:
    path = tmp_path / "search.sqlite"
    start = Settings().replace(dropout=0.7)

    def score(settings: Settings, report: Report) -> float:
        return math.nan if settings.loss.dropout > 0.5 else settings.loss.dropout

    with pytest.raises(UserError, match=r"no finite score in 1 trial, .*search\.sqlite"):
        tune(start, score, 1, path, SMALL_SPACE)
    assert tune(start, score, 8, path, SMALL_SPACE)["dropout"] <= 0.5
    assert len(trials_table(path)) == 8


def test_failed_trial_is_repeated(tmp_path: Path) -> None:
    path, tried = tmp_path / "search.sqlite", []

    def score(settings: Settings, report: Report) -> float:
        tried.append(settings)
        if len(tried) == 1:
            raise RunError("no room")
        return 0.0

    with pytest.raises(RunError, match="no room"):
        tune(Settings(), score, 2, path, SMALL_SPACE)
    tune(Settings(), score, 2, path, SMALL_SPACE)
    assert tried[0] == tried[1] == Settings()
    assert [row["state"] for row in trials_table(path)] == ["fail", "complete", "complete"]


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"epochs": 50}, {}, r"--epochs 100 \(now 50\)"),
        ({"streams": ("rgb",)}, {}, "--streams"),
        ({}, {"clips": "others"}, "other clips"),
        ({}, {"space": SPACE}, "another search space"),
    ],
)
def test_another_search_is_refused(
    changes: dict, arguments: dict, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "search.sqlite"
    first = {"clips": "some", "space": SMALL_SPACE}
    tune(Settings(), closeness, 1, path, **first)
    with pytest.raises(UserError, match=rf"search\.sqlite holds a search with .*{words}.*another"):
        tune(Settings().replace(**changes), closeness, 2, path, **first | arguments)


def test_settings_that_do_not_matter_may_change(tmp_path: Path) -> None:
    path = tmp_path / "search.sqlite"
    tune(Settings().replace(tune=1), closeness, 1, path, SMALL_SPACE)
    changed = Settings().replace(tune=2, cache_dir=Path("elsewhere"), dropout=0.1, debug=True)
    tune(changed, closeness, 2, path, SMALL_SPACE)
    assert len(trials_table(path)) == 2


def test_file_that_is_not_a_search_is_refused(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("no database " * 100)
    with pytest.raises(UserError, match=r"notes\.txt is damaged or not a search"):
        tune(Settings(), closeness, 1, text, SMALL_SPACE)
    assert text.read_text().startswith("no database")
    with pytest.raises(UserError, match=r"gone\.sqlite: no such file"):
        trials_table(tmp_path / "gone.sqlite")
    sqlite3.connect(other).close()
    with pytest.raises(UserError, match=r"other\.sqlite does not hold a search"):
        trials_table(other)
    with pytest.raises(RunError, match=r"search\.sqlite cannot be written: .*unable to open"):
        tune(Settings(), closeness, 1, tmp_path / "gone" / "search.sqlite", SMALL_SPACE)


def test_search_logs_one_line_per_trial(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "what? {a} #name%20"
    level = package_log.level
    package_log.setLevel(logging.INFO)
    package_log.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tune(Settings(), closeness, 3, path, SMALL_SPACE)
    finally:
        package_log.removeHandler(caplog.handler)
        package_log.setLevel(level)
    records = [r for r in caplog.records if r.name.startswith(package_log.name)]
    lines = [record.getMessage() for record in records]
    lines = list(dict.fromkeys(lines))  # twice where the log propagates
    assert len(lines) == 3
    assert lines[0].startswith("trial 0 (1 of 3)  score -1.8229  learning_rate 0.001 dropout 0.5")
    assert capfd.readouterr().err == ""
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_written_settings_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    values = {"learning_rate": 0.00123, "units": 64, "head": "mean", "class_weights": (1.0, 2.5)}
    write_config(values | {"cache_dir": Path("драка")}, path)
    assert "драка" in path.read_text(encoding="utf-8")
    settings = parse_settings(["--dataset-path", "/", "--config", str(path)])
    assert settings.data.cache_dir == Path("драка")
    assert {name: settings.by_name()[name] for name in values} == values
