"""The folder that features are kept in: whose it is, who may write it, which clip each file is.

A clip is known by its content, so it may move, be renamed or change split; its file is only read
again for that when its size or times have changed.

A cache is one folder, or one with shards in it: `shard_1`, `shard_2`, … are folders like the cache
itself, each written by one worker of several. A folder is written by one process at a time, which
holds its lock; all are read together, by any number of processes, without one.
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
    ASKED,
    FILE,
    FILES_INDEX,
    RecordFile,
    as_keys,
    file_key,
)
from violence_detection.runtime.worker import Worker
from violence_detection.storage.files import PARTIAL, remove_partial_files
from violence_detection.storage.locks import LOCK_NAME, locked
from violence_detection.storage.remote_paths import AnyPath, RemotePath

FORMAT = 2  # to be raised when decoding or preprocessing changes
SHARD = "shard_"  # begins the name of a worker's folder; its number follows, from 1
LOCAL = 2**20  # stands for a shard's number: of the copy on this machine's own disk
BAD_CLIPS = "bad_clips.json"  # clips that a worker could not read, for the others
LOG = "extraction.log"

Stamp = tuple[int, int, int]


def file_stamp(path: AnyPath) -> Stamp:
    """Return a file's size and its times of change: if they stay, so does its content.

    Of a file in a store, what stands for them there.
    """
    if isinstance(path, RemotePath):
        return path.stamp
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_cache(folder: Path) -> bool:
    """Return whether there is a cache in a folder."""
    return (folder / FILES_INDEX).exists() or bool(shards_in(folder))


def shard_name(worker: Worker | None) -> str:
    """Return the name of the folder that a worker writes, in that of the cache; "": the cache."""
    return f"{SHARD}{worker.number + 1}" if worker and worker.count > 1 else ""


def shard_number(name: str) -> int | None:
    """Return the number of the shard that a folder of this name is; None: of none."""
    number = name.removeprefix(SHARD)
    return int(number) if number.isdecimal() and number != name else None


def shards_in(folder: Path) -> dict[int, Path]:
    """Return the shards that there are in a cache folder, by their numbers, ascending."""
    paths = folder.iterdir() if folder.is_dir() else ()
    found = {path: shard_number(path.name) for path in paths}
    return dict(sorted((number, path) for path, number in found.items() if number is not None))


class CacheFolder:
    """A cache with its shards; the one that is written is this process's own until `close`.

    Args:
        busy: called once, with "process 123", if another process has what this one would write;
            if it does not raise, that is waited for.
        worker: which of several this is; if there are several, it writes a shard of its own.
        local: a folder on this machine's own disk, written instead; `copy_features` takes what is
            in it to the others.
        extra: another cache that is read, too.

    Raises:
        UserError: the folder cannot be written, or another program made it.
    """

    def __init__(
        self,
        path: Path,
        busy: Callable[[str], None] | None = None,
        worker: Worker | None = None,
        local: Path | None = None,
        extra: Path | None = None,
    ):
        self.path = path.expanduser().absolute()
        shard = shard_name(worker)
        self.number, self.own_path = shard_number(shard) or 0, self.path / shard
        if local:
            self.number, self.own_path = LOCAL, local.expanduser().absolute()
        on_wait = busy or (lambda holder: None)
        self._lock = contextlib.ExitStack()
        _require_ours(self.path)
        _require_ours(self.own_path)
        with self.explain_errors():
            self.own_path.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.own_path, on_wait))
            remove_partial_files(self.own_path)
            # In the order in which they are asked for a clip.
            self.shards = {LOCAL: extra.expanduser().absolute()} if extra else {}
            if local:
                self.shards[LOCAL] = self.own_path
            self.files: dict[int, RecordFile] = {}
            self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have stored since; caches are to be opened anew for it."""
        self.shards |= {0: self.path, **shards_in(self.path)}
        for number, folder in self.shards.items():
            if number != self.number or number not in self.files:
                writable = number == self.number
                self.files[number] = RecordFile(folder / FILES_INDEX, "files", FILE, writable)

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Raise a `UserError` if the folder cannot be written when it is first used."""
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
        self, paths: Iterable[AnyPath], unchanged: bool = False
    ) -> list[bytes | None]:
        """Return each file's content hash if it was hashed before and has not changed since.

        Args:
            unchanged: take it for granted, without a look at each file.
        """
        contents, remaining = [], iter(paths)  # of millions, not all paths at once
        while some := list(itertools.islice(remaining, ASKED)):
            contents += self._known_contents(some, unchanged)
        return contents

    def _known_contents(self, paths: Sequence[AnyPath], unchanged: bool) -> list[bytes | None]:
        contents: list[bytes | None] = [None] * len(paths)
        keys = as_keys(file_key(os.fsencode(path)) for path in paths)
        stamps: dict[int, Stamp | None] = {}
        for files in self.files.values():
            places = files.find(keys)
            seen = np.flatnonzero(places >= 0)
            records = files.records(places[seen])
            for number, stamp, clip in zip(
                seen.tolist(), records["stamp"].tolist(), records["clip"], strict=True
            ):
                if contents[number] is not None:
                    continue
                if number not in stamps and not unchanged:
                    try:
                        stamps[number] = file_stamp(paths[number])
                    except OSError:  # decoding will say what is wrong with it
                        stamps[number] = None
                if unchanged or stamps[number] == tuple(stamp):
                    contents[number] = clip.tobytes()
        return contents

    def remember_file(self, path: AnyPath, stamp: Stamp, clip: bytes) -> None:
        """Keep a file's content hash and the stamp that it had before it was read."""
        self.files[self.number].add(file_key(os.fsencode(path)), stamp, np.void(clip), 0)

    def copy_file_records(self, number: int) -> None:
        """Copy what another shard knows of files, and this one does not."""
        theirs, own = self.files[number], self.files[self.number]
        records = theirs.records(theirs.places())
        places = own.find(records["key"])
        known = places >= 0
        known[known] = (own.records(places[known])["stamp"] == records["stamp"][known]).all(axis=1)
        for record in records[~known]:
            own.add(record["key"].tobytes(), record["stamp"], record["clip"], 0)
        own.flush()

    def commit(self) -> None:
        """Make what is remembered of files durable.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        self.files[self.number].flush()

    def close(self) -> None:
        """Commit, and let go of the folder."""
        try:
            self.commit()
        finally:
            self._lock.close()


def _require_ours(folder: Path) -> None:
    """Raise `UserError` if a folder has files, but not this program's."""
    if not folder.is_dir() or (folder / FILES_INDEX).exists():
        return
    own = re.compile(
        rf"{re.escape(LOCK_NAME)}|{re.escape(LOG)}|"
        rf"{re.escape(BAD_CLIPS)}|{re.escape(PARTIAL)}.*|{SHARD}\d+|[0-9a-f]{{16}}\.(features|index)"
    )
    foreign = sorted(path.name for path in folder.iterdir() if not own.fullmatch(path.name))
    if foreign:
        raise UserError(
            f"--cache-dir {folder} is not empty and no cache of this program's making "
            f"({foreign[0]} is in it): name another folder"
        )
