"""One run at a time in a folder. The lock of a process that died is free at once.

It is `flock`, which the kernel keeps, not a file that is there or not. On a disk that several
hosts share it holds between them where the file system carries locks: NFS since Linux 2.6.12 (not
mounted with `nolock` or `local_lock`), Lustre mounted with `-o flock`, CephFS, GPFS. A host that
dies is let go of by the server, on NFSv4 after its lease of some 90 s. Where a file system has no
`flock` at all, a marker file stands in for it, which a host that died leaves there: it names the
process, and may be removed by hand. Where locks are granted and not carried to other hosts, nothing
can tell: then never start two processes with the same share.
"""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

LOCK_NAME = ".lock"
LOOK_EVERY = 0.2  # seconds, while another process has the folder


@contextlib.contextmanager
def locked(folder: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder` until the end of the block.

    Args:
        busy: called once, with "process 123" (and "on HOST", if that is another one), if another
            process holds it. It may raise; if it returns, the folder is waited for.
    """
    path = folder / LOCK_NAME
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        busy(_holder(path))
        lock.acquire(poll_interval=LOOK_EVERY)
    try:
        if not isinstance(lock, filelock.SoftFileLock):  # that has written who holds it itself
            path.write_text(f"{os.getpid()}\n{platform.node()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    process, host, *_ = [*path.read_text().split("\n"), "", ""]
    elsewhere = f" on {host}" if host not in ("", platform.node()) else ""
    return f"process {process or 'of unknown id'}{elsewhere}"
