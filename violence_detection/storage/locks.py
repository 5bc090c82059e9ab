"""Locks on folders: one process at a time. The lock of a process that died is free at once.

They are `flock` locks, which the kernel keeps, not files that exist or not. On a disk that several
hosts share they hold between hosts where the file system passes locks on: NFS since Linux 2.6.12
(not mounted with `nolock` or `local_lock`), Lustre mounted with `-o flock`, CephFS, GPFS. The
server frees the lock of a host that died, on NFSv4 after its lease of some 90 s. Where a file
system has no `flock` at all, a marker file takes its place; it names the process, outlives a host
that dies, and may then be removed by hand. Where locks are granted but not passed on to other
hosts, nothing can detect that: never start two processes with the same share there.
"""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import filelock

LOCK_NAME = ".lock"
POLL_INTERVAL = 0.2  # seconds, while another process has the lock


@contextlib.contextmanager
def locked(folder: Path, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
    """Lock a folder until the end of the block, once no other process has it.

    Args:
        folder: an existing one; the lock is the file `.lock` in it.
        on_wait: called once if another process has the lock, before waiting for it, with
            "process 123" ("process 123 on HOST" for another host). May raise instead of waiting.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = _lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait(_holder(folder))
        lock.acquire(poll_interval=POLL_INTERVAL)
    try:
        _write_holder(lock)
        yield
    finally:
        lock.release()


def try_lock(folder: Path) -> AbstractContextManager[object] | None:
    """Lock a folder without waiting.

    Returns:
        A context manager that unlocks the folder at the end of its block; None if another process
        has the lock.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = _lock_of(folder)
    try:
        acquired = lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    _write_holder(lock)
    return acquired


@contextlib.contextmanager
def process_folder(parent: Path, prefix: str = "") -> Iterator[Path]:
    """Make a folder below `parent` for this process alone; it is removed at the end of the block.

    The folders of processes that were killed are removed, too: nobody has them locked.

    Args:
        parent: an existing folder, for nothing else.
        prefix: of the folder's random name.

    Raises:
        OSError: `parent` cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with locked(parent):  # while it is made, it is not locked yet
            for left in (path for path in parent.iterdir() if path.is_dir()):
                lock = try_lock(left)
                if lock is not None:
                    with lock:
                        shutil.rmtree(left)
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            stack.enter_context(locked(folder))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _lock_of(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder / LOCK_NAME)


def _write_holder(lock: filelock.BaseFileLock) -> None:
    if not isinstance(lock, filelock.SoftFileLock):  # which has written its holder itself
        Path(lock.lock_file).write_text(f"{os.getpid()}\n{platform.node()}\n")


def _holder(folder: Path) -> str:
    text = (folder / LOCK_NAME).read_text()
    process, host, *_ = [*text.split("\n"), "", ""]
    elsewhere = f" on {host}" if host not in ("", platform.node()) else ""
    return f"process {process or 'of unknown id'}{elsewhere}"
