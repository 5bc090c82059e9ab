"""The folder of a feature cache: who may write it, and what is known of each clip's file.

A clip is known by its content, so it may be moved, be renamed or change split; its file is only
hashed again when its size or times have changed.

A cache is one folder, possibly with shards in it: `shard_1`, `shard_2`, … are folders like the
cache itself, each written by one of several workers. One process at a time writes a folder and
holds its lock; any number of processes read all folders together, without a lock.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from violence_detection.errors import UserError, require_room
from violence_detection.features.cache.record_file import (
    FILE_FIELDS,
    FILES_INDEX,
    KEYS_AT_ONCE,
    RecordFile,
    as_keys,
    file_key,
)
from violence_detection.runtime.worker import Worker
from violence_detection.storage.files import PARTIAL, remove_partial_files
from violence_detection.storage.locks import LOCK_NAME, locked
from violence_detection.storage.remote_paths import AnyPath, RemotePath

FORMAT = 3  # of the features; raise it when decoding or preprocessing changes
SHARD_PREFIX = "shard_"  # of a worker's folder; its number follows, from 1
LOCAL_SHARD = 2**20  # the number of the folder on this machine's own disk
BAD_CLIPS = "bad_clips.json"  # the clips that a worker could not read, for the other workers
LOG = "extraction.log"

Stamp = tuple[int, int, int]


def file_stamp(path: AnyPath) -> Stamp:
    """Return a file's size, modification and change time (ns), or what a store has instead.

    While they stay the same, so does the content.
    """
    if isinstance(path, RemotePath):
        return path.stamp
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_cache(folder: Path) -> bool:
    """Return whether a folder holds a feature cache."""
    return (folder / FILES_INDEX).exists() or bool(shards_in(folder))


def shard_name(worker: Worker | None) -> str:
    """Return the name of a worker's shard, or "" for the cache folder itself."""
    return f"{SHARD_PREFIX}{worker.number + 1}" if worker and worker.count > 1 else ""


def shard_number(name: str) -> int | None:
    """Return the number of the shard with this folder name, or None if it is no shard's name."""
    number = name.removeprefix(SHARD_PREFIX)
    return int(number) if number.isdecimal() and number != name else None


def shards_in(folder: Path) -> dict[int, Path]:
    """Return the shards in a cache folder by their numbers, ascending."""
    paths = folder.iterdir() if folder.is_dir() else ()
    found = {path: shard_number(path.name) for path in paths}
    return dict(sorted((number, path) for path, number in found.items() if number is not None))


class CacheFolder:
    """A cache with its shards, of which this process locks and writes one until `close`.

    Args:
        path: of the cache.
        on_wait: called once, with "process 123", if another process is writing the same folder;
            unless it raises, that process is waited for.
        worker: this process among several; if there are several, it writes a shard of its own.
        local: a folder on this machine's own disk to write instead; `transfer` copies what is in
            it to the cache.
        extra: another cache to read as well.

    Raises:
        UserError: the folder cannot be written, or holds another program's files.
        RunError: the disk is full.
    """

    def __init__(
        self,
        path: Path,
        on_wait: Callable[[str], None] | None = None,
        worker: Worker | None = None,
        local: Path | None = None,
        extra: Path | None = None,
    ):
        self.path = path.expanduser().absolute()
        shard = shard_name(worker)
        self.own_number, self.own_path = shard_number(shard) or 0, self.path / shard
        if local:
            self.own_number, self.own_path = LOCAL_SHARD, local.expanduser().absolute()
        self._lock = contextlib.ExitStack()
        _refuse_foreign_files(self.path)
        _refuse_foreign_files(self.own_path)
        with self.explain_errors():
            self.own_path.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.own_path, on_wait or (lambda holder: None)))
            remove_partial_files(self.own_path)
            # In the order in which they are searched for a clip.
            self.shards = {LOCAL_SHARD: extra.expanduser().absolute()} if extra else {}
            if local:
                self.shards[LOCAL_SHARD] = self.own_path
            self.files: dict[int, RecordFile] = {}
            self.refresh()

    def refresh(self) -> None:
        """See what other processes have stored since; each `FeatureCache` must be opened again."""
        self.shards |= {0: self.path, **shards_in(self.path)}
        for number, folder in self.shards.items():
            writable = number == self.own_number
            if not writable or number not in self.files:
                self.files[number] = RecordFile(
                    folder / FILES_INDEX, "files", FILE_FIELDS, writable
                )

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Turn an `OSError` in the block into an error that names the folder.

        Raises:
            UserError: the folder cannot be written.
            RunError: the disk is full.
        """
        try:
            yield
        except OSError as error:
            require_room(error, self.own_path)
            reason = error.strerror or error
            raise UserError(f"--cache-dir {self.own_path} cannot be written: {reason}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def known_contents(
        self, paths: Iterable[AnyPath], assume_unchanged: bool = False
    ) -> list[bytes | None]:
        """Return the content hashes of files that were hashed before and have not changed since.

        Args:
            paths: of the files.
            assume_unchanged: do not check each file for changes.

        Returns:
            16 bytes per file; None where the file must be hashed.
        """
        contents, remaining = [], iter(paths)  # of millions, not all paths at once
        while some := list(itertools.islice(remaining, KEYS_AT_ONCE)):
            contents += self._known_contents(some, assume_unchanged)
        return contents

    def _known_contents(
        self, paths: Sequence[AnyPath], assume_unchanged: bool
    ) -> list[bytes | None]:
        contents: list[bytes | None] = [None] * len(paths)
        keys = as_keys(file_key(os.fsencode(path)) for path in paths)
        stamps: dict[int, Stamp | None] = {}
        for files in self.files.values():
            positions = files.find(keys)
            found = np.flatnonzero(positions >= 0)
            records = files.records(positions[found])
            for number, stamp, clip in zip(
                found.tolist(), records["stamp"].tolist(), records["clip"], strict=True
            ):
                if contents[number] is not None:
                    continue
                if number not in stamps and not assume_unchanged:
                    try:
                        stamps[number] = file_stamp(paths[number])
                    except OSError:  # decoding will report what is wrong with it
                        stamps[number] = None
                if assume_unchanged or stamps[number] == tuple(stamp):
                    contents[number] = clip.tobytes()
        return contents

    def remember_file(self, path: AnyPath, stamp: Stamp, content: bytes) -> None:
        """Record a file's content hash; it is durable after the next `commit`.

        Args:
            path: of the file.
            stamp: which the file had before it was hashed.
            content: the 16-byte hash.
        """
        self.files[self.own_number].add(file_key(os.fsencode(path)), stamp, np.void(content), 0)

    def copy_file_records(self, number: int) -> None:
        """Copy to the own folder what shard `number` knows of files and the own one does not.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        source, own = self.files[number], self.files[self.own_number]
        records = source.records(source.positions())
        positions = own.find(records["key"])
        known = positions >= 0
        stamps = own.records(positions[known])["stamp"]
        known[known] = (stamps == records["stamp"][known]).all(axis=1)
        for record in records[~known]:
            own.add(record["key"].tobytes(), record["stamp"], record["clip"], 0)
        own.flush()

    def commit(self) -> None:
        """Make the records of files durable.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        self.files[self.own_number].flush()

    def close(self) -> None:
        """Commit, and release the lock."""
        try:
            self.commit()
        finally:
            self._lock.close()


def _refuse_foreign_files(folder: Path) -> None:
    """Raise `UserError` if a folder is not empty and no feature cache."""
    if not folder.is_dir() or (folder / FILES_INDEX).exists():
        return
    # The index may have been removed by hand, and the rows still be there.
    own = re.compile(
        rf"{re.escape(LOCK_NAME)}|{re.escape(LOG)}|{re.escape(BAD_CLIPS)}|{re.escape(PARTIAL)}.*|"
        rf"{SHARD_PREFIX}\d+|[0-9a-f]{{16}}\.(features|index)"
    )
    foreign = sorted(path.name for path in folder.iterdir() if not own.fullmatch(path.name))
    if foreign:
        raise UserError(
            f"--cache-dir {folder} is not empty and not a feature cache (it contains "
            f"{foreign[0]}): name another folder"
        )
