import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.clips.videos import draw_video, grey, write_clip, write_doubtful_clip
from tests.conftest import ROOT
from violence_detection.commands.predict import main
from violence_detection.inference.formats import display_width


@pytest.fixture
def clips(drawn_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, the working one, with two good clips below `clips` and a bad one."""
    for class_name in ("nonviolent", "violent"):
        (tmp_path / "clips" / class_name).mkdir(parents=True)
        source = drawn_clips / "test" / class_name / f"{class_name}0.mp4"
        shutil.copy(source, tmp_path / "clips" / class_name / "clip.mp4")
    (tmp_path / "clips" / "bad.avi").write_bytes(b"hello" * 99)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_run(trained: Path, *flags: str) -> list[str]:
    return ["--checkpoint-dir", str(trained / "run"), *flags]


NAMES = ["clips/bad.avi", "clips/nonviolent/clip.mp4", "clips/violent/clip.mp4"]


def test_table_has_a_row_per_clip_with_the_reason_for_a_bad_one(
    clips: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(in_run(trained, "clips")) == 3
    captured = capsys.readouterr()
    header, *rows = captured.out.splitlines()
    assert header.split() == ["clip", "probability", "prediction", "top", "frames", "(s)"]
    assert [row.split()[0] for row in rows] == NAMES
    assert rows[0].split(maxsplit=1)[1] == "bad: not a video that FFmpeg can open"
    assert {row.split()[2] for row in rows[1:]} <= {"violent", "nonviolent"}
    assert "RANDOM WEIGHTS" in captured.err
    assert "chosen for accuracy; VGG19 to block1_conv1" in captured.err
    assert "3 clips: " in captured.err
    assert "1 bad; " in captured.err


def test_json_and_csv_agree_with_the_runs_own_test(
    clips: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (trained / "run" / "predictions.csv").open(newline="") as file:
        own = {row["clip"]: row for row in csv.DictReader(file)}
    expected = [own[f"test/{name}/{name}0.mp4"] for name in ("nonviolent", "violent")]
    good = ["clips/nonviolent", "clips/violent"]
    assert main(in_run(trained, *good, "--json", "--quiet")) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(in_run(trained, *good, "--csv", "--output", "rows.csv")) == 0
    assert capsys.readouterr().out == ""
    with Path("rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert document["untrained_vgg19"]
    for name, of_clip, row, known in zip(NAMES[1:], document["clips"], rows, expected, strict=True):
        assert of_clip["clip"] == row["clip"] == name
        assert of_clip["probability"] == pytest.approx(float(known["probability"]), abs=2e-6)
        assert row["probability"] == f"{of_clip['probability']:.6f}"
        assert row["verdict"] == known["verdict"]
        assert of_clip["violent"] == (known["verdict"] == "violent")
        weights = [frame["attention"] for frame in of_clip["frames"]]
        assert weights == pytest.approx(
            [float(known[f"attention_{n}"]) for n in (1, 2, 3, 4)], abs=1e-4
        )
        assert of_clip["weighed_most"][0] == 1 + weights.index(max(weights))
        times = [frame["time"] for frame in of_clip["frames"]]
        assert [float(row[f"time_{n}"]) for n in (1, 2, 3, 4)] == pytest.approx(times, abs=1e-3)


def test_bad_clip_is_a_row_in_json_and_csv(
    clips: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(in_run(trained, "clips/bad.avi", "--json")) == 3
    (bad,) = json.loads(capsys.readouterr().out)["clips"]
    assert bad == {"clip": "clips/bad.avi", "error": "not a video that FFmpeg can open"}
    assert main(in_run(trained, "clips/bad.avi", "--csv")) == 3
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["probability"], row["error"]) == ("", "not a video that FFmpeg can open")


@pytest.mark.parametrize(("threshold", "verdict"), [("0", "violent"), ("1", "nonviolent")])
def test_a_given_threshold_decides(
    clips: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    threshold: str,
    verdict: str,
) -> None:
    assert main(in_run(trained, "clips/*violent", "--csv", "--threshold", threshold)) == 0
    captured = capsys.readouterr()
    rows = csv.DictReader(io.StringIO(captured.out))
    assert [row["verdict"] for row in rows] == [verdict] * 2
    assert f"threshold {float(threshold):.3f}, given by --threshold" in captured.err


@pytest.mark.parametrize(
    "name",
    [
        b"a very long name of a clip, with more words than a table has columns.mp4",
        "格闘技の試合がここにあります、とても長い名前のクリップです。.mp4".encode(),
        b"bytes that are no text \xff\xfe.mp4",
        b"what a terminal would obey \x1b[2J\n.mp4",
    ],
)
def test_any_name_fits_a_line_of_the_table(
    clips: Path, trained: Path, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    shutil.copy("clips/violent/clip.mp4", name)
    Path(os.fsdecode(b"bad " + name)).write_text("a" * 99)
    assert main(in_run(trained, os.fsdecode(name), os.fsdecode(b"bad " + name))) == 3
    lines = capsys.readouterr().out.splitlines()
    assert max(map(display_width, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert lines[1].startswith(name[:3].decode()[:1])
    assert ".mp4" in lines[1]


def test_an_output_that_nobody_reads_is_no_error(clips: Path, trained: Path) -> None:
    command = [sys.executable, str(ROOT / "predict.py"), *in_run(trained, "clips", "--quiet")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        messages = process.stderr.read()
        process.wait()
    assert "error" not in messages
    assert process.returncode == 141


def test_long_video_is_predicted_in_windows_of_a_training_clips_length(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.mp4"
    draw_video(path, [False, True, False, False], np.random.default_rng(1))
    assert main(in_run(trained, str(path), "--json", "--threshold", "0.99")) == 0
    (clip,) = json.loads(capsys.readouterr().out)["clips"]
    assert main(in_run(trained, str(path), "--window", "2", "--json", "--threshold", "0.99")) == 0
    (in_windows,) = json.loads(capsys.readouterr().out)["clips"]
    assert clip["windows"] == in_windows["windows"]
    assert clip["probability"] == max(window["probability"] for window in clip["windows"])
    assert clip["violent"] == bool(clip["events"])
    assert clip["warnings"] == [
        "it lasts 8 s, training clips 2 s: predicted in windows of 2 s (--whole: one answer)"
    ]
    assert main(in_run(trained, str(path))) == 0
    assert "windows of 2 s" in " ".join(capsys.readouterr().out.split())
    assert main(in_run(trained, str(path), "--csv")) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["probability"]) == pytest.approx(clip["probability"], abs=1e-6)
    assert row["warnings"] == clip["warnings"][0]
    assert main(in_run(trained, str(path), "--json", "--whole")) == 0
    (whole,) = json.loads(capsys.readouterr().out)["clips"]
    assert len(whole["frames"]) == 4
    assert whole["warnings"] == ["4 frames stand for 8 s, but training clips last 2 s"]


def test_clip_of_three_times_a_training_clips_length_gets_one_answer(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    draw_video(path, [False, True, False], np.random.default_rng(1))
    assert main(in_run(trained, str(path), "--json")) == 0
    (clip,) = json.loads(capsys.readouterr().out)["clips"]
    assert len(clip["frames"]) == 4
    assert clip["warnings"] == []


@pytest.mark.parametrize(
    ("kind", "warning"),
    [
        ("one frame", "it is one frame: nothing can move in it"),
        ("still", "nothing moves in it: its frames are all the same"),
        ("damaged", "only 60% of it could be read"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--window", "1"), ("--window", "0.3")])
def test_clip_that_tells_little_has_a_warning(
    kind: str,
    warning: str,
    flags: tuple[str, ...],
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_doubtful_clip(tmp_path / "clip.mp4", kind)
    assert main(in_run(trained, str(path), *flags, "--json")) == 0
    (clip,) = json.loads(capsys.readouterr().out)["clips"]
    if kind == "one frame" and flags:  # its only window is still
        warning = "nothing moves in it: its frames are all the same"
    assert clip["warnings"] == [warning]
    assert main(in_run(trained, str(path), *flags)) == 0
    assert f"WARNING: {warning}" in capsys.readouterr().out


def test_codec_without_a_decoder_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "clip.mp4", [grey(n) for n in range(9)])
    content = path.read_bytes()
    start = content.index(b"stsd")
    path.write_bytes(content[:start] + content[start:].replace(b"avc1", b"XVQZ", 1))
    assert main(in_run(trained, str(path))) == 3
    reason = " ".join(capsys.readouterr().out.split())
    assert "its codec (XVQZ) cannot be decoded here" in reason
    assert "ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4" in reason


def test_messages_of_ffmpeg_are_shown_with_debug(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_doubtful_clip(tmp_path / "clip.mp4", "damaged")
    assert main(in_run(trained, str(path))) == 0
    assert "FFmpeg" not in capsys.readouterr().err
    assert main(in_run(trained, str(path), "--debug")) == 0
    assert f"{path}: FFmpeg: h264: " in capsys.readouterr().err
