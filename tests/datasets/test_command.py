"""`python -m violence_detection.datasets`, as a user types it."""

from pathlib import Path

import pytest

from tests.clips.videos import grey, write_clip
from tests.datasets.files import touch
from violence_detection.clips.manifest import ManifestRow, read_manifest
from violence_detection.datasets.command import main


def test_a_data_set_becomes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(
        tmp_path / "RWF",
        *(
            f"{s}/{c}/x{n}_0.avi"
            for s in ("train", "val")
            for c in ("Fight", "NonFight")
            for n in range(2)
        ),
    )
    assert main([str(tmp_path / "RWF"), "--output", str(tmp_path / "rwf.csv")]) == 0
    rows = read_manifest(tmp_path / "rwf.csv")
    assert len(rows) == 8 and rows[0].video.startswith("RWF/")
    printed = capsys.readouterr().out
    assert "RWF-2000: 8 clips written to" in printed
    assert "train    2 nonviolent, 2 violent, of 2 sources" in printed


@pytest.mark.parametrize("has_splits", [True, False])
def test_sources_are_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_splits: bool
) -> None:
    splits = ("train/", "val/", "test/") if has_splits else ("",)
    names = [f"{s}{c}/{n}.mp4" for s in splits for c in ("violent", "nonviolent") for n in range(9)]
    touch(tmp_path / "clips", *names)
    touch(tmp_path / "feedback", "yard-1.mp4")
    more = tmp_path / "feedback" / "feedback.csv"
    more.write_text("video,start,end,label,group\nyard-1.mp4,1,2,nonviolent,yard\n")
    joined = tmp_path / "all.csv"
    assert main([str(tmp_path / "clips"), str(more), "--output", str(joined)]) == 0
    rows = read_manifest(joined)
    assert {row.video for row in rows} == {f"clips/{n}" for n in names} | {"feedback/yard-1.mp4"}
    (own,) = [row for row in rows if row.group == "yard"]
    assert (own.start, own.end, own.label) == (1, 2, 0)
    assert own.split == ("train" if has_splits else None)
    assert {row.split for row in rows if row is not own} == {s.strip("/") or None for s in splits}
    assert ("without a split" in capsys.readouterr().out) == has_splits


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Return a manifest of one event in one of two videos of four seconds, in another folder."""
    folder = tmp_path / "footage"
    folder.mkdir()
    for name in ("a", "b"):
        times = [number / 10 for number in range(40)]
        write_clip(folder / f"{name}.mp4", [grey(number) for number in range(40)], times=times)
    path = folder / "events.csv"
    path.write_text("video,start,end,label\na.mp4,1,2,violent\nb.mp4,,,nonviolent\n")
    return path


def test_events_become_clips(
    events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(events), "--output", str(tmp_path / "clips.csv")]
    assert main([*command, "--window", "1", "--margin", "0.5", "--per-hour", "1800"]) == 0
    rows = read_manifest(tmp_path / "clips.csv")
    assert rows[0] == ManifestRow("footage/a.mp4", 1, 1, 2, None, "footage/a.mp4")
    assert [(row.video, row.label) for row in rows[1:]] == [
        ("footage/a.mp4", 0),
        *[("footage/b.mp4", 0)] * 2,
    ]
    assert "3 nonviolent, 1 violent, of 2 sources" in capsys.readouterr().out
    assert main([*command, "--window", "1"]) == 2  # it exists, and may have been edited
    assert "--force" in capsys.readouterr().err
    assert read_manifest(tmp_path / "clips.csv") == rows


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["none", "--output", "x.csv"], "none: no such file or folder"),
        (["footage/events.csv", "--output", "x.txt"], "must end in .csv"),
        (["footage/via.csv", "--output", "x.csv"], "VIA"),
        (["footage/bad.csv", "--output", "x.csv"], "line 2: label 'maybe'"),
        (["footage/gone.csv", "--output", "x.csv", "--window", "2"], "gone.mp4: No such file"),
    ],
)
def test_what_cannot_be_done_is_said(
    events: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    (events.parent / "via.csv").write_text("# Exported using VGG Image Annotator\nnothing\n")
    (events.parent / "bad.csv").write_text("video,label\na.mp4,maybe\n")
    (events.parent / "gone.csv").write_text("video,label\ngone.mp4,violent\n")
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
