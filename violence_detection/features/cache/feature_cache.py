"""Features on disk: each clip's are computed once, kept, and found again.

A cache folder holds two files per recipe (what decides the features beside the clip: stream,
frames, layer, weights, number format): the rows, and a record of each row, of which clip it is and
its checksum. Rows that have a record are never written again. Shards of the cache hold the same.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from violence_detection.errors import RunError, failing_as
from violence_detection.features.cache.folder import FORMAT, CacheFolder
from violence_detection.features.cache.record_file import ROW, RecordFile, as_keys, row_index
from violence_detection.settings.constants import FRAME_SIZE
from violence_detection.storage.locks import try_lock

COMMIT_INTERVAL = 1.0  # seconds of extraction that a killed run may lose
SHARD_ROWS = 2**40  # above any row of a shard, and its number times this below 2^63

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


class _Shard:
    """The rows of a recipe in one folder of a cache, and the records that vouch for them."""

    def __init__(self, folder: Path, recipe: Recipe, row_bytes: int, writable: bool):
        self.folder = folder
        self.path = folder / f"{recipe.key}.features"
        # A row without a record is the unfinished tail of a killed run; one that has a record, and
        # that the file has not, is lost, and computed again.
        complete = self.path.stat().st_size // row_bytes if self.path.exists() else 0
        self.records = RecordFile(
            row_index(folder, recipe.key), recipe.description, ROW, writable, complete
        )


class FeatureCache:
    """The rows of one recipe in a cache folder and in its shards, read as one.

    A row's number is that of the shard times `SHARD_ROWS`, and its place there.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: CacheFolder, recipe: Recipe):
        self.folder = folder
        self.recipe = recipe
        self.row_shape = (recipe.frames, recipe.features)
        self.row_bytes = recipe.frames * recipe.features * np.dtype(recipe.dtype).itemsize
        with folder.explain_errors():
            self._shards = {
                number: _Shard(path, recipe, self.row_bytes, number == folder.number)
                for number, path in folder.shards.items()
            }
        self._own = self._shards[folder.number]
        self.path = self._own.path
        self._unsynced = False
        self._committed_at = time.monotonic()

    def fingerprint(self, rows: Sequence[int]) -> str:
        """Return a hash of the recipe and of the contents of the clips in `rows` (-1: none)."""
        digest = hashlib.blake2b(self.recipe.description.encode(), digest_size=16)
        digest.update(self.contents(rows).tobytes())
        return digest.hexdigest()

    def contents(self, rows: Sequence[int]) -> np.ndarray:
        """Return `(rows, 2)` big-endian uint64, the content hash of each row's clip; -1: zeros."""
        found = np.zeros((len(rows), 2), ">u8")
        for shard, places, inside in self._by_shard(rows):
            found[inside] = shard.records.records(places)["key"]
        return found

    def _by_shard(self, rows: Sequence[int]) -> Iterator[tuple[_Shard, np.ndarray, np.ndarray]]:
        """Yield for each shard the places in it that `rows` name, and which of `rows` those are."""
        numbers = np.asarray(rows, np.int64)
        for number, shard in self._shards.items():
            inside = np.flatnonzero((numbers >= 0) & (numbers // SHARD_ROWS == number))
            places = numbers[inside] % SHARD_ROWS
            known = places < shard.records.count
            if len(inside):
                yield shard, places[known], inside[known]

    def row_of(self, clip: bytes) -> int | None:
        """Return the row that holds a clip's features, by its content hash; None if none does.

        From any thread.
        """
        for number, shard in self._shards.items():
            if (place := shard.records.find_one(clip)) is not None:
                return number * SHARD_ROWS + place
        return None

    def rows_of(self, clips: Sequence[bytes | None]) -> np.ndarray:
        """Return `(clips,)` int64, what `row_of` says of each; -1: there is none."""
        keys = as_keys(known := [clip for clip in clips if clip is not None])
        found = np.full(len(known), -1, np.int64)
        for number, shard in self._shards.items():
            asked = np.flatnonzero(found < 0)
            if len(asked):
                places = shard.records.find(keys[asked])
                found[asked] = np.where(places >= 0, number * SHARD_ROWS + places, -1)
        if len(known) == len(clips):
            return found
        rows = np.full(len(clips), -1, np.int64)
        rows[[clip is not None for clip in clips]] = found
        return rows

    def checksum_of(self, row: int) -> int | None:
        """Return what `row_checksum` of a row was when it was stored."""
        return self.checksums_of([row])[0]

    def checksums_of(self, rows: Sequence[int]) -> list[int | None]:
        """Return `checksum_of` each row."""
        found: list[int | None] = [None] * len(rows)
        for shard, places, inside in self._by_shard(rows):
            checksums = shard.records.records(places)["checksum"].tolist()
            for number, checksum in zip(inside.tolist(), checksums, strict=True):
                found[number] = checksum
        return found

    def store(self, clips: Iterable[bytes], features: np.ndarray) -> None:
        """Append `(clips, frames, features)`; they are durable after the next `commit`.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        rows = np.ascontiguousarray(features, dtype=self.recipe.dtype)
        records = self._own.records
        with failing_as(self.path):
            if not records.count:  # a run that trains on rows of an index that was lost keeps them
                self.path.unlink(missing_ok=True)
                self.path.touch()
        with failing_as(self.path), self.path.open("r+b") as file:
            file.seek(records.count * self.row_bytes)
            file.write(rows.tobytes())
        for clip, row in zip(clips, rows, strict=True):
            records.add(clip, row_checksum(row))
        self._unsynced = True
        if time.monotonic() - self._committed_at > COMMIT_INTERVAL:
            self.commit()

    def commit(self) -> None:
        """Make what was stored durable: first the rows, then the index that vouches for them.

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
        """Strike rows out: their clips have no features any more.

        Those in a shard that another process is writing are struck out for this one only.
        """
        for shard, places, _ in self._by_shard(rows):
            if shard is self._own:
                shard.records.strike(places)
                continue
            lock = try_lock(shard.folder)
            if lock is not None:
                with lock:
                    theirs = _Shard(shard.folder, self.recipe, self.row_bytes, True).records
                    same = theirs.records(places)["key"] == shard.records.records(places)["key"]
                    theirs.strike(places[same.all(axis=1)])
            shard.records.strike(places, in_file=False)

    def copy_rows(self, rows: Sequence[int]) -> int:
        """Copy rows that are in other shards into the one that this process writes.

        A row that is damaged is left where it is.

        Returns:
            How many were copied.

        Raises:
            RunError: the disk is full, gone or read-only; a row cannot be read.
        """
        before, stored = self._own.records.count, self.rows()
        elsewhere = [row for row in rows if row // SHARD_ROWS not in (-1, self.folder.number)]
        contents = self.contents(elsewhere)
        there = self._own.records.find(contents) >= 0
        for row, content in itertools.compress(zip(elsewhere, contents, strict=True), ~there):
            features = stored.read([row])
            whole = row_checksum(features) == self.checksum_of(row)
            if whole and self._own.records.find_one(content.tobytes()) is None:
                self.store([content.tobytes()], features)
        self.commit()
        return self._own.records.count - before

    def rows_only_in(self, number: int) -> list[int]:
        """Return the rows of a shard whose clips are in no other one."""
        records = self._shards[number].records
        places = records.places()
        keys = records.records(places)["key"]
        for other, shard in self._shards.items():
            if other != number and len(places):
                lacking = shard.records.find(keys) < 0
                places, keys = places[lacking], keys[lacking]
        return (number * SHARD_ROWS + places).tolist()

    def rows(self) -> "FeatureRows":
        """Return the rows, to be read as they are needed."""
        paths = {number: shard.path for number, shard in self._shards.items()}
        return FeatureRows(paths, self.row_shape, self.recipe.dtype)


class FeatureRows:
    """Files of rows of features, read when asked for.

    Read, not mapped into memory: pages of a memory map count as the process's own once they are
    touched, after an epoch the whole cache, and a file that is cut short would kill the process.

    Args:
        paths: a file, or those of the shards by their numbers.
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
            number, place = divmod(row, SHARD_ROWS)
            path, file = self.paths[number], self._files.get(number)
            try:
                read = os.preadv(file, [target], place * self.row_bytes) if file is not None else 0
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror}") from error
            if read < self.row_bytes:
                raise RunError(f"{path} has lost row {place}: start again, and it is computed anew")
        return features
