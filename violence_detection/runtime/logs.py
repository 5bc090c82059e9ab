"""What a run says: lines on the screen, and the same with times in `training.log`."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from violence_detection.errors import failing_as

package_log = logging.getLogger("violence_detection")  # each module's is below it

CONTROL_CHARACTERS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


def start_log(path: Path, on_screen: int = logging.INFO) -> None:
    """Send the log to standard output and, with times and tracebacks, to the end of `path`.

    Args:
        on_screen: the least level that is told there.
    """
    package_log.setLevel(logging.DEBUG)
    package_log.propagate = False
    for handler in list(package_log.handlers):
        package_log.removeHandler(handler)
        handler.close()
    screen = _Screen(sys.stdout)
    screen.setLevel(on_screen)
    screen.setFormatter(_ScreenLine("%(message)s"))
    file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_PlainText("%(asctime)s %(levelname)-7s %(message)s"))
    package_log.addHandler(screen)
    package_log.addHandler(file)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        # logging would print a traceback for every line, and go on.
        package_log.removeHandler(self)
        error = sys.exc_info()[1]
        if error is not None:
            with failing_as(Path(self.baseFilename)):
                raise error


class _Screen(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):  # above a bar, not into it
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        # Nobody reads any more, or its disk is full: the log file has everything.
        package_log.removeHandler(self)


class _PlainText(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # A file name may hold anything: what a terminal would obey, or bytes that are no text.
        text = super().format(record).translate(CONTROL_CHARACTERS)
        return text.encode(errors="backslashreplace").decode()


class _ScreenLine(_PlainText):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
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
