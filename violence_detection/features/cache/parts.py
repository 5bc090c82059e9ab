"""The immutable parts that a cache consists of: records by key, and rows of features beside them.

    FOLDER/<name>.rows   rows of features, one after the other
    FOLDER/<name>.keys   whose they are: a header, then a record per row

A part is written under a name of its own and never changed. Its keys come last, so that a part is
complete or absent. Any number of processes and machines write and read at once without a lock; if
two parts have a key, the newer one counts, which its name tells.
"""

import contextlib
import json
import logging
import os
import time
import uuid
import weakref
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from violence_detection.storage.files import PARTIAL, replace_file

log = logging.getLogger(__name__)

KEYS, ROWS = ".keys", ".rows"
FILES = "files"  # the folder of what is known of files
MAGIC = b"VDFP0001"
HEADER_BYTES = 4096  # magic and JSON, padded: people look into files, too
KEY_BYTES = 16
NO_KEY = 2**64 - 1  # in both halves of a key: the row is nobody's
BLOCK = 2**16  # records read at once
FEW = 64  # up to so many records are read one by one
KEYS_AT_ONCE = 2**20  # keys looked up at once; bounds memory

# A record is a key and a value. Of a row of features: its checksum, and its clip's length and the
# share of it that could be read; the key is the hash of the clip's content. Of a file: its stamp
# and the hash of its content; the key is the hash of its path.
ROW_FIELDS = (("checksum", "<u4"), ("seconds", "<f4"), ("share", "<f4"))
FILE_FIELDS = (("stamp", "<i8", 3), ("content", "V16"))


def record_type(fields: Sequence[tuple]) -> np.dtype:
    """Return the layout of a record whose value has these fields."""
    return np.dtype([("key", ">u8", 2), *fields])


def as_keys(keys: Iterable[bytes]) -> np.ndarray:
    """Return keys as `(keys, 2)` big-endian uint64; shorter ones are padded with zeros."""
    return np.array(list(keys), f"S{KEY_BYTES}").view(">u8").reshape(-1, 2)


def new_name() -> str:
    """Return a name for a part that no other has, and that sorts after those of earlier parts."""
    return f"{time.time_ns():016x}-{uuid.uuid4().hex[:8]}"


def write_keys(
    path: Path, description: str, records: np.ndarray, replaces: Sequence[str] = ()
) -> None:
    """Write a part's keys in one step.

    Args:
        path: of the file; the rows must be beside it already.
        description: what the records are about, for people who look into the file.
        records: of `record_type`; one whose key is `NO_KEY` is no record.
        replaces: names of the parts whose records these are.

    Raises:
        RunError: the disk is full, gone or read-only.
    """
    data = records.tobytes()
    about = {"about": description, "records": len(records), "crc32": zlib.crc32(data)}
    lines = json.dumps({**about, "replaces": list(replaces)}).encode()
    size = max(HEADER_BYTES, len(MAGIC) + 4 + len(lines) + 1)
    header = (MAGIC + size.to_bytes(4) + lines).ljust(size - 1) + b"\n"
    replace_file(path, lambda partial: partial.write_bytes(header + data))


class OpenFile:
    """A file that stays readable while it is needed, even if it is removed meanwhile.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return os.fstat(self.number).st_size

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer with bytes from `offset` on; return how many there were."""
        return os.preadv(self.number, [buffer], offset)


class KeysFile:
    """The records of a part.

    Args:
        path: of the file.
        fields: of a record's value.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or no such file.
    """

    def __init__(self, path: Path, fields: Sequence[tuple]):
        self.dtype = record_type(fields)
        self._file = OpenFile(path)
        start = bytearray(HEADER_BYTES)
        self._file.read_into(memoryview(start), 0)
        self._first = int.from_bytes(start[len(MAGIC) : len(MAGIC) + 4])
        if start[: len(MAGIC)] != MAGIC or self._first > self._file.size:
            raise ValueError("it was not written by this version of the program")
        header = bytearray(self._first)
        self._file.read_into(memoryview(header), 0)
        about = json.loads(header[len(MAGIC) + 4 :])
        self.count: int = about["records"]
        self.replaces: list[str] = about["replaces"]
        self._checksum: int = about["crc32"]
        if self._file.size != self._first + self.count * self.dtype.itemsize:
            raise ValueError("its length is not what it says")

    @property
    def name(self) -> str:
        """The part's name."""
        return self._file.path.stem

    def read(self, first: int, count: int) -> np.ndarray:
        """Return `count` records from position `first` on."""
        records = np.empty(count, self.dtype)
        offset = self._first + first * self.dtype.itemsize
        self._file.read_into(records.view(np.uint8).data, offset)
        return records

    def upper_keys(self) -> np.ndarray:
        """Return `(records,)` uint64, the keys' upper halves; raises `ValueError` if damaged."""
        upper, checksum = np.empty(self.count, np.uint64), 0
        for first in range(0, self.count, BLOCK):
            records = self.read(first, min(BLOCK, self.count - first))
            checksum = zlib.crc32(records.view(np.uint8).data, checksum)
            upper[first : first + len(records)] = records["key"][:, 0]
        if checksum != self._checksum:
            raise ValueError("its checksum differs")
        return upper


def part_names(folder: Path) -> list[str]:
    """Return the names of the complete parts in a folder, the oldest first."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.suffix == KEYS)
    return sorted(name.removesuffix(KEYS) for name in names if not name.startswith(PARTIAL))


def remove_part(folder: Path, name: str) -> None:
    """Remove a part: first the keys, so that none is there without its rows."""
    for suffix in (KEYS, ROWS):
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{name}{suffix}").unlink()


class RecordIndex:
    """The records of several parts, each known by its position, counted over all parts.

    Memory holds eight bytes per record, sorted; the rest is read on demand. If a key has several
    records, the last one counts.

    Args:
        files: of the parts, the oldest first. Those that are damaged are left out, with a warning.
        fields: of a record's value.
    """

    def __init__(self, files: Sequence[KeysFile], fields: Sequence[tuple]):
        self.dtype = record_type(fields)
        self.files: list[KeysFile] = []
        count = sum(file.count for file in files)
        self._bits = np.uint64(max(1, count.bit_length()))
        self._words = np.empty(count, np.uint64)  # a key's upper bits, its position in the lower
        firsts, end = [0], 0
        for file in files:
            try:
                upper = file.upper_keys()
            except ValueError as error:
                log_damaged(file.name, error)
                continue
            self.files.append(file)
            positions = firsts[-1] + np.flatnonzero(upper != NO_KEY).astype(np.uint64)
            words = upper[upper != NO_KEY] >> self._bits << self._bits
            self._words[end : end + len(words)] = words | positions
            end += len(words)
            firsts.append(firsts[-1] + file.count)
        self.firsts = np.array(firsts)
        self._words = self._words[:end]
        self._words.sort()

    def __len__(self) -> int:
        return len(self._words)

    def records(self, positions: np.ndarray) -> np.ndarray:
        """Return the records at `positions`, in that order."""
        found = np.empty(len(positions), self.dtype)
        owners = np.searchsorted(self.firsts, positions, "right") - 1
        for owner in np.unique(owners).tolist():
            own = np.flatnonzero(owners == owner)
            found[own] = _records(self.files[owner], positions[own] - self.firsts[owner])
        return found

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the positions of keys.

        Args:
            keys: `(keys, 2)` uint64, see `as_keys`.

        Returns:
            `(keys,)` int64; -1 where a key has no record.
        """
        keys = keys.astype(">u8", copy=False)  # NumPy's own functions change the byte order
        parts = [keys[first : first + KEYS_AT_ONCE] for first in range(0, len(keys), KEYS_AT_ONCE)]
        return np.concatenate([np.empty(0, np.int64), *map(self._find, parts)])

    def _find(self, keys: np.ndarray) -> np.ndarray:
        found = np.full(len(keys), -1, np.int64)
        upper = keys[:, 0].astype(np.uint64)
        order = np.argsort(upper)
        bits, words = self._bits, self._words
        upper = upper[order] >> bits
        # Keys with the same upper bits are neighbours; mostly there is one.
        at = np.searchsorted(words, upper << bits)
        left = np.arange(len(keys))
        while len(left):
            inside = at < len(words)
            left, at = left[inside], at[inside]
            same = words[at] >> bits == upper[left]
            left, at = left[same], at[same]
            positions = (words[at] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
            equal = (self.records(positions)["key"] == keys[order[left]]).all(axis=1)
            found[order[left[equal]]] = positions[equal]  # the last position wins
            at = at + 1
        return found


def log_damaged(name: str, error: Exception) -> None:
    """Warn of a part that is not used."""
    log.warning("ignoring the damaged part %s (%s); what it has is computed again", name, error)


def _records(file: KeysFile, positions: np.ndarray) -> np.ndarray:
    """Return the records of a part at `positions`, in that order."""
    if len(positions) <= FEW:
        found = [file.read(position, 1) for position in positions.tolist()]
        return np.concatenate([np.empty(0, file.dtype), *found])
    records = np.empty(len(positions), file.dtype)
    order = np.argsort(positions)
    ordered = positions[order]
    blocks = range(0, int(ordered[-1]) + 1, BLOCK)
    ends = np.searchsorted(ordered, [first + BLOCK for first in blocks]).tolist()
    begin = 0
    for first, end in zip(blocks, ends, strict=True):
        if end > begin:
            block = file.read(first, min(BLOCK, file.count - first))
            records[order[begin:end]] = block[ordered[begin:end] - first]
        begin = end
    return records
