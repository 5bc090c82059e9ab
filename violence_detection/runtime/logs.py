"""Where log lines go: the screen, and `training.log` with times and tracebacks."""

import contextlib
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from violence_detection.errors import failing_as

package_log = logging.getLogger("violence_detection")  # the parent of each module's logger
progress_log = package_log.getChild("progress")  # lines that stand for a bar

CONTROL_CHARACTERS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


def start_log(path: Path, screen_level: int = logging.INFO) -> None:
    """Send the package's log to standard output and, with times, to the end of a file.

    The file gets every level and the tracebacks. A log that was started before ends.

    Args:
        path: the log file; its folder must exist.
        screen_level: the lowest level that is shown on the screen.

    Raises:
        OSError: the file cannot be opened. Later, a line that cannot be written to it raises a
            `RunError` where it is logged.
    """
    end_log()
    package_log.setLevel(logging.DEBUG)
    package_log.propagate = False
    screen = _Screen(sys.stdout)
    screen.setLevel(screen_level)
    screen.setFormatter(_ScreenLine("%(message)s", wraps=sys.stdout.isatty()))
    file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_PlainText("%(asctime)s %(levelname)-7s %(message)s"))
    package_log.addHandler(screen)
    package_log.addHandler(file)


def end_log() -> None:
    """Close what `start_log` has opened; later lines go where the process's others go."""
    for handler in list(package_log.handlers):
        package_log.removeHandler(handler)
        handler.close()
    package_log.setLevel(logging.NOTSET)
    package_log.propagate = True


def show_debug_log() -> None:
    """Send the package's log to standard error, every level of it; for commands without a log."""
    screen = _Screen(sys.stderr)
    screen.setFormatter(_PlainText("%(message)s"))
    package_log.handlers, package_log.propagate = [screen], False
    package_log.setLevel(logging.DEBUG)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        # logging itself would print a traceback for every line and continue.
        package_log.removeHandler(self)
        error = sys.exc_info()[1]
        if error is not None:
            with failing_as(Path(self.baseFilename)):
                raise error


class _Screen(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):  # above a progress bar, not into it
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        # The reader has closed the pipe, or its disk is full: the log file has everything.
        package_log.removeHandler(self)


class _PlainText(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # A file name may contain control sequences that a terminal obeys, or invalid UTF-8.
        text = super().format(record).translate(CONTROL_CHARACTERS)
        return text.encode(errors="backslashreplace").decode()


class _ScreenLine(_PlainText):
    def __init__(self, form: str, wraps: bool):
        super().__init__(form)
        self.wraps = wraps  # between words, where the terminal would break a word

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            text = f"WARNING: {text}"
        return wrapped(text, shutil.get_terminal_size().columns) if self.wraps else text


def wrapped(text: str, columns: int) -> str:
    """Return lines without those that are too long: they go on below, indented by two spaces more.

    Args:
        text: lines; a word that is longer than a line, such as a path, stays whole.
        columns: of the terminal.
    """
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))]
        parts = textwrap.wrap(
            *(line, columns),
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [line] if len(line) <= columns else parts
    return "\n".join(lines)


@contextlib.contextmanager
def only_warnings_and_progress_on_screen() -> Iterator[None]:
    """Send other lines below warnings to the log file alone, in the block."""
    screens = [handler for handler in package_log.handlers if isinstance(handler, _Screen)]
    for screen in screens:
        screen.addFilter(_is_warning_or_progress)
    try:
        yield
    finally:
        for screen in screens:
            screen.removeFilter(_is_warning_or_progress)


def _is_warning_or_progress(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name == progress_log.name


@contextlib.contextmanager
def native_messages_to(path: Path) -> Iterator[TextIO]:
    """Append what native libraries write to standard error in the block to a file.

    TensorFlow's C++ start-up notes cannot be turned off and would bury the run's own lines.

    Args:
        path: the file; `os.devnull` discards the messages.

    Yields:
        What standard error was before.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as screen:
        try:
            with path.open("ab") as file:
                os.dup2(file.fileno(), 2)
            yield screen
        finally:
            sys.stderr.flush()
            screen.flush()
            os.dup2(screen.fileno(), 2)
