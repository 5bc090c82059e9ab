"""The cache that `--cache-dir` names, as a folder on this disk: itself, or a copy of a store's.

    spool/<hash of the URL>/cache/           the copy of the cache
    spool/<hash of the URL>/cache/shard_2/   the copy of the second worker's shard
    spool/<hash of the URL>-2/cache/…        the same, of the second worker itself

A cache in a store has the same shards as one on a disk: `URL/shard_2` is a folder like `URL`
itself, each is written by the one process that holds its lock, and all of them are read.
"""

import contextlib
import hashlib
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Self

from violence_detection.errors import RunError, UserError
from violence_detection.features.cache.folder import shard_name, shard_number, shards_in
from violence_detection.features.cache.remote_copy import RemoteCopy
from violence_detection.features.cache.remote_lock import RemoteLock
from violence_detection.features.cache.remote_requests import names_in
from violence_detection.runtime.worker import Worker
from violence_detection.storage.files import write_text
from violence_detection.storage.locks import locked
from violence_detection.storage.object_store import RemoteStore

log = logging.getLogger(__name__)

OWNER, FILES = "owner", "cache"  # names in the folder of a copy


class LocalCache:
    """A cache as a local folder; copies of a store belong to this process until the block ends.

    This worker's folder in the store is locked from the beginning of the block to `release`. For a
    cache on a disk none of this is needed, and nothing is done.

    Args:
        location: a local folder, or the URL of one.
        spool_dir: the folder of copies; they stay there, so that the next run downloads only what
            is new.
        worker: this process among several; if there are several, it writes a shard of its own and
            has copies of its own.
        on_wait: called once, with "process 123 on HOST", if another process holds the lock, which
            is then waited for.
        write: whether anything will be uploaded; if not, nothing is written to the store.
        with_rows: whether the features in other shards are needed, or only which ones exist.

    Raises:
        UserError: the copies are in use; the store refuses; a folder there is no cache.
        RunError: the store does not answer or is damaged; this disk is full.
    """

    def __init__(
        self,
        location: Path | str,
        spool_dir: Path,
        worker: Worker | None = None,
        on_wait: Callable[[str], None] | None = None,
        write: bool = True,
        with_rows: bool = True,
    ):
        self.location = location
        self.write, self.with_rows = write, with_rows
        self._on_wait = on_wait or (
            lambda holder: log.info("%s is in use by %s: waiting", location, holder)
        )
        self._stack, self._lock = contextlib.ExitStack(), contextlib.ExitStack()
        self._copies: dict[str, RemoteCopy] = {}  # by the name of the shard
        if isinstance(location, Path):
            self.path = location
            return
        self._store = RemoteStore(location, "--cache-dir")
        self._own = shard_name(worker)
        name = hashlib.blake2b(location.encode(), digest_size=8).hexdigest()
        if self._own:
            name += f"-{shard_number(self._own)}"
        self.folder = spool_dir.expanduser().absolute() / name
        self.path = self.folder / FILES

    @property
    def is_remote(self) -> bool:
        """Whether the cache is in a store."""
        return not isinstance(self.location, Path)

    def __enter__(self) -> Self:
        if not self.is_remote:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(locked(self.folder, self._refuse))
        except OSError as error:
            raise UserError(f"--spool-dir {self.folder} cannot be written: {error}") from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.__exit__)
            self._copy_of("").refuse_foreign_files()
            own = self._copy_of(self._own)
            own.refuse_foreign_files()
            if self.write:
                with own.store.explaining_errors("written"):
                    lock = RemoteLock(own.store, self._identity(), self._on_wait)
                    self._lock.enter_context(lock)
            own.download()
            self.refresh()
            undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()
        self._stack.close()

    def _refuse(self, holder: str) -> NoReturn:
        raise UserError(
            f"--cache-dir {self.location}: its copy {self.folder} is in use by {holder}: "
            "wait for it to end, or give another --spool-dir"
        )

    def _identity(self) -> str:
        """Return a name for this folder: only the process that holds its lock has that name."""
        path = self.folder / OWNER
        if not path.exists():
            write_text(path, uuid.uuid4().hex)
        return path.read_text()

    def _copy_of(self, shard: str) -> RemoteCopy:
        if shard not in self._copies:
            own = shard == self._own
            store = self._store.subfolder(shard) if shard else self._store
            paths = (self.path / shard, self.folder / shard)
            self._copies[shard] = RemoteCopy(store, *paths, own, with_rows=own or self.with_rows)
        return self._copies[shard]

    def refresh(self) -> None:
        """Download what others have uploaded since; each `FeatureCache` must be opened again.

        Raises:
            UserError: the store refuses; a folder there is no cache.
            RunError: the store does not answer or is damaged; this disk is full.
        """
        if not self.is_remote:
            return
        remote = {name for name in names_in(self._store) if shard_number(name) is not None}
        local = {path.name for path in shards_in(self.path).values()}  # some may be gone there
        for shard in sorted({"", *remote, *local} - {self._own}):
            self._copy_of(shard).download()

    def upload(self) -> None:
        """Upload what was computed here, while nobody writes to the copy.

        Raises:
            UserError: the folder may not be written.
            RunError: the store does not answer. The copy keeps what it has. Or another run has
                changed this worker's shard, which the other workers need.
        """
        if not self.is_remote or self._copies[self._own].upload():
            return
        changed = f"another run has changed {self._copies[self._own].store.url} in the meantime"
        if self._own:
            raise RunError(
                f"{changed}; the features computed here are not uploaded: make sure that no two "
                "workers have the same share, and start again"
            )
        log.warning("%s: the features computed here are used, but not uploaded", changed)

    def release(self) -> None:
        """Release the lock, so that others can write this worker's folder in the store."""
        self._lock.close()
