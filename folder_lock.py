"""One run at a time in a folder. The lock of a process that died is free at once."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

LOCK_NAME = ".lock"
LOOK_EVERY = 0.2  # seconds, while another process has the folder


@contextlib.contextmanager
def locked(folder: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder` until the end of the block.

    Args:
        busy: called once, with "process 123", if another process holds it. It may raise; if it
            returns, the folder is waited for.
    """
    path = folder / LOCK_NAME
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        busy(f"process {path.read_text().strip() or 'of unknown id'}")
        lock.acquire(poll_interval=LOOK_EVERY)
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()
