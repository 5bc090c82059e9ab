import logging
import os
import pty
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from violence_detection.errors import RunError
from violence_detection.runtime.logs import (
    native_messages_to,
    package_log,
    start_log,
    wrapped,
)

log = logging.getLogger("violence_detection.tests")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "training.log"
    for handler in list(package_log.handlers):
        package_log.removeHandler(handler)
        handler.close()


def test_screen_has_the_text_and_the_file_also_levels_times_and_tracebacks(
    log_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_log(log_file)
    log.info("an epoch")
    log.warning("a bad clip")
    try:
        raise ValueError("the cause")
    except ValueError:
        log.debug("traceback", exc_info=True)
    assert capsys.readouterr().out == "an epoch\nWARNING: a bad clip\n"
    written = log_file.read_text()
    assert "INFO    an epoch" in written
    assert "WARNING a bad clip" in written
    assert "ValueError: the cause" in written


def test_screen_level(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_log(log_file, logging.WARNING)
    log.info("an epoch")
    log.warning("a bad clip")
    assert capsys.readouterr().out == "WARNING: a bad clip\n"
    assert "an epoch" in log_file.read_text()


def test_next_log_replaces_the_one_before_and_keeps_its_file(
    log_file: Path, tmp_path: Path
) -> None:
    start_log(log_file)
    log.info("first")
    start_log(tmp_path / "other.log")
    log.info("second")
    start_log(log_file)
    log.info("third")
    assert [line.split()[-1] for line in log_file.read_text().splitlines()] == ["first", "third"]
    assert "second" in (tmp_path / "other.log").read_text()


def test_log_has_no_control_characters_of_file_names(
    log_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_log(log_file)
    log.info("bad clip %s", "a\x1b[2Jb\rc.mp4")
    log.info("bad clip %s", os.fsdecode(b"\xff.mp4"))
    for text in (log_file.read_text(), capsys.readouterr().out):
        assert "bad clip a\\x1b[2Jb\\x0dc.mp4\n" in text
        assert "bad clip \\udcff.mp4\n" in text


def test_file_that_cannot_be_written_ends_the_run(log_file: Path) -> None:
    """A limit on the size of the process's files stands in for a full disk."""
    start_log(log_file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"training\.log cannot be written: File too large"):
            for _ in range(2):
                log.debug("x" * 9_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_native_messages_go_to_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "native.log"
    with native_messages_to(path):
        os.write(2, b"a note of a library\n")
    os.write(2, b"an error\n")
    assert path.read_text() == "a note of a library\n"
    assert capfd.readouterr().err == "an error\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a few words", ["a few words"]),
        ("more words than there is room for", ["more words than", "  there is room", "  for"]),
        ("  a list, which is indented", ["  a list, which", "    is indented"]),
        ("in /a/path/that/is/too/long", ["in", "  /a/path/that/is/too/long"]),
        ("columns   stay", ["columns   stay"]),
    ],
)
def test_lines_end_between_words(text: str, lines: list[str]) -> None:
    assert wrapped(f"{text}\n{text}", 15).split("\n") == 2 * lines


def test_only_a_terminal_gets_shorter_lines(
    log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "word " * 30
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "w") as screen:
        monkeypatch.setattr("sys.stdout", screen)
        monkeypatch.setenv("COLUMNS", "80")
        start_log(log_file)
        log.info(long)
        shown = terminal.read(1000).decode()
    assert shown.count("word") == 30 and len(shown.splitlines()) == 2
    assert long in log_file.read_text()
