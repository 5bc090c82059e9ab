"""Features on disk: each clip's are computed once, kept, and found again.

A cache folder holds one file of rows per recipe (what decides the features beside the clip:
frames, layer, weights, frame size, number format) and an SQLite index of which clip's features
are in which row, and of each row's checksum. A clip is known by its content, so it may move, be
renamed or change split; its file is only read again for that when its size or times have changed.
A folder is written by one process at a time; rows that the index knows are never written again.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import sqlite3
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from config import FRAME_SIZE
from durable_files import failing_as, require_room
from errors import RunError, UserError
from folder_lock import LOCK_NAME, locked
from run_log import log

INDEX_NAME = "index.sqlite"
APPLICATION_ID = 0x56444643  # "VDFC" in the index's header: this program's own
FORMAT = 2  # of the folder; also to be raised when decoding or preprocessing changes
COMMIT_INTERVAL = 1.0  # seconds of extraction that a killed run may lose

_SCHEMA = """
CREATE TABLE files (path BLOB PRIMARY KEY, size INT, mtime_ns INT, ctime_ns INT, clip BLOB);
CREATE TABLE recipes (recipe TEXT PRIMARY KEY, description TEXT);
CREATE TABLE features (
    recipe TEXT, clip BLOB, row INT, checksum INT, PRIMARY KEY (recipe, clip)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Recipe:
    """All that decides a clip's features, beside the clip."""

    frames: int
    layer: str
    weights: str  # what `model_architecture.identify_weights` says
    features: int  # values per frame
    dtype: str  # on disk
    frame_size: int = FRAME_SIZE
    format: int = FORMAT

    @property
    def key(self) -> str:
        """A hash of the recipe: the name of its file of rows."""
        return hashlib.blake2b(self.description.encode(), digest_size=8).hexdigest()

    @property
    def description(self) -> str:
        """The recipe as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


Stamp = tuple[int, int, int]


def file_stamp(path: Path) -> Stamp:
    """Return a file's size and its times of change: if they stay, so does its content."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def row_checksum(row: np.ndarray) -> int:
    """Return the CRC-32 of a row's bytes: it has to tell damage, not malice, at memory's speed."""
    return zlib.crc32(row.reshape(-1).view(np.uint8).data)


class FeatureCache:
    """The rows of one recipe in a cache folder, which is this process's own until `close`.

    Args:
        busy: called once, with "process 123", if another process has the folder; if it does not
            raise, the folder is waited for.

    Raises:
        UserError: the folder cannot be written, or another program made it.
    """

    def __init__(self, folder: Path, recipe: Recipe, busy: Callable[[str], None] | None = None):
        self.folder = folder.expanduser().absolute()
        self.recipe = recipe
        self.row_shape = (recipe.frames, recipe.features)
        self.row_bytes = recipe.frames * recipe.features * np.dtype(recipe.dtype).itemsize
        self.path = self.folder / f"{recipe.key}.features"
        self._lock = contextlib.ExitStack()
        _require_ours(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.folder, busy or (lambda holder: None)))
            self._index = _open_index(self.folder)
            # A row that the index does not know is the unfinished tail of a killed run; one that
            # the index knows and the file has not is lost, and computed again.
            complete = self.path.stat().st_size // self.row_bytes if self.path.exists() else 0
            with self._index:
                self._index.execute(
                    "INSERT OR IGNORE INTO recipes VALUES (?, ?)", (recipe.key, recipe.description)
                )
                self._index.execute(
                    "DELETE FROM features WHERE recipe = ? AND row >= ?", (recipe.key, complete)
                )
        except (OSError, sqlite3.OperationalError) as error:
            require_room(error, self.folder)
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"--cache-dir {self.folder} cannot be written: {reason}") from error
        found = self._index.execute(
            "SELECT clip, row, checksum FROM features WHERE recipe = ?", (recipe.key,)
        ).fetchall()
        self._row_of: dict[bytes, int] = {clip: row for clip, row, _ in found}
        self._checksums: dict[int, int] = {row: checksum for _, row, checksum in found}
        self._rows = 1 + max(self._checksums, default=-1)
        self._pending: list[bytes] = []
        self._committed_at = time.monotonic()

    def known_contents(self, paths: Sequence[Path]) -> list[bytes | None]:
        """Return each file's content hash if it was hashed before and has not changed since."""
        query = "SELECT size, mtime_ns, ctime_ns, clip FROM files WHERE path = ?"
        contents: list[bytes | None] = []
        for path in paths:
            seen = self._index.execute(query, (os.fsencode(path),)).fetchone()
            try:
                unchanged = seen is not None and file_stamp(path) == seen[:3]
            except OSError:  # decoding will say what is wrong with it
                unchanged = False
            contents.append(seen[3] if unchanged else None)
        return contents

    def fingerprint(self, rows: Sequence[int]) -> str:
        """Return a hash of the recipe and of the contents of the clips in `rows` (-1: none)."""
        clips = {row: clip for clip, row in self._row_of.items()}
        digest = hashlib.blake2b(self.recipe.description.encode(), digest_size=16)
        for row in rows:
            digest.update(clips.get(row, bytes(16)))
        return digest.hexdigest()

    def row_of(self, clip: bytes) -> int | None:
        """Return the row that holds a clip's features, by its content hash; None if none does."""
        return self._row_of.get(clip)

    def remember_file(self, path: Path, stamp: Stamp, clip: bytes) -> None:
        """Keep a file's content hash and the stamp that it had before it was read."""
        with failing_as(self.folder / INDEX_NAME):
            self._index.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                (os.fsencode(path), *stamp, clip),
            )

    def checksum_of(self, row: int) -> int | None:
        """Return what `row_checksum` of a row was when it was stored."""
        return self._checksums.get(row)

    def store(self, clips: Iterable[bytes], features: np.ndarray) -> None:
        """Append `(clips, frames, features)`; they are durable after the next `commit`.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        rows = np.ascontiguousarray(features, dtype=self.recipe.dtype)
        with failing_as(self.path):
            if not self._rows:  # a run that trains on rows of an index that was lost keeps them
                self.path.unlink(missing_ok=True)
                self.path.touch()
        with failing_as(self.path), self.path.open("r+b") as file:
            file.seek(self._rows * self.row_bytes)
            file.write(rows.tobytes())
        for clip, row in zip(clips, rows, strict=True):
            self._row_of[clip] = self._rows
            self._checksums[self._rows] = row_checksum(row)
            self._pending.append(clip)
            self._rows += 1
        if time.monotonic() - self._committed_at > COMMIT_INTERVAL:
            self.commit()

    def commit(self) -> None:
        """Make what was stored durable: first the rows, then the index that vouches for them.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        if self._pending:
            with failing_as(self.path), self.path.open("r+b") as file:
                os.fsync(file.fileno())
        with failing_as(self.folder / INDEX_NAME):
            self._index.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)",
                [
                    (self.recipe.key, clip, self._row_of[clip], self._checksums[self._row_of[clip]])
                    for clip in self._pending
                ],
            )
            self._index.commit()
        self._pending.clear()
        self._committed_at = time.monotonic()

    def forget(self, rows: Iterable[int]) -> None:
        """Strike rows out: their clips have no features any more."""
        lost = set(rows)
        clips = [clip for clip, row in self._row_of.items() if row in lost]
        with failing_as(self.folder / INDEX_NAME), self._index:
            self._index.executemany(
                "DELETE FROM features WHERE recipe = ? AND clip = ?",
                [(self.recipe.key, clip) for clip in clips],
            )
        for clip in clips:
            del self._row_of[clip]

    def close(self) -> None:
        """Commit, and let go of the index and the folder."""
        try:
            self.commit()
        finally:
            self._index.close()
            self._lock.close()

    def rows(self) -> "FeatureRows":
        """Return the rows, to be read as they are needed."""
        return FeatureRows(self.path, self.row_shape, self.recipe.dtype)


class FeatureRows:
    """A file of rows of features, read when asked for.

    Read, not mapped into memory: pages of a memory map count as the process's own once they are
    touched, after an epoch the whole cache, and a file that is cut short would kill the process.

    Args:
        row_shape: `(frames, features)`.
        dtype: on disk.
    """

    def __init__(self, path: Path, row_shape: tuple[int, int], dtype: str):
        self.path = path
        self.row_shape = row_shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = math.prod(row_shape) * self.dtype.itemsize
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Return `(rows, frames, features)` in the dtype on disk; a row of -1 is zeros.

        Other threads run while it waits for the disk.

        Raises:
            RunError: a row cannot be read, or the file does not hold it.
        """
        features = np.empty((len(rows), *self.row_shape), self.dtype)
        buffer = features.reshape(-1).view(np.uint8).data
        for place, row in enumerate(rows):
            target = buffer[place * self.row_bytes : (place + 1) * self.row_bytes]
            if row < 0:
                features[place] = 0
                continue
            try:
                read = os.preadv(self._file, [target], row * self.row_bytes)
            except OSError as error:
                raise RunError(f"{self.path} cannot be read: {error.strerror}") from error
            if read < self.row_bytes:
                raise RunError(
                    f"{self.path} has lost row {row}: start again, and it is computed anew"
                )
        return features


def _require_ours(folder: Path) -> None:
    """Raise `UserError` if a folder has files, but not this program's."""
    if (folder / INDEX_NAME).exists() or not folder.is_dir():
        return
    # A run may have been killed with the index set aside, and the rows still there.
    own = re.compile(rf"{re.escape(INDEX_NAME)}.*|{re.escape(LOCK_NAME)}|[0-9a-f]{{16}}\.features")
    foreign = sorted(path.name for path in folder.iterdir() if not own.fullmatch(path.name))
    if foreign:
        raise UserError(
            f"--cache-dir {folder} is not empty and no cache of this program's making "
            f"({foreign[0]} is in it): name another folder"
        )


def _open_index(folder: Path) -> sqlite3.Connection:
    path = folder / INDEX_NAME
    ours = _application_id(path) == APPLICATION_ID
    try:
        index = _connect(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        index = None
    if index is None and ours:
        aside = path.with_name(f"{INDEX_NAME}.damaged-{datetime.now():%Y%m%d_%H%M%S}")
        path.rename(aside)
        for journal in folder.glob(f"{INDEX_NAME}-*"):  # not to be played back into the new one
            journal.unlink()
        log.warning(
            "%s was damaged and is set aside as %s: features are computed anew", path, aside.name
        )
        index = _connect(path)
    if index is None or index.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        raise UserError(
            f"--cache-dir {folder}: {path.name} is of another program's making or of another "
            "version of this one: name another folder"
        )
    return index


def _connect(path: Path) -> sqlite3.Connection | None:
    """Return the index, made if there is none; None if it is another program's.

    Raises:
        sqlite3.DatabaseError: it is damaged, or no database at all.
    """
    index = sqlite3.connect(path, timeout=30)
    if not index.execute("SELECT 1 FROM sqlite_master").fetchone():
        with index:  # all or nothing: a run killed here leaves an empty index
            index.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {FORMAT}; COMMIT;"
            )
    if index.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return None
    complaint = index.execute("PRAGMA quick_check(1)").fetchone()[0]
    if complaint != "ok":
        index.close()
        raise sqlite3.DatabaseError(complaint)
    return index


def _application_id(path: Path) -> int:
    """Return what an SQLite file's header says about whose it is; 0 if it has none."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(72)[68:72])
    except FileNotFoundError:
        return 0
