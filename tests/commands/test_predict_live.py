import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.clips.videos import write_doubtful_clip
from tests.conftest import ROOT
from tests.inference.test_webhook import server
from violence_detection.clips.demo import draw_clip
from violence_detection.commands.predict import main

TIMEOUT = 60.0  # seconds


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video of two seconds, 12 frames a second."""
    path = tmp_path / "clip.mp4"
    draw_clip(path, True, np.random.default_rng(3))
    return path


def in_run(trained: Path, *flags: str) -> list[str]:
    return ["--checkpoint-dir", str(trained / "run"), *flags]


def test_command_writes_and_posts_events_of_a_file(
    trained: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = in_run(trained, "--source", str(video), "--window", "0.8", "--threshold", "0")
    with server(503, 200) as posts:
        assert main([*flags, "--webhook", f"http://me:secret@{posts.address}/secret"]) == 0
        assert len(posts.notices) == 2
    captured = capsys.readouterr()
    begin, over = map(json.loads, captured.out.splitlines())
    assert [begin, over] == posts.notices
    assert (begin["source"], begin["ongoing"], begin["start"]) == (str(video), True, 0)
    assert (over["ongoing"], over["end"]) == (False, pytest.approx(23 / 12, abs=0.2))
    seconds_ago = (datetime.now(UTC) - datetime.fromisoformat(begin["time"])).total_seconds()
    assert 1.5 < seconds_ago < TIMEOUT
    assert "24 frames, " in captured.err
    assert "secret" not in captured.err


@pytest.mark.parametrize("kind", ["still", "damaged"])
def test_source_that_tells_little_has_a_warning(
    kind: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_doubtful_clip(tmp_path / "clip.mp4", kind)
    assert main(in_run(trained, "--source", str(path), "--window", "0.4", "--threshold", "0")) == 0
    captured = capsys.readouterr()
    if kind == "still":
        notices = [json.loads(line) for line in captured.out.splitlines()]
        assert {tuple(notice["warnings"]) for notice in notices} == {
            ("nothing moves in the picture",)
        }
        assert "nothing moves in the picture" in captured.err
    else:
        assert "only 60% of it could be read" in captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name clips, folders or patterns"),
        (["--source", "0", "clip.mp4"], "--source cannot be combined with clips"),
        (["--webhook", "http://server/", "clip.mp4"], "--webhook needs --source"),
        (["--source", "0", "--csv"], "--csv cannot be combined with --source"),
        (["--source", "0", "--replicas", "2"], "--replicas cannot be combined with --source"),
        (["--source", "0", "--stride", "3"], "--stride 3: must be above 0 and at most --window"),
        (["--source", "0", "--webhook", "server"], "--webhook: must be a URL"),
        (["--source", "gone.mp4"], "--source gone.mp4: no such file"),
    ],
)
def test_what_the_user_did_wrong_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(in_run(trained, *flags)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_file_that_is_no_video_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"hello" * 99)
    assert main(in_run(trained, "--source", str(tmp_path / "clip.mp4"), "--quiet")) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "clip.mp4: not a video that FFmpeg can open" in captured.err


@pytest.mark.slow
def test_ctrl_c_ends_the_command_within_seconds(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "still.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3000):  # five minutes
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    command = [sys.executable, str(ROOT / "predict.py")]
    flags = in_run(trained, "--source", str(path), "--threshold", "0")
    with subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert json.loads(process.stdout.readline())["ongoing"]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to its decoders, too
        out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert not json.loads(out)["ongoing"]
    assert "x real time" in err.splitlines()[-1]
    assert "Traceback" not in err
