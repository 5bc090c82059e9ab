"""Features on disk: computed once per clip, kept, and found again.

A cache folder holds two files per recipe (what decides the features beside the clip: stream,
frames, layer, weights, number format): the rows of features, and an index with a record per row,
which says whose clip the row is and what its checksum is. A row with a record is never written
again. The shards of a cache are built the same way.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
import weakref
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from violence_detection.errors import RunError, failing_as
from violence_detection.features.cache.folder import FORMAT, CacheFolder
from violence_detection.features.cache.record_file import (
    ROW_FIELDS,
    RecordFile,
    as_keys,
    row_index,
)
from violence_detection.settings.constants import FRAME_SIZE
from violence_detection.storage.locks import try_lock

COMMIT_INTERVAL = 1.0  # seconds of extraction that a killed run may lose
SHARD_ROWS = 2**40  # more than a shard has rows; times a shard's number it stays below 2^63

THUMBNAIL = "thumbnail"  # a layer name: small pictures, without a network, that reveal copies


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a clip's features beside the clip itself."""

    frames: int
    layer: str
    weights: str  # as `identify_weights` returns it
    features: int  # values per frame
    dtype: str  # on disk
    stream: str = "rgb"  # what the network sees, see `clips.streams`
    flipped: bool = False  # of the mirrored clip
    pooling: str = "mean"  # of a layer's maps, see `models.vgg19.pooled`
    frame_size: int = FRAME_SIZE  # pixels, width and height
    format: int = FORMAT

    @property
    def key(self) -> str:
        """A hash of the recipe, which names its files."""
        return hashlib.blake2b(self.description.encode(), digest_size=8).hexdigest()

    @property
    def description(self) -> str:
        """The recipe as JSON; the defaults of `stream`, `flipped` and `pooling` are left out."""
        fields = dataclasses.asdict(self)
        for name, default in {"stream": "rgb", "flipped": False, "pooling": "mean"}.items():
            if fields[name] == default:
                del fields[name]
        return json.dumps(fields, sort_keys=True)


def row_checksum(row: np.ndarray) -> int:
    """Return the CRC-32 of a row's bytes: as fast as memory, against damage, not malice."""
    return zlib.crc32(row.reshape(-1).view(np.uint8).data)


class ClipFacts(NamedTuple):
    """What was found out about a clip when its features were computed."""

    seconds: float = math.nan  # its length
    share: float = 1.0  # of it that could be read


class _Shard:
    """The rows of a recipe in one folder of a cache, and their records."""

    def __init__(self, folder: Path, recipe: Recipe, row_bytes: int, writable: bool):
        self.folder = folder
        self.path = folder / f"{recipe.key}.features"
        # A row without a record is the unfinished tail of a killed run; a record without a row
        # means that the row is lost and has to be computed again.
        complete = self.path.stat().st_size // row_bytes if self.path.exists() else 0
        self.records = RecordFile(
            row_index(folder, recipe.key), recipe.description, ROW_FIELDS, writable, complete
        )


class FeatureCache:
    """The rows of one recipe in a cache folder and its shards, read as one.

    A row's number is `SHARD_ROWS` times the number of its shard, plus its position there.

    Args:
        folder: of the cache.
        recipe: of the features.

    Raises:
        UserError: the folder cannot be written.
        RunError: the disk is full.
    """

    def __init__(self, folder: CacheFolder, recipe: Recipe):
        self.folder = folder
        self.recipe = recipe
        self.row_shape = (recipe.frames, recipe.features)
        self.row_bytes = recipe.frames * recipe.features * np.dtype(recipe.dtype).itemsize
        with folder.explain_errors():
            self._shards = {
                number: _Shard(path, recipe, self.row_bytes, number == folder.own_number)
                for number, path in folder.shards.items()
            }
        self._own = self._shards[folder.own_number]
        self.path = self._own.path
        self._unsynced = False
        self._committed_at = time.monotonic()

    def fingerprint(self, rows: Sequence[int]) -> str:
        """Return a hash of the recipe and of the contents of the clips in `rows` (-1: none)."""
        digest = hashlib.blake2b(self.recipe.description.encode(), digest_size=16)
        digest.update(self.contents(rows).tobytes())
        return digest.hexdigest()

    def contents(self, rows: Sequence[int]) -> np.ndarray:
        """Return the content hashes of the clips in `rows`.

        Returns:
            `(rows, 2)` big-endian uint64; zeros for a row of -1.
        """
        found = np.zeros((len(rows), 2), ">u8")
        for shard, positions, indices in self._by_shard(rows):
            found[indices] = shard.records.records(positions)["key"]
        return found

    def _by_shard(self, rows: Sequence[int]) -> Iterator[tuple[_Shard, np.ndarray, np.ndarray]]:
        """Yield each shard of `rows`, the positions of those in it, and their indices in `rows`."""
        numbers = np.asarray(rows, np.int64)
        for number, shard in self._shards.items():
            indices = np.flatnonzero((numbers >= 0) & (numbers // SHARD_ROWS == number))
            positions = numbers[indices] % SHARD_ROWS
            known = positions < shard.records.count
            if len(indices):
                yield shard, positions[known], indices[known]

    def row_of(self, clip: bytes) -> int | None:
        """Return the row of a clip's features, or None. Any thread may call this.

        Args:
            clip: its content hash.
        """
        for number, shard in self._shards.items():
            if (position := shard.records.find_one(clip)) is not None:
                return number * SHARD_ROWS + position
        return None

    def rows_of(self, clips: Sequence[bytes | None]) -> np.ndarray:
        """Return the rows of many clips' features.

        Args:
            clips: their content hashes; None where it is unknown.

        Returns:
            `(clips,)` int64; -1 for a clip without features.
        """
        keys = as_keys(known := [clip for clip in clips if clip is not None])
        found = np.full(len(known), -1, np.int64)
        for number, shard in self._shards.items():
            missing = np.flatnonzero(found < 0)
            if len(missing):
                positions = shard.records.find(keys[missing])
                found[missing] = np.where(positions >= 0, number * SHARD_ROWS + positions, -1)
        if len(known) == len(clips):
            return found
        rows = np.full(len(clips), -1, np.int64)
        rows[[clip is not None for clip in clips]] = found
        return rows

    def checksum_of(self, row: int) -> int | None:
        """Return the `row_checksum` that a row had when it was stored; None for no row."""
        return self.checksums_of([row])[0]

    def checksums_of(self, rows: Sequence[int]) -> list[int | None]:
        """Return `checksum_of` each row."""
        found: list[int | None] = [None] * len(rows)
        for shard, positions, indices in self._by_shard(rows):
            checksums = shard.records.records(positions)["checksum"].tolist()
            for index, checksum in zip(indices.tolist(), checksums, strict=True):
                found[index] = checksum
        return found

    def facts_of(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds and the readable shares of the clips in `rows`, float32 each.

        NaN and 1 where they are unknown.
        """
        seconds, shares = (np.full(len(rows), value, np.float32) for value in ClipFacts())
        for shard, positions, indices in self._by_shard(rows):
            records = shard.records.records(positions)
            seconds[indices], shares[indices] = records["seconds"], records["share"]
        return seconds, shares

    def store(
        self,
        clips: Collection[bytes],
        features: np.ndarray,
        facts: Sequence[ClipFacts] | None = None,
    ) -> None:
        """Append features, which are durable after the next `commit`.

        Args:
            clips: their content hashes.
            features: `(clips, frames, features)`, converted to the recipe's dtype.
            facts: of each clip; None: unknown.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        rows = np.ascontiguousarray(features, dtype=self.recipe.dtype)
        records = self._own.records
        with failing_as(self.path):
            if not records.count:  # the index was lost: a run that trains on its rows keeps them
                self.path.unlink(missing_ok=True)
                self.path.touch()
        with failing_as(self.path), self.path.open("r+b") as file:
            file.seek(records.count * self.row_bytes)
            file.write(rows.tobytes())
        facts = [ClipFacts()] * len(clips) if facts is None else facts
        for clip, row, known in zip(clips, rows, facts, strict=True):
            records.add(clip, row_checksum(row), *known)
        self._unsynced = True
        if time.monotonic() - self._committed_at > COMMIT_INTERVAL:
            self.commit()

    def commit(self) -> None:
        """Make what was stored durable: first the rows, then the records that refer to them.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        if self._unsynced:
            with failing_as(self.path), self.path.open("r+b") as file:
                os.fsync(file.fileno())
        self._own.records.flush()
        self.folder.commit()
        self._unsynced = False
        self._committed_at = time.monotonic()

    def drop(self, rows: Sequence[int]) -> None:
        """Drop rows, so that their clips have no features any more.

        Rows in a shard that another process is writing are dropped for this process only.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        for shard, positions, _ in self._by_shard(rows):
            if shard is self._own:
                shard.records.remove(positions)
                continue
            lock = try_lock(shard.folder)
            if lock is not None:
                with lock:
                    records = _Shard(shard.folder, self.recipe, self.row_bytes, True).records
                    keys = records.records(positions)["key"]
                    same = keys == shard.records.records(positions)["key"]
                    records.remove(positions[same.all(axis=1)])
            shard.records.remove(positions, in_file=False)

    def copy_rows(self, rows: Sequence[int]) -> int:
        """Copy rows of other shards into the own one; damaged rows are not copied.

        Args:
            rows: those in the own shard, and -1, are skipped.

        Returns:
            The number of rows copied.

        Raises:
            RunError: the disk is full, gone or read-only; a row cannot be read.
        """
        before, stored = self._own.records.count, self.rows()
        elsewhere = [row for row in rows if row // SHARD_ROWS not in (-1, self.folder.own_number)]
        contents = self.contents(elsewhere)
        known = self._own.records.find(contents) >= 0
        for row, content in itertools.compress(zip(elsewhere, contents, strict=True), ~known):
            features = stored.read([row])
            intact = row_checksum(features) == self.checksum_of(row)
            if intact and self._own.records.find_one(content.tobytes()) is None:
                (seconds,), (share,) = self.facts_of([row])
                self.store([content.tobytes()], features, [ClipFacts(seconds, share)])
        self.commit()
        return self._own.records.count - before

    def rows_only_in(self, number: int) -> list[int]:
        """Return the rows of shard `number` whose clips are in no other shard."""
        records = self._shards[number].records
        positions = records.positions()
        keys = records.records(positions)["key"]
        for other, shard in self._shards.items():
            if other != number and len(positions):
                missing = shard.records.find(keys) < 0
                positions, keys = positions[missing], keys[missing]
        return (number * SHARD_ROWS + positions).tolist()

    def rows(self) -> "FeatureRows":
        """Return the rows, which are read on demand."""
        paths = {number: shard.path for number, shard in self._shards.items()}
        return FeatureRows(paths, self.row_shape, self.recipe.dtype)


class FeatureRows:
    """Files of rows of features, read on demand.

    Read, not mapped into memory: the pages of a memory map count as the process's own once they
    are touched, after an epoch the whole cache, and a file that is cut short would kill the
    process.

    Args:
        paths: a file, or the files of the shards by their numbers.
        row_shape: `(frames, features)`.
        dtype: on disk.
    """

    def __init__(self, paths: Path | Mapping[int, Path], row_shape: tuple[int, int], dtype: str):
        self.paths = {0: paths} if isinstance(paths, Path) else paths
        self.row_shape = row_shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = math.prod(row_shape) * self.dtype.itemsize
        self._files: dict[int, int] = {}
        for number, path in self.paths.items():
            if path.exists():  # a shard may have no rows of a recipe
                self._files[number] = os.open(path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._files[number])

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Return the features in rows; other threads run while the disk is read.

        Args:
            rows: their numbers; a row of -1 is zeros.

        Returns:
            `(rows, frames, features)` in the dtype on disk.

        Raises:
            RunError: a row cannot be read, or is beyond the end of its file.
        """
        features = np.empty((len(rows), *self.row_shape), self.dtype)
        buffer = features.reshape(-1).view(np.uint8).data
        for index, row in enumerate(rows):
            if row < 0:
                features[index] = 0
                continue
            target = buffer[index * self.row_bytes : (index + 1) * self.row_bytes]
            number, position = divmod(row, SHARD_ROWS)
            path, file = self.paths[number], self._files.get(number)
            offset = position * self.row_bytes
            try:
                read = os.preadv(file, [target], offset) if file is not None else 0
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror}") from error
            if read < self.row_bytes:
                raise RunError(f"{path} has lost row {position}: start again to recompute it")
        return features
