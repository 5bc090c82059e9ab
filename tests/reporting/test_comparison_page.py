"""What the report of several runs shows of their files."""

from pathlib import Path
from typing import Any

import pytest

from tests.reporting.made_up_runs import Page, page_of, plain, shown, write_run
from violence_detection.storage.files import read_json


@pytest.fixture(scope="module")
def runs(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a run, one that is as accurate, and a better one."""
    folder = tmp_path_factory.mktemp("runs")
    changes: dict[str, dict[str, Any]] = {
        "a": {"wrong": 2},
        "b": {"wrong": 2},
        "c": {"wrong": 0, "settings": {"head": "mean", "epochs": 7, "debug": True}},
    }
    return [write_run(folder / name / "run", drawn_clips, **changes[name]) for name in changes]


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Page:
    return page_of(*runs)


def test_header_has_each_difference_and_whether_it_is_larger_than_chance(page: Page) -> None:
    header = plain(page.sections["header"])
    assert "b/run is as accurate as a/run." in header  # by as much of their paths as differs
    assert "c/run is correct on 4 more clips than a/run." in header
    assert "Correct: 8 versus 4 of the 8 clips that both were tested on" in header
    assert header.index("Not shown to be more than chance") < header.index("The tests disagree")
    assert "Larger than chance" not in header  # McNemar's p of 4 clips is 1/8
    assert "only the former is correct on 4, only the latter on 0" in header
    assert header.count("Only 8 groups in the test") == 1
    assert "every run" in header


def test_figures_and_different_settings_are_side_by_side(page: Page, runs: list[Path]) -> None:
    assert page.row("--head") == ["attention-lstm", "attention-lstm", "mean"]
    assert page.row("--epochs") == ["100", "100", "7"]
    assert "--debug" not in page.sections["settings"]
    figures = [read_json(run / "training_results.json")["evaluation"] for run in runs]
    assert page.row("accuracy") == [shown(of_run, "accuracy") for of_run in figures]
    assert page.row("tested on") == 3 * ["8 test clips"]
    assert page.row("time, energy and cost")[0].startswith("3.3 min, 0.25 kWh")
    assert page.plots() == 18
    assert len([details for details in page.of("details") if details.get("class") == "run"]) == 3
    assert not (runs[0] / "plots").exists()
