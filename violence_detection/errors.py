"""The two kinds of error that a command ends with, and what a failing disk becomes."""

import contextlib
import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

RESUME = "Run the same command again to resume."
FIX = "Finished work is kept: fix this, then run the same command again."


class UserError(Exception):
    """The user can put it right: names the thing, the value and the way out. Exit status 2."""

    exit_status = 2


class RunError(Exception):
    """Something underneath failed (disk, network, device). Exit status 1."""

    exit_status = 1


@contextlib.contextmanager
def failing_as(path: Path, done: str = "written") -> Iterator[None]:
    """Raise a `RunError` that names `path` for a disk that is full, gone or read-only.

    Args:
        path: what is read or written in the block.
        done: the participle in the message: "written" or "read".
    """
    try:
        yield
    except (OSError, RuntimeError, sqlite3.Error) as error:
        raise RunError(f"{path} cannot be {done}: {_reason(error)}. {FIX}") from error


def require_room(error: OSError | sqlite3.Error, path: Path) -> None:
    """Raise a `RunError` if an error says that the disk of `path` is full: not the user's fault."""
    if _reason(error) == os.strerror(errno.ENOSPC):
        with failing_as(path):
            raise error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"errno = (\d+)", str(error))  # as HDF5 reports it
    if number:
        return os.strerror(int(number[1]))
    if "is full" in str(error):  # as SQLite reports it
        return os.strerror(errno.ENOSPC)
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
