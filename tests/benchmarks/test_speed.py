import json
from pathlib import Path

import pytest

from benchmarks.speed import AT_LEAST, AT_MOST, compare_with_targets, main
from benchmarks.tables import figure_at
from tests.conftest import ROOT

RESULTS = [
    ROOT / "benchmarks" / "results" / name for name in ("speed_cpu.json", "decoding_fights.json")
]


@pytest.mark.parametrize(("figure", "met"), [(2.5, True), (2.2, True), (2.1, False), (None, None)])
def test_target_is_met_missed_or_without_a_device(figure: float | None, met: bool | None) -> None:
    name = "training.float32.ours_over_plain"
    figures = {
        "ours_over_plain": figure,
        "clips_per_second": {"plain": 500},
        "batch_size": 64,
        "milliseconds_at_best": 64,
    }
    rows = compare_with_targets({"training": {"float32": figures}})
    assert {row["name"] for row in rows} == {n for n in AT_LEAST if n.startswith("training")}
    row = next(row for row in rows if row["name"] == name)
    assert row["met"] is met
    assert row["at_best"] == (None if figure is None else 2)


def test_stored_results_have_the_figure_of_every_target() -> None:
    reports = [json.loads(path.read_text()) for path in RESULTS]
    for name in [*AT_LEAST, *AT_MOST]:
        stage, _, figure = name.rpartition(".")
        assert any(figure in (figure_at(report, stage) or ()) for report in reports), name
    for report in reports:
        assert report["targets"] == compare_with_targets(report)
        assert report["machine"]["devices"]


@pytest.mark.slow
def test_decoding_is_measured_printed_and_written(
    drawn_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "speed.json"), "--markdown", str(tmp_path / "speed.md")]
    main(["--stages", "decode", "--dataset-path", str(drawn_clips), "--long-seconds", "4", *files])
    decode = json.loads((tmp_path / "speed.json").read_text())["decode"]
    assert decode["ours_over_opencv"] > 0
    assert [row["ours_over_opencv"] > 0 for row in decode["long"]] == [True, True]
    printed = capsys.readouterr().out
    assert "grab() alone" in printed
    assert "| OpenCV: grab() alone" in (tmp_path / "speed.md").read_text()
    assert max(map(len, printed.splitlines())) <= 80
