"""The folder of a feature cache: where its parts are, and what is known of each clip's file.

    FOLDER/<recipe>/   parts with the features of one recipe, see `parts`
    FOLDER/files/      parts that say which content each file had when it was hashed

A clip is known by its content, so it may be moved, be renamed or change split; its file is only
hashed again when its size or times have changed. Any number of processes read and write at once.
"""

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from violence_detection.errors import UserError, require_room
from violence_detection.features.cache.earlier_format import take_up
from violence_detection.features.cache.merging import merge_small_parts, open_parts
from violence_detection.features.cache.parts import (
    FILE_FIELDS,
    FILES,
    KEY_BYTES,
    KEYS,
    KEYS_AT_ONCE,
    RecordIndex,
    as_keys,
    new_name,
    record_type,
    write_keys,
)
from violence_detection.runtime.worker import Worker
from violence_detection.storage.files import PARTIAL
from violence_detection.storage.remote_paths import AnyPath, RemotePath

FORMAT = 3  # of the features; raise it when decoding or preprocessing changes
BAD_CLIPS = "bad_clips"  # begins the lists of the clips that a worker could not read
LOG = "extraction"  # begins the logs of --extract-only
IN_CACHE = re.compile(
    rf"{FILES}|[0-9a-f]{{16}}|{BAD_CLIPS}\S*\.json|{LOG}\S*\.log|{re.escape(PARTIAL)}.*|\.lock"
)

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
    return next(folder.glob(f"{FILES}/*{KEYS}"), None) is not None


def name_of(worker: Worker | None, begin: str, end: str) -> str:
    """Return the name of a worker's own file: "bad_clips.json", or "bad_clips_2_of_3.json"."""
    if worker is None or worker.count == 1:
        return f"{begin}{end}"
    return f"{begin}_{worker.number + 1}_of_{worker.count}{end}"


class CacheFolder:
    """A cache that is read and written until the end of the block.

    Args:
        path: of the cache.
        local: a cache on this machine's own disk to write instead; both are read.
        writable: whether anything is written; if not, a folder that is no cache is an empty one.

    Raises:
        UserError: the folder cannot be written, or holds another program's files.
        RunError: the disk is full.
    """

    def __init__(self, path: Path, local: Path | None = None, writable: bool = True):
        self.path = path.expanduser().absolute()
        self.own_path = local.expanduser().absolute() if local else self.path
        self.folders = list(dict.fromkeys([self.path, self.own_path]))
        self.writable = writable
        self._found: list[tuple[bytes, Stamp, bytes]] = []  # not in a part yet
        if writable:
            with self.explain_errors():
                for folder in self.folders:
                    take_up(folder)
        for folder in self.folders:
            _refuse_foreign_files(folder)
        if writable:
            with self.explain_errors():
                (self.own_path / FILES).mkdir(parents=True, exist_ok=True)
                merge_small_parts(self.own_path / FILES, FILE_FIELDS)
        self.refresh()

    def refresh(self) -> None:
        """See what other processes have stored since; each `FeatureCache` must be opened again."""
        files = [
            keys
            for folder in self.folders
            for keys, _ in open_parts(folder / FILES, FILE_FIELDS, with_rows=False)
        ]
        self._is_stale = False
        self._files = RecordIndex(sorted(files, key=lambda keys: keys.name), FILE_FIELDS)

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
        self.commit()

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
        self.commit()
        if self._is_stale:
            self.refresh()
        contents, remaining = [], iter(paths)  # of millions, not all paths at once
        while some := list(itertools.islice(remaining, KEYS_AT_ONCE)):
            contents += self._known_contents(some, assume_unchanged)
        return contents

    def _known_contents(
        self, paths: Sequence[AnyPath], assume_unchanged: bool
    ) -> list[bytes | None]:
        contents: list[bytes | None] = [None] * len(paths)
        positions = self._files.find(as_keys(map(_file_key, paths)))
        found = np.flatnonzero(positions >= 0)
        records = self._files.records(positions[found])
        for number, stamp, content in zip(
            found.tolist(), records["stamp"].tolist(), records["content"], strict=True
        ):
            # Of one that cannot be read, decoding will report what is wrong with it.
            with contextlib.suppress(OSError):
                if assume_unchanged or file_stamp(paths[number]) == tuple(stamp):
                    contents[number] = content.tobytes()
        return contents

    def remember_file(self, path: AnyPath, stamp: Stamp, content: bytes) -> None:
        """Record a file's content hash; it is durable after the next `commit`.

        Args:
            path: of the file.
            stamp: which the file had before it was hashed.
            content: the 16-byte hash.
        """
        self._found.append((_file_key(path), stamp, content))

    def commit(self) -> None:
        """Make the records of files durable.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        if not self._found:
            return
        records = np.zeros(len(self._found), record_type(FILE_FIELDS))
        keys, stamps, contents = zip(*self._found, strict=True)
        records["key"], records["stamp"] = as_keys(keys), stamps
        records["content"] = np.array(contents, f"S{KEY_BYTES}").view(f"V{KEY_BYTES}")
        write_keys(self.own_path / FILES / f"{new_name()}{KEYS}", FILES, records)
        self._found.clear()
        self._is_stale = True


def _file_key(path: AnyPath) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=KEY_BYTES).digest()


def _refuse_foreign_files(folder: Path) -> None:
    """Raise `UserError` if a folder is not empty and no feature cache."""
    if not folder.is_dir():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not IN_CACHE.fullmatch(path.name))
    if foreign:
        raise UserError(
            f"--cache-dir {folder} is not empty and not a feature cache (it contains "
            f"{foreign[0]}): name another folder"
        )
