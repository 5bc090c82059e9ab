"""Copies of a store's files on this disk while they are read: a bounded folder, empty afterwards.

    spool/clips/<process>/7.mp4

Files are requested in the order in which they will be read. Each reserves its space on the disk
before its download begins, in that order: no file waits for one that is read after it.
"""

import contextlib
import errno
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

from violence_detection.errors import UserError, failing_as
from violence_detection.storage.locks import process_folder

DOWNLOADS = 16  # at once: a store answers slowly, but many requests at a time
GIGABYTE = 10**9  # bytes, as disks and stores count them
CLIPS = "clips"  # the folder of clips, in the spool's


@dataclass(frozen=True)
class Download:
    """A file to be downloaded.

    Args:
        key: which file it is.
        size: in bytes.
        suffix: the file extension of its copy, with the dot.
        write: writes the copy, of no more than `size` bytes.
    """

    key: Hashable
    size: int
    suffix: str
    write: Callable[[Path], None]


class Spool:
    """A folder for copies of remote files, never more than `capacity` bytes in all.

    Other processes may have their own spools in the same folder; what a killed one left is removed.

    Args:
        folder: made if need be.
        capacity: in bytes.

    Raises:
        UserError: on entering, if the folder cannot be written.
    """

    def __init__(self, folder: Path, capacity: int):
        self.capacity = capacity
        self._parent = folder.expanduser().absolute() / CLIPS
        self._stack = contextlib.ExitStack()
        self._threads = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="download")
        self._order = threading.Condition()
        self._tickets, self._served = count(), 0
        self._used = 0  # bytes of files that are here or being downloaded
        self._closed = False
        self._prefetched: defaultdict[Hashable, deque[Future[Path]]] = defaultdict(deque)

    def __enter__(self) -> Self:
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            self.folder = self._stack.enter_context(
                process_folder(self._parent, prefix=f"{os.getpid()}-")
            )
        except OSError as error:
            raise UserError(
                f"--spool-dir {self._parent.parent} cannot be written: {error.strerror}"
            ) from error
        return self

    def __exit__(self, *error: object) -> None:
        with self._order:
            self._closed = True
            self._order.notify_all()
        self._threads.shutdown(cancel_futures=True)
        self._stack.close()

    def prefetch(self, download: Download) -> None:
        """Start to download a file that will be read after all that were prefetched before."""
        with self._order:
            self._prefetched[download.key].append(self._submit(download))

    @contextlib.contextmanager
    def copy_of(self, download: Download) -> Iterator[Path]:
        """Yield the copy of a file, prefetched or not, and remove it at the end of the block.

        Thread-safe.

        Raises:
            OSError: as `Download.write` raises it; also for a file larger than the capacity.
            RunError: as `Download.write` raises it.
        """
        with self._order:
            waiting = self._prefetched.pop(download.key, deque())
            future = waiting.popleft() if waiting else self._submit(download)
            if waiting:
                self._prefetched[download.key] = waiting
        path = future.result()
        try:
            yield path
        finally:
            with failing_as(path, "removed"):
                path.unlink(missing_ok=True)
            self._release(download.size)

    def _submit(self, download: Download) -> Future[Path]:
        with self._order:  # the ticket and the position in the executor's queue must agree
            return self._threads.submit(self._fetch, next(self._tickets), download)

    def _fetch(self, ticket: int, download: Download) -> Path:
        self._reserve(ticket, download.size)
        path = self.folder / f"{ticket}{download.suffix}"
        try:
            download.write(path)
        except BaseException:
            path.unlink(missing_ok=True)
            self._release(download.size)
            raise
        return path

    def _reserve(self, ticket: int, size: int) -> None:
        """Wait for `size` bytes of free space, behind all earlier tickets."""
        too_large = size > self.capacity

        def is_next() -> bool:
            fits = self._used + size <= self.capacity
            return self._closed or (self._served == ticket and (fits or too_large))

        with self._order:
            self._order.wait_for(is_next)
            self._served += 1
            self._order.notify_all()
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the run is shutting down")
            if too_large:
                raise OSError(
                    errno.EFBIG,
                    f"{size / GIGABYTE:.3g} GB is more than --spool-size "
                    f"({self.capacity / GIGABYTE:.3g} GB)",
                )
            self._used += size

    def _release(self, size: int) -> None:
        with self._order:
            self._used -= size
            self._order.notify_all()
