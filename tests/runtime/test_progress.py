import os
import pty
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until
from violence_detection.runtime.logs import package_log, start_log
from violence_detection.runtime.progress import Progress, running_clock


@pytest.fixture
def clock() -> Callable[[], float]:
    """Return a clock that advances five seconds with each call."""
    seconds = iter(range(0, 1000, 5))
    return lambda: next(seconds)


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "training.log"
    for handler in list(package_log.handlers):
        package_log.removeHandler(handler)
        handler.close()


def test_without_a_bar_there_is_a_line_from_time_to_time(
    log_file: Path, clock: Callable[[], float], capsys: pytest.CaptureFixture[str]
) -> None:
    start_log(log_file)
    with Progress("features", 100, 40, bar=False, line_every=20, clock=clock) as progress:
        for _ in range(10):
            progress.update(2)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "features: 48 of 100 clips, 0.4 clips/s, 02:10 left",
        "features: 56 of 100 clips, 0.4 clips/s, 01:50 left",
    ]
    assert shown.err == ""
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", log_file.read_text())


def test_log_lines_stand_above_the_bar(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_log(log_file)
    with Progress("features", 100, bar=True) as progress:
        progress.update(10, "epoch 1/3")
        package_log.info("a line")
    shown = capsys.readouterr()
    assert shown.out == "a line\n"
    assert "epoch 1/3" in shown.err
    assert "10/100" in shown.err
    assert shown.err.endswith("\r")  # the bar is removed
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", log_file.read_text())


def test_clock_runs_on_a_terminal_and_is_removed() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "w") as screen:
        with running_clock("loading TensorFlow", screen=screen):
            shown = b""
            while b"loading TensorFlow 00:01" not in shown:
                shown += terminal.read(100)
        assert shown.startswith(b"\rloading TensorFlow 00:00")
        left = terminal.read(1000).decode()
        assert left.endswith("\r") and not left.rpartition("TensorFlow")[2].strip("0123456789: \r")


def test_quiet_terminal_shows_no_clock() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "w") as screen:
        with running_clock("loading TensorFlow", quiet=True, screen=screen):
            print("only this", file=screen, flush=True)
        assert terminal.read(100).split() == [b"only", b"this"]


def test_elsewhere_the_clock_is_a_line_from_time_to_time(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "violence_detection")
    with (
        (tmp_path / "screen").open("w") as screen,
        running_clock("writing onnx", screen=screen, line_every=0.01),
    ):
        wait_until(lambda: len(caplog.messages) > 1)
    assert caplog.messages[0] == "writing onnx: 00:00"
    assert (tmp_path / "screen").read_text() == ""
