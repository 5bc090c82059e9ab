"""Features on disk: each clip's are computed once, kept, and found again.

A cache folder holds one file of rows per recipe (what decides the features beside the clip:
stream, frames, layer, weights, number format) and an SQLite index of which clip's features
are in which row, and of each row's checksum. Rows that the index knows are never written again.
"""

import dataclasses
import hashlib
import json
import math
import os
import time
import weakref
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache_folder import FORMAT, CacheFolder
from config import FRAME_SIZE
from durable_files import failing_as
from errors import RunError

COMMIT_INTERVAL = 1.0  # seconds of extraction that a killed run may lose


THUMBNAIL = "thumbnail"  # in a layer's place: small pictures, no network, by which copies are found


@dataclass(frozen=True)
class Recipe:
    """All that decides a clip's features, beside the clip."""

    frames: int
    layer: str
    weights: str  # what `model_architecture.identify_weights` says
    features: int  # values per frame
    dtype: str  # on disk
    stream: str = "rgb"  # what the network is shown, see `streams`
    flipped: bool = False  # of the mirrored clip
    frame_size: int = FRAME_SIZE
    format: int = FORMAT

    @property
    def key(self) -> str:
        """A hash of the recipe: the name of its file of rows."""
        return hashlib.blake2b(self.description.encode(), digest_size=8).hexdigest()

    @property
    def description(self) -> str:
        """The recipe as JSON; a stream that is not said is RGB, not flipped."""
        decides = dataclasses.asdict(self)
        for name, usual in {"stream": "rgb", "flipped": False}.items():
            if decides[name] == usual:
                del decides[name]
        return json.dumps(decides, sort_keys=True)


def row_checksum(row: np.ndarray) -> int:
    """Return the CRC-32 of a row's bytes: it has to tell damage, not malice, at memory's speed."""
    return zlib.crc32(row.reshape(-1).view(np.uint8).data)


class FeatureCache:
    """The rows of one recipe in a cache folder.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: CacheFolder, recipe: Recipe):
        self.folder = folder
        self.recipe = recipe
        self.row_shape = (recipe.frames, recipe.features)
        self.row_bytes = recipe.frames * recipe.features * np.dtype(recipe.dtype).itemsize
        self.path = folder.path / f"{recipe.key}.features"
        self._index = folder.index
        with folder.opening(), self._index:
            # A row that the index does not know is the unfinished tail of a killed run; one that
            # the index knows and the file has not is lost, and computed again.
            complete = self.path.stat().st_size // self.row_bytes if self.path.exists() else 0
            self._index.execute(
                "INSERT OR IGNORE INTO recipes VALUES (?, ?)", (recipe.key, recipe.description)
            )
            self._index.execute(
                "DELETE FROM features WHERE recipe = ? AND row >= ?", (recipe.key, complete)
            )
        found = self._index.execute(
            "SELECT clip, row, checksum FROM features WHERE recipe = ?", (recipe.key,)
        ).fetchall()
        self._row_of: dict[bytes, int] = {clip: row for clip, row, _ in found}
        self._checksums: dict[int, int] = {row: checksum for _, row, checksum in found}
        self._rows = 1 + max(self._checksums, default=-1)
        self._pending: list[bytes] = []
        self._committed_at = time.monotonic()

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
        with failing_as(self.folder.index_path):
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
        with failing_as(self.folder.index_path), self._index:
            self._index.executemany(
                "DELETE FROM features WHERE recipe = ? AND clip = ?",
                [(self.recipe.key, clip) for clip in clips],
            )
        for clip in clips:
            del self._row_of[clip]

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
