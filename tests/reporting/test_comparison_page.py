"""What the report of several runs shows of their files."""

from tests.reporting.made_up_runs import (
    Make,
    page_of,
    plain,
    shown,
)
from violence_detection.storage.files import read_json


def test_page_has_the_differences_and_whether_they_are_chance(
    make_run: Make,
) -> None:
    first = make_run("plain", wrong=2)
    second = make_run("other", settings={"head": "mean", "epochs": 7, "debug": True}, wrong=0)
    page = page_of(first, second)
    header = plain(page.sections["header"])
    assert "other is 50.0 points more accurate than plain." in header
    assert "Accuracy 1.000 versus 0.500 on the 8 clips that both were tested on" in header
    assert "More than chance" in header
    assert "only the former is correct on 4, only the latter on 0" in header
    assert page.row("--head") == ["attention-lstm", "mean"]
    assert page.row("--epochs") == ["100", "7"]
    assert "--debug" not in page.sections["settings"]
    figures = [read_json(run / "training_results.json")["evaluation"] for run in (first, second)]
    assert page.row("accuracy") == [shown(of_run, "accuracy") for of_run in figures]
    assert page.row("time, energy and cost")[0].startswith("3.3 min, 0.25 kWh")
    assert len(page.of("picture")) == 12
    assert len([details for details in page.of("details") if details.get("class") == "run"]) == 2
    assert not (first / "plots").exists()


def test_runs_of_one_name_get_different_names_and_equal_ones_are_as_accurate(
    make_run: Make,
) -> None:
    page = page_of(make_run("a/checkpoints"), make_run("b/checkpoints"))
    assert "b/checkpoints is as accurate as a/checkpoints." in plain(page.text)
    assert "None that affect the result." in page.sections["settings"]
