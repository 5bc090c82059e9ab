"""What a run says: lines on the screen, and the same with times in `training.log`."""

import logging
import sys
from pathlib import Path

log = logging.getLogger("violence")


def start_log(path: Path) -> None:
    """Send the log to standard output and, with times and tracebacks, to the end of `path`."""
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    screen = logging.StreamHandler(sys.stdout)
    screen.setLevel(logging.INFO)
    screen.setFormatter(_ScreenFormatter("%(message)s"))
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    log.addHandler(screen)
    log.addHandler(file)


class _ScreenFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        # A file name need not be valid in the terminal's encoding.
        text = text.encode(errors="backslashreplace").decode()
        return f"WARNING: {text}" if record.levelno >= logging.WARNING else text
