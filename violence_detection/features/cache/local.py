"""The cache that a setting names, on this disk: a folder, or copies of what is in a store.

    spool/<hash of the URL>/cache/           the cache, as every run makes it
    spool/<hash of the URL>/cache/shard_2/   what the second of several workers has computed
    spool/<hash of the URL>-2/cache/…        the same, of that worker itself

A cache in a store has shards as one on a disk has: `URL/shard_2` is a folder like `URL` itself, and
each is written by one process, which holds its lock. All of them are read.
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
from violence_detection.features.cache.remote import CacheCopy, CacheLock, names_in
from violence_detection.runtime.worker import Worker
from violence_detection.storage.files import write_text
from violence_detection.storage.locks import locked
from violence_detection.storage.object_store import RemoteStore

log = logging.getLogger(__name__)

OWNER, FILES = "owner", "cache"  # in the folder of a copy


class LocalCache:
    """A cache on this disk. Copies are this process's own until the block ends.

    The folder of the store that this worker writes is its own from the beginning of the block to
    `release`. Of a folder on a disk, nothing of this is needed, and nothing is done.

    Args:
        location: a local folder, or the URL of one.
        spool_dir: where copies are; they stay there, so that the next run fetches what is new.
        worker: which of several this is; if there are several, it writes a shard of its own, and
            has copies of its own.
        busy: called once, with "process 123 on HOST", if another process has what this one would
            write; that is waited for.
        write: whether anything will be put back; else nothing is written to the store.
        rows: whether the features in other shards are wanted, not only which there are.

    Raises:
        UserError: the copies are in use; the store refuses; a folder there is no cache's.
        RunError: the store does not answer, or is damaged; this disk is full.
    """

    def __init__(
        self,
        location: Path | str,
        spool_dir: Path,
        worker: Worker | None = None,
        busy: Callable[[str], None] | None = None,
        write: bool = True,
        rows: bool = True,
    ):
        self.location = location
        self.write, self.rows = write, rows
        self._busy = busy or (
            lambda holder: log.info("%s has %s: waiting for it", holder, location)
        )
        self._held, self._remote = contextlib.ExitStack(), contextlib.ExitStack()
        self._copies: dict[str, CacheCopy] = {}  # by the name of the shard
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
            self._held.enter_context(locked(self.folder, self._refuse))
        except OSError as error:
            raise UserError(f"--spool-dir {self.folder} cannot be written: {error}") from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.__exit__)
            self._copy_of("").require_ours()
            own = self._copy_of(self._own)
            own.require_ours()
            if self.write:
                with own.store.explaining_errors("written"):
                    lock = CacheLock(own.store, self._identity(), self._busy)
                    self._remote.enter_context(lock)
            own.fetch()
            self.refresh()
            undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._remote.close()
        self._held.close()

    def _refuse(self, holder: str) -> NoReturn:
        raise UserError(
            f"--cache-dir {self.location}: the copy of it in {self.folder} is in use by {holder}: "
            "wait for its end, or give another --spool-dir"
        )

    def _identity(self) -> str:
        """Return a name for this folder: whoever holds its lock is the only one with that name."""
        path = self.folder / OWNER
        if not path.exists():
            write_text(path, uuid.uuid4().hex)
        return path.read_text()

    def _copy_of(self, shard: str) -> CacheCopy:
        if shard not in self._copies:
            own = shard == self._own
            store = self._store.subfolder(shard) if shard else self._store
            paths = (self.path / shard, self.folder / shard)
            self._copies[shard] = CacheCopy(store, *paths, own, rows=own or self.rows)
        return self._copies[shard]

    def refresh(self) -> None:
        """Fetch what others have put into the store since; caches are to be opened anew for it.

        Raises:
            UserError: the store refuses; a folder there is no cache's.
            RunError: the store does not answer, or is damaged; this disk is full.
        """
        if not self.is_remote:
            return
        there = {name for name in names_in(self._store) if shard_number(name) is not None}
        here = {path.name for path in shards_in(self.path).values()}  # also what is there no more
        for shard in sorted({"", *there, *here} - {self._own}):
            self._copy_of(shard).fetch()

    def upload(self) -> None:
        """Put what was computed here into the store. Nobody may be writing to the copy.

        Raises:
            UserError: it may not be written there.
            RunError: the store does not answer. The copy keeps what it has. Or another run has
                changed this worker's shard, of which the others have need.
        """
        if not self.is_remote or self._copies[self._own].upload():
            return
        changed = f"{self._copies[self._own].store.url} was changed by another run meanwhile"
        if self._own:
            raise RunError(
                f"{changed}, and what was computed here is not put there: see that no two workers "
                "have the same share, and start again"
            )
        log.warning(
            "%s: the features that were computed here serve this run, but are not put there",
            changed,
        )

    def release(self) -> None:
        """Let others write what this process has written in the store."""
        self._remote.close()
