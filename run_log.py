"""What a run says: lines on the screen, and the same with times in `training.log`."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from durable_files import failing_as

log = logging.getLogger("violence")


def start_log(path: Path) -> None:
    """Send the log to standard output and, with times and tracebacks, to the end of `path`."""
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    screen = _Screen(sys.stdout)
    screen.setLevel(logging.INFO)
    screen.setFormatter(_ScreenFormatter("%(message)s"))
    file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    log.addHandler(screen)
    log.addHandler(file)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        # logging would print a traceback for every line, and go on.
        log.removeHandler(self)
        error = sys.exc_info()[1]
        if error is not None:
            with failing_as(Path(self.baseFilename)):
                raise error


class _Screen(logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        # Nobody reads any more, or its disk is full: the log file has everything.
        log.removeHandler(self)


class _ScreenFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        # A file name need not be valid in the terminal's encoding.
        text = text.encode(errors="backslashreplace").decode()
        return f"WARNING: {text}" if record.levelno >= logging.WARNING else text


@contextlib.contextmanager
def native_messages_to(path: Path) -> Iterator[None]:
    """Send what libraries write to standard error on their own to the end of `path`.

    TensorFlow's start-up notes cannot be turned off, and would bury what the user is to read.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        os.close(screen)
