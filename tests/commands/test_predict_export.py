"""`predict --export`, for clips and for windows of videos."""

import json
import shutil
from pathlib import Path

import pytest

from violence_detection.commands.predict import main
from violence_detection.datasets.formats import read


@pytest.fixture
def clips(drawn_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, the working one, with two good clips below `clips` and a bad one."""
    for class_name in ("nonviolent", "violent"):
        (tmp_path / "clips" / class_name).mkdir(parents=True)
        source = drawn_clips / "test" / class_name / f"{class_name}0.mp4"
        shutil.copy(source, tmp_path / "clips" / class_name)
    (tmp_path / "clips" / "bad.avi").write_bytes(b"hello" * 99)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_clips_are_choices_with_what_contradicts_their_folder_first(
    clips: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--checkpoint-dir", str(trained / "run"), "clips", "--threshold", "0"]
    exports = ["--export", "label-studio", "tasks.json", "--export", "fiftyone", "set"]
    assert main([*command, *exports]) == 3
    captured = capsys.readouterr()
    assert "clips/violent" in captured.out  # the table is as ever
    assert "2 tasks" in captured.err and "tasks.xml" in captured.err
    assert "1 contradicted label first" in captured.err
    first, second = json.loads(Path("tasks.json").read_text())
    # Everything is violent at threshold 0.
    assert [task["data"]["label"] for task in (first, second)] == ["nonviolent", "violent"]
    assert first["predictions"][0]["result"][0]["value"] == {"choices": ["violent"]}
    assert "<Choices" in Path("tasks.xml").read_text()
    samples = json.loads(Path("set/samples.json").read_text())["samples"]
    assert [sample["tags"] for sample in samples] == [["contradiction"], []]
    imported = read(Path("set"), clips)
    assert [(row.video, row.label) for row in imported.rows] == [
        ("clips/nonviolent/nonviolent0.mp4", 0),
        ("clips/violent/violent0.mp4", 1),
    ]
    assert main([*command, *exports[3:], "--quiet"]) == 3  # an export of before is replaced


def test_windows_are_segments(clips: Path, trained: Path) -> None:
    video = "clips/violent/violent0.mp4"
    command = ["--checkpoint-dir", str(trained / "run"), video, "--threshold", "0", "--quiet"]
    exports = ["--export", "label-studio", "tasks.json", "--export", "fiftyone", "set"]
    assert main([*command, "--window", "1", *exports]) == 0
    (task,) = json.loads(Path("tasks.json").read_text())
    (region,) = task["predictions"][0]["result"]
    (frames,) = region["value"]["ranges"]
    assert frames["start"] == 1 and frames["end"] / task["data"]["fps"] > 1
    imported = read(Path("set"), clips)
    assert imported.are_events
    (row,) = imported.rows
    assert (row.video, row.label, row.start) == (video, 1, 0)
    assert row.end == pytest.approx(frames["end"] / task["data"]["fps"], abs=0.05)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--export", "cvat", "x.json"], "--export cvat: the tool must be one of label-studio"),
        (["--export", "label-studio", "x.csv"], "must end in .json"),
        (["--export", "label-studio", "no/x.json"], "its folder does not exist"),
        (["--export", "label-studio", "x.json", "--output", "x.json"], "is that of --output"),
        (["--export", "fiftyone", "set.json"], "FiftyOne reads a folder"),
        (["--export", "fiftyone", "clips"], "is not empty"),
        (["--export", "fiftyone", "clips/bad.avi"], "is a file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_read(
    clips: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["--checkpoint-dir", "none", "clips", *flags]) == 2
    assert message in capsys.readouterr().err


def test_live_sources_are_not_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", "0", "--export", "fiftyone", "set"]) == 2
    assert "--export cannot be combined with --source" in capsys.readouterr().err
