"""Features on disk, one row per clip, known by the content of the clip and the recipe.

They are kept in immutable parts, see `parts`. What is computed goes into an open part, which is
complete after a minute or two, or when the extraction ends: a process that is killed loses that
part. Two processes that compute a clip at once write it twice, and one of the rows is used.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from violence_detection.errors import failing_as
from violence_detection.features.cache.folder import FORMAT, CacheFolder
from violence_detection.features.cache.merging import OpenPart, merge_small_parts, open_parts
from violence_detection.features.cache.parts import (
    KEYS,
    ROW_FIELDS,
    ROWS,
    KeysFile,
    OpenFile,
    RecordIndex,
    as_keys,
    new_name,
    record_type,
    write_keys,
)
from violence_detection.features.cache.rows import PART_ROWS, FeatureRows, row_checksum
from violence_detection.settings.constants import FRAME_SIZE, VGG19
from violence_detection.storage.files import PARTIAL, replace_file

PART_SECONDS = 60.0  # of extraction, that a killed run may lose
LAYERS = 32  # parts that are written before all are opened anew, the small ones merged

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
    pooling: str = "mean"  # of a layer's maps, see `models.pooling.pooled`
    frame_size: int = FRAME_SIZE  # pixels, width and height
    backbone: str = VGG19
    format: int = FORMAT

    @property
    def network(self) -> tuple[str, str, str]:
        """Backbone, layer and weights: recipes that share them are of one network."""
        return self.backbone, self.layer, self.weights

    @property
    def key(self) -> str:
        """A hash of the recipe, which names its folder."""
        return hashlib.blake2b(self.description.encode(), digest_size=8).hexdigest()

    @property
    def description(self) -> str:
        """The recipe as JSON; the defaults of what came later are left out."""
        fields = dataclasses.asdict(self)
        later = {"stream": "rgb", "flipped": False, "pooling": "mean", "backbone": VGG19}
        for name, default in later.items():
            if fields[name] == default:
                del fields[name]
        return json.dumps(fields, sort_keys=True)

    @property
    def row_bytes(self) -> int:
        """The size of a clip's features."""
        return self.frames * self.features * np.dtype(self.dtype).itemsize


class ClipFacts(NamedTuple):
    """What was found out about a clip when its features were computed."""

    seconds: float = math.nan  # its length
    share: float = 1.0  # of it that could be read


class _Layer(NamedTuple):
    """The index of some parts, and the number of each of them."""

    records: RecordIndex
    numbers: np.ndarray  # int64, ascending

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return `(keys,)` int64 row numbers; -1 where a key is not in these parts."""
        positions = self.records.find(keys)
        known = positions >= 0
        owners = np.searchsorted(self.records.firsts, positions[known], "right") - 1
        rows = np.full(len(keys), -1, np.int64)
        within = positions[known] - self.records.firsts[owners]
        rows[known] = self.numbers[owners] * PART_ROWS + within
        return rows

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Return where in `records` rows are, `(rows,)` int64; -1 for those of other parts."""
        parts = rows // PART_ROWS
        owners = np.searchsorted(self.numbers, parts)
        mine = (rows >= 0) & np.isin(parts, self.numbers)
        return np.where(mine, self.records.firsts[owners] + rows % PART_ROWS, -1)


class _Growing:
    """The part that is being written, under a temporary name."""

    def __init__(self, folder: Path):
        self.name = new_name()
        self.path = folder / f"{PARTIAL}{self.name}{ROWS}"
        self.file: BinaryIO = self.path.open("wb")
        self.records: list[np.ndarray] = []
        self.position_of: dict[bytes, int] = {}
        self.began = time.monotonic()


class FeatureCache:
    """The rows of one recipe in a cache folder.

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
        self.row_bytes = recipe.row_bytes
        self.path = folder.own_path / recipe.key  # what is computed is written here
        self._dropped: set[bytes] = set()  # clips whose rows are taken for missing
        self._growing: _Growing | None = None
        self._changing = threading.Lock()
        with folder.explain_errors():
            self._open()

    def _open(self) -> None:
        """Open the parts that there are; if many are small, they become one before."""
        if self.folder.writable and self.path.is_dir():
            merge_small_parts(self.path, ROW_FIELDS, self.row_bytes)
        # Of a part in both folders, the one on this machine's own disk is read.
        found: dict[str, OpenPart] = {}
        for each in self.folder.folders:
            parts = open_parts(each / self.recipe.key, ROW_FIELDS)
            found |= {part[0].name: part for part in parts}
        index = RecordIndex([found[name][0] for name in sorted(found)], ROW_FIELDS)
        with self._changing:
            self._keys: list[KeysFile] = list(index.files)
            self._rows: list[OpenFile | None] = [found[keys.name][1] for keys in index.files]
            self._layers = [_Layer(index, np.arange(len(index.files)))]
            self._growing = None

    def __len__(self) -> int:
        """The number of rows, copies included."""
        return sum(keys.count for keys in self._keys)

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
        for records, indices in self._records(rows):
            found[indices] = records["key"]
        return found

    def _records(self, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the records of `rows`, by part, and their indices in `rows`."""
        self.commit()
        numbers = np.asarray(rows, np.int64)
        for layer in self._layers:
            positions = layer.positions(numbers)
            mine = np.flatnonzero(positions >= 0)
            if len(mine):
                yield layer.records.records(positions[mine]), mine

    def row_of(self, clip: bytes) -> int | None:
        """Return the row of a clip's features, or None. Any thread may call this.

        Args:
            clip: its content hash.
        """
        row = int(self.rows_of([clip])[0])
        return None if row < 0 else row

    def rows_of(self, clips: Sequence[bytes | None]) -> np.ndarray:
        """Return the rows of many clips' features. Any thread may call this.

        Args:
            clips: their content hashes; None where it is unknown.

        Returns:
            `(clips,)` int64; -1 for a clip without features.
        """
        known = [clip for clip in clips if clip is not None]
        keys = as_keys(known)
        with self._changing:
            layers, growing, number = list(self._layers), self._growing, len(self._keys)
        found = np.full(len(known), -1, np.int64)
        for layer in layers:  # the last one that has it wins
            rows = layer.find(keys)
            found = np.where(rows >= 0, rows, found)
        if self._dropped:
            found[[key.tobytes() in self._dropped for key in keys]] = -1
        if growing:
            for index, key in enumerate(keys):
                if (position := growing.position_of.get(key.tobytes())) is not None:
                    found[index] = number * PART_ROWS + position
        if len(known) == len(clips):
            return found
        rows = np.full(len(clips), -1, np.int64)
        rows[[clip is not None for clip in clips]] = found
        return rows

    def checksums_of(self, rows: Sequence[int]) -> list[int | None]:
        """Return the `row_checksum` that each row had when it was stored; None for no row."""
        found: list[int | None] = [None] * len(rows)
        for records, indices in self._records(rows):
            for index, checksum in zip(indices.tolist(), records["checksum"].tolist(), strict=True):
                found[index] = checksum
        return found

    def facts_of(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds and the readable shares of the clips in `rows`, float32 each.

        NaN and 1 where they are unknown.
        """
        seconds, shares = (np.full(len(rows), value, np.float32) for value in ClipFacts())
        for records, indices in self._records(rows):
            seconds[indices], shares[indices] = records["seconds"], records["share"]
        return seconds, shares

    def store(
        self,
        clips: Collection[bytes],
        features: np.ndarray,
        facts: Sequence[ClipFacts] | None = None,
    ) -> None:
        """Add features, which are durable after the next `commit`.

        Args:
            clips: their content hashes.
            features: `(clips, frames, features)`, converted to the recipe's dtype.
            facts: of each clip; None: unknown.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        rows = np.ascontiguousarray(features, dtype=self.recipe.dtype)
        records = np.zeros(len(rows), record_type(ROW_FIELDS))
        records["key"] = as_keys(clips)
        records["checksum"] = [row_checksum(row) for row in rows]
        records["seconds"], records["share"] = zip(
            *(facts or [ClipFacts()] * len(rows)), strict=True
        )
        with failing_as(self.path):
            if self._growing is None:
                self.path.mkdir(parents=True, exist_ok=True)
                growing = _Growing(self.path)
                with self._changing:
                    self._growing = growing
            growing = self._growing
            growing.file.write(rows.tobytes())
        for record in records:
            growing.position_of[record["key"].tobytes()] = len(growing.records)
            growing.records.append(record)
        if time.monotonic() - growing.began > PART_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Complete the part that is being written: its rows, then its keys.

        The numbers of rows may change.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        growing = self._growing
        if growing is not None:
            rows, keys = (self.path / f"{growing.name}{suffix}" for suffix in (ROWS, KEYS))
            try:
                with failing_as(self.path):
                    growing.file.close()
                    replace_file(rows, lambda partial: None)
                records = np.array(growing.records, record_type(ROW_FIELDS))
                write_keys(keys, self.recipe.description, records)
            except BaseException:
                with self._changing:
                    self._growing = None  # what it had is computed again
                with contextlib.suppress(OSError):  # the folder may be gone
                    growing.path.unlink(missing_ok=True)
                    rows.unlink(missing_ok=True)
                raise
            self._dropped -= growing.position_of.keys()
            if len(self._layers) < LAYERS:
                self._add(KeysFile(keys, ROW_FIELDS), OpenFile(rows))
            else:
                self._open()
        self.folder.commit()

    def _add(self, keys: KeysFile, rows: OpenFile) -> None:
        """Make a complete part one of those that are read."""
        layer = _Layer(RecordIndex([keys], ROW_FIELDS), np.array([len(self._keys)]))
        with self._changing:
            self._keys.append(keys)
            self._rows.append(rows)
            self._layers.append(layer)
            self._growing = None

    def drop(self, rows: Sequence[int]) -> None:
        """Take rows for missing: what is stored for their clips from now on counts instead."""
        self._dropped.update(key.tobytes() for key in self.contents(rows))

    def rows(self) -> FeatureRows:
        """Return the rows, which are read on demand."""
        self.commit()
        return FeatureRows(list(self._rows), self.row_shape, self.recipe.dtype)
