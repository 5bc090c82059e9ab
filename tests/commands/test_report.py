"""The report as it is asked for, and as somebody sees it who opens it in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import SIZES, launched, look_at, needs_browser
from tests.reporting.made_up_runs import (
    HOSTILE_NAMES,
    LEAK,
    change_results,
    compared_video,
    escaped,
    hostile_results,
    make_hostile,
    write_event_figures,
    write_run,
    write_suspects,
)
from violence_detection.clips.dataset import find_clips
from violence_detection.commands.report import main
from violence_detection.storage.files import read_json


def test_page_of_one_run_is_in_its_folder_and_of_several_where_they_are_asked_for(
    drawn_clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = (write_run(tmp_path / name, drawn_clips) for name in ("first", "second"))
    monkeypatch.chdir(tmp_path)
    assert main(["--checkpoint-dir", "first"]) == 0
    assert capsys.readouterr().out == f"report written to {first / 'report.html'}\n"
    assert "Detects 3 of 4<" in (first / "report.html").read_text().replace("<b>", "")
    assert main(["--checkpoint-dir", str(first), str(second)]) == 0
    assert "2 runs compared" in (tmp_path / "comparison.html").read_text()
    assert main(["--checkpoint-dir", str(second), "--output", "page.html"]) == 0
    assert (tmp_path / "page.html").exists()
    assert not (second / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint-dir", "nothing"], "no such folder"),
        (["--checkpoint-dir", "run", "empty"], "empty contains no run"),
        (["--checkpoint-dir", "run", "--output", "nowhere/page.html"], "its folder does not exist"),
        (["--checkpoint-dir", "run", "--output", "empty"], "empty: is a folder"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    arguments: list[str],
    message: str,
    drawn_clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(tmp_path / "run", drawn_clips)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def hostile_page(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    clips = make_hostile(folder, drawn_clips)
    results = hostile_results(clips) | {"untrained_vgg19": True}
    run = write_run(folder / HOSTILE_NAMES[1], clips, results=results, wrong=9)
    figures = read_json(run / "training_results.json")["evaluation"]
    by_name = {name: dict.fromkeys(HOSTILE_NAMES, figures) for name in HOSTILE_NAMES[:2]}
    change_results(run, by_subgroup=by_name)
    events = run / "event_figures" / "event_figures.json"
    write_event_figures(events, *map(compared_video, HOSTILE_NAMES))
    write_suspects(run, find_clips(clips, 0))
    assert main(["--checkpoint-dir", str(run)]) == 0
    return run / "report.html"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_hostile_names_do_nothing_in_a_browser_and_are_shown_literally(
    browser: Any, hostile_page: Path, size: str, scheme: str
) -> None:
    faults, text = look_at(browser, hostile_page, SIZES[size], scheme)
    assert not faults
    for name in HOSTILE_NAMES:
        assert text.count(escaped(name)) >= 5, name


@needs_browser
def test_report_of_real_clips_is_sound_on_a_desk_and_on_a_phone(
    browser: Any, real_clips: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", real_clips, frames=16, wrong=8)
    assert main(["--checkpoint-dir", str(run)]) == 0
    page = run / "report.html"
    assert page.stat().st_size < 3e6
    for size in SIZES.values():
        for scheme in ("light", "dark"):
            faults, text = look_at(browser, page, size, scheme)
            assert not faults
            assert "No frames" not in text


@needs_browser
def test_runs_side_by_side_are_sound_in_a_browser(
    browser: Any, drawn_clips: Path, tmp_path: Path
) -> None:
    runs = [
        write_run(
            tmp_path / name,
            drawn_clips,
            settings={"learning_rate": 0.1**number, "vgg19_weights": "w" * 150 + str(number)},
            results={"leakage": [LEAK | {"similarity": None, "reason": "same group"}]},
            wrong=number,
        )
        for number, name in enumerate(("plain", "x" * 120, '"><b>three'))
    ]
    page = tmp_path / "page.html"
    assert main(["--checkpoint-dir", *map(str, runs), "--output", str(page)]) == 0
    for name, size in SIZES.items():
        faults, text = look_at(browser, page, size, "light")
        assert not faults, name
    assert '"><b>three is correct on 4 fewer clips than plain.' in text
