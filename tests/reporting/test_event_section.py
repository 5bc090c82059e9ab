"""What the report shows of predictions that were compared with annotated events."""

from pathlib import Path

import pytest

from tests.reporting.made_up_runs import (
    HOSTILE_NAMES,
    Make,
    Page,
    compared_video,
    escaped,
    plain,
    write_event_figures,
)
from violence_detection.commands.report import main

MISSED = "missed.mp4"


def report_on(run: Path, *flags: object) -> Page:
    assert main(["--checkpoint-dir", str(run), *map(str, flags)]) == 0
    return Page(run / "report.html")


def test_event_figures_in_the_runs_folder_are_shown(make_run: Make) -> None:
    run = make_run()
    videos = [*(compared_video(name) for name in HOSTILE_NAMES), *[compared_video("a.mp4")] * 10]
    path = run / "event_figures" / "event_figures.json"
    write_event_figures(path, *videos, compared_video(MISSED, found=False))
    page = report_on(run)
    assert page.row("events found") == ["1 of 1"]
    assert page.row("delay until found (s)") == ["median 540.0, mean 540.0, longest 540.0"]
    assert page.row(MISSED) == ["0 of 1", "0", "–"]
    assert page.row("a.mp4") == ["1 of 1", "0", "2.5"]
    assert page.row("broken.mp4") == ["the file is <empty>"]
    section = plain(page.sections["events"])
    assert "windows of 2 s, 1 s apart" in section
    assert "events in events.csv, at threshold 0.450." in section
    assert "a <b>warning</b>" in section
    # 12 of the 20 timelines, the missed event first.
    assert page.plots() == 6 + 12
    assert section.index(MISSED) < section.index("a.mp4")
    for name in HOSTILE_NAMES:
        assert escaped(name) in page.text
    assert not page.of("script")


def test_event_figures_elsewhere_are_shown_with_a_threshold_that_has_changed(
    make_run: Make, tmp_path: Path
) -> None:
    run, path = make_run(), tmp_path / "elsewhere" / "figures.json"
    write_event_figures(path, compared_video("a.mp4"), threshold=0.6)
    section = plain(report_on(run, "--events", path).sections["events"])
    assert "at threshold 0.600. The threshold is 0.450 now." in section


def test_wrong_event_figures_are_one_line_and_status_2(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    for path in (run / "nothing.json", run / "training_results.json", run / "splits.csv"):
        assert main(["--checkpoint-dir", str(run), "--events", str(path)]) == 2
        error = capsys.readouterr().err
        assert f"{path}: missing, damaged or not event figures" in error
        assert error.count("\n") == 1
    assert main(["--checkpoint-dir", str(run), str(run), "--events", "figures.json"]) == 2
    assert "--events is for the report of one run" in capsys.readouterr().err
