"""Features on disk: each clip's are computed once, kept, and found again.

A cache folder holds one file of rows per recipe (what decides the features beside the clip:
frames, layer, weights, frame size, number format) and an SQLite index of which clip's features
are in which row. A clip is known by its content, so it may move, be renamed or change split; its
file is only read again for that when its size or times have changed.
"""

import dataclasses
import hashlib
import json
import math
import os
import sqlite3
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import FRAME_SIZE
from errors import RunError, UserError

INDEX_NAME = "index.sqlite"
APPLICATION_ID = 0x56444643  # "VDFC" in the index's header: this program's own
FORMAT = 2  # of the folder; also to be raised when decoding or preprocessing changes
COMMIT_INTERVAL = 1.0  # seconds of extraction that a killed run may lose

_SCHEMA = """
CREATE TABLE files (path BLOB PRIMARY KEY, size INT, mtime_ns INT, ctime_ns INT, clip BLOB);
CREATE TABLE recipes (recipe TEXT PRIMARY KEY, description TEXT);
CREATE TABLE features (recipe TEXT, clip BLOB, row INT, PRIMARY KEY (recipe, clip)) WITHOUT ROWID;
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


def clip_content(path: Path) -> bytes:
    """Return the 16 bytes that stand for a file's content (BLAKE2b)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


class FeatureCache:
    """The rows of one recipe in a cache folder.

    Raises:
        UserError: the folder cannot be written, or another program made it.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder = folder.expanduser().absolute()
        self.recipe = recipe
        self.row_shape = (recipe.frames, recipe.features)
        self.row_bytes = recipe.frames * recipe.features * np.dtype(recipe.dtype).itemsize
        self.path = self.folder / f"{recipe.key}.features"
        self._index = _open_index(self.folder)
        # A row that the index does not know is the unfinished tail of a killed run; one that the
        # index knows and the file has not is lost, and computed again.
        complete = self.path.stat().st_size // self.row_bytes if self.path.exists() else 0
        try:
            with self._index:
                self._index.execute(
                    "INSERT OR IGNORE INTO recipes VALUES (?, ?)", (recipe.key, recipe.description)
                )
                self._index.execute(
                    "DELETE FROM features WHERE recipe = ? AND row >= ?", (recipe.key, complete)
                )
        except sqlite3.OperationalError as error:
            raise UserError(f"--cache-dir {self.folder} cannot be written: {error}") from error
        self._row_of: dict[bytes, int] = dict(
            self._index.execute("SELECT clip, row FROM features WHERE recipe = ?", (recipe.key,))
        )
        self._rows = 1 + max(self._row_of.values(), default=-1)
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
        self._index.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            (os.fsencode(path), *stamp, clip),
        )

    def store(self, clips: Iterable[bytes], features: np.ndarray) -> None:
        """Append `(clips, frames, features)`; they are durable after the next `commit`."""
        rows = np.ascontiguousarray(features, dtype=self.recipe.dtype)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._rows * self.row_bytes)
            file.write(rows.tobytes())
        for clip in clips:
            self._row_of[clip] = self._rows
            self._pending.append(clip)
            self._rows += 1
        if time.monotonic() - self._committed_at > COMMIT_INTERVAL:
            self.commit()

    def commit(self) -> None:
        """Make what was stored durable: first the rows, then the index that vouches for them."""
        if self._pending:
            with self.path.open("r+b") as file:
                os.fsync(file.fileno())
            self._index.executemany(
                "INSERT INTO features VALUES (?, ?, ?)",
                [(self.recipe.key, clip, self._row_of[clip]) for clip in self._pending],
            )
        self._index.commit()
        self._pending.clear()
        self._committed_at = time.monotonic()

    def close(self) -> None:
        """Commit and let go of the index."""
        self.commit()
        self._index.close()

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


def _open_index(folder: Path) -> sqlite3.Connection:
    index_path = folder / INDEX_NAME
    if not index_path.exists() and folder.is_dir():
        foreign = sorted(
            path.name for path in folder.iterdir() if not path.name.startswith((".", INDEX_NAME))
        )
        if foreign:
            raise UserError(
                f"--cache-dir {folder} is not empty and no cache of this program's making "
                f"({foreign[0]} is in it): name another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        index = sqlite3.connect(index_path, timeout=30)
        ours = index.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        if not ours and not index.execute("SELECT 1 FROM sqlite_master").fetchone():
            with index:  # all or nothing: a run killed here leaves an empty index
                index.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                    f"PRAGMA user_version = {FORMAT}; COMMIT;"
                )
            ours = True
        index_format = index.execute("PRAGMA user_version").fetchone()[0]
    except OSError as error:
        raise UserError(f"--cache-dir {folder} cannot be written: {error.strerror}") from error
    except sqlite3.OperationalError as error:
        raise UserError(f"--cache-dir {folder} cannot be written: {error}") from error
    except sqlite3.DatabaseError:
        ours, index_format = False, 0
    if not ours or index_format != FORMAT:
        raise UserError(
            f"--cache-dir {folder}: {index_path.name} is of another program's making or of another "
            "version of this one: name another folder"
        )
    return index
