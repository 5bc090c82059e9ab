"""Files of a store, on this disk while they are read: a bounded folder that is empty afterwards.

    spool/clips/<process>/7.mp4

Files are asked for in the order in which they will be read. Each takes its place on the disk before
its download begins, in that order: what is read first is never waiting for what is read later.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn, Self

from violence_detection.errors import UserError, failing_as
from violence_detection.storage.locks import locked

DOWNLOADS = 16  # at once: a store answers slowly, but many at a time
GIGABYTE = 10**9  # bytes, as disks and stores count them
CLIPS = "clips"  # the folder of clips, in that of the spool


@dataclass(frozen=True)
class Wanted:
    """A file that is to be had here."""

    key: Hashable  # which file it is
    size: int  # bytes
    suffix: str  # of its name
    download: Callable[[Path], None]  # makes it, of no more than `size` bytes


class _InUseError(Exception):
    pass


class Spool:
    """A folder for files of a store, `bound` bytes at most at any moment.

    Other processes may have theirs beside it; what a killed one left is removed.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, bound: int):
        self.bound = bound
        self._parent = folder.expanduser().absolute() / CLIPS
        self._lock = contextlib.ExitStack()
        self._threads = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="download")
        self._order = threading.Condition()
        self._tickets, self._served = count(), 0
        self._used = 0  # bytes of files that are here or on their way
        self._closed = False
        self._announced: defaultdict[Hashable, deque[Future[Path]]] = defaultdict(deque)

    def __enter__(self) -> Self:
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            with locked(self._parent, lambda holder: None):  # for the moment that this takes
                for left in (path for path in self._parent.iterdir() if path.is_dir()):
                    with contextlib.suppress(_InUseError), locked(left, _leave_alone):
                        shutil.rmtree(left)
                self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self._parent))
                self._lock.enter_context(locked(self.folder, _leave_alone))
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
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def announce(self, wanted: Wanted) -> None:
        """Begin to get a file that will be read after all that were announced before."""
        with self._order:
            self._announced[wanted.key].append(self._begin(wanted))

    @contextlib.contextmanager
    def copy_of(self, wanted: Wanted) -> Iterator[Path]:
        """Wait for a file, announced or not; it is removed at the end of the block.

        May be called from several threads.

        Raises:
            OSError: what `download` raised; the file is larger than the bound.
            RunError: what `download` raised.
        """
        with self._order:
            waiting = self._announced.pop(wanted.key, deque())
            future = waiting.popleft() if waiting else self._begin(wanted)
            if waiting:
                self._announced[wanted.key] = waiting
        path = future.result()
        try:
            yield path
        finally:
            with failing_as(path, "removed"):
                path.unlink(missing_ok=True)
            self._release(wanted.size)

    def _begin(self, wanted: Wanted) -> Future[Path]:
        with self._order:  # a ticket and a place in the threads' queue are one step
            return self._threads.submit(self._get, next(self._tickets), wanted)

    def _get(self, ticket: int, wanted: Wanted) -> Path:
        self._reserve(ticket, wanted.size)
        path = self.folder / f"{ticket}{wanted.suffix}"
        try:
            wanted.download(path)
        except BaseException:
            path.unlink(missing_ok=True)
            self._release(wanted.size)
            raise
        return path

    def _reserve(self, ticket: int, size: int) -> None:
        """Wait for `size` bytes of room, behind those who came before."""
        with self._order:
            self._order.wait_for(
                lambda: (
                    self._closed
                    or (
                        self._served == ticket
                        and (self._used + size <= self.bound or size > self.bound)
                    )
                )
            )
            self._served += 1
            self._order.notify_all()
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the run is ending")
            if size > self.bound:
                raise OSError(
                    errno.EFBIG,
                    f"it is {size / GIGABYTE:.3g} GB, and the spool may hold "
                    f"{self.bound / GIGABYTE:.3g} (--spool-size)",
                )
            self._used += size

    def _release(self, size: int) -> None:
        with self._order:
            self._used -= size
            self._order.notify_all()


def _leave_alone(holder: str) -> NoReturn:
    raise _InUseError(holder)
