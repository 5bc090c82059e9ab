"""A lock object in a store, so that one process at a time writes a folder of a cache."""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Self

from violence_detection.features.cache.remote_requests import (
    create_object,
    remove_object,
    tolerating_store_errors,
)
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.storage.object_store import RemoteStore

log = logging.getLogger(__name__)

LOCK = "lock.json"
POLL_INTERVAL = 5.0  # seconds, while another process holds the lock
RENEW_INTERVAL = 60.0  # seconds between the holder's signs of life
LOCK_TIMEOUT = 300.0  # seconds without a sign of life, after which the holder is taken for dead


class RemoteLock:
    """The lock object of a cache folder in a store, held and renewed until the block ends.

    Entering waits for the lock. It is taken over from a holder that gives no sign of life for
    `LOCK_TIMEOUT`, by this process's clock, or that has the same `owner`.

    Args:
        store: the folder.
        owner: a name that no other running process has.
        on_wait: called once, with "process 123 on HOST", if another process holds the lock.
    """

    def __init__(self, store: RemoteStore, owner: str, on_wait: Callable[[str], None]):
        self.store = store
        self.owner = owner
        self.on_wait = on_wait
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="cache lock", daemon=True)

    def __enter__(self) -> Self:
        seen, seen_at, reported = b"", time.monotonic(), False
        while not self._acquire():
            raise_if_interrupted()
            try:
                content = self.store.read(LOCK)
            except FileNotFoundError:
                continue
            if content != seen:
                seen, seen_at = content, time.monotonic()
            owner, _, holder = content.decode(errors="replace").partition("\n")
            process = holder.split("\n")[0]
            if owner == self.owner or time.monotonic() - seen_at > LOCK_TIMEOUT:
                log.info("taking over the lock of %s from %s, which died", self.store.url, process)
                with contextlib.suppress(FileNotFoundError):
                    remove_object(self.store, LOCK)
                continue
            if not reported:
                self.on_wait(process)
                reported = True
            time.sleep(min(POLL_INTERVAL, LOCK_TIMEOUT / 4))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self._thread.join()
        with tolerating_store_errors(self.store, LOCK):
            if self._is_held():
                remove_object(self.store, LOCK)

    def _content(self) -> bytes:
        process = f"process {os.getpid()} on {socket.gethostname()}"
        return f"{self.owner}\n{process}\n{uuid.uuid4().hex}\n".encode()

    def _acquire(self) -> bool:
        content = self._content()
        try:
            create_object(self.store, LOCK, content)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return self.store.read(LOCK) == content  # the answer to the first try was lost
            return False
        return True

    def _is_held(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self.store.read(LOCK).startswith(self.owner.encode())
        return False

    def _renew(self) -> None:
        while not self._released.wait(RENEW_INTERVAL):
            with tolerating_store_errors(self.store, LOCK):
                if not self._is_held():
                    log.warning("another run has taken over the lock of %s", self.store.url)
                    return
                path = self.store.path_of(LOCK)
                self.store.request(self.store.files.pipe_file, path, self._content())
