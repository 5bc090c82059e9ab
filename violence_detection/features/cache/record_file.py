"""An append-only file of records of one size, found by their keys.

Any number of processes may read an index while one writes it, on a shared file system too: a reader
never sees a record half changed. A record is a key (a 16-byte hash), a value, and a checksum over
both and over its position. Whatever a power cut, a killed process or a damaged disk leaves behind
fails that checksum and is ignored.

Memory holds eight bytes per record, sorted; the rest is read on demand.
"""

import hashlib
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from violence_detection.errors import UserError, failing_as
from violence_detection.storage.files import replace_file, write_bytes

log = logging.getLogger(__name__)

MAGIC = b"VDFC"  # identifies this program's files
FORMAT = 3  # of the records
HEADER_BYTES = 4096  # before the first record: magic, format, description
BLOCK = 2**16  # records read at once
KEYS_AT_ONCE = 2**20  # keys looked up at once; bounds memory
MERGE_ABOVE = 2**18  # new records, beyond which they are merged into the sorted ones
FEW = 64  # up to so many records are read one by one
KEY_BYTES = 16

# What a cache keeps records of, by the fields of a record's value: for each row, the checksum of
# its features, and its clip's length and the share of it that could be read (the key is the clip's
# content hash); for each file, its stamp and content hash (the
# key is the hash of its path).
ROW_FIELDS = (("checksum", "<u4"), ("seconds", "<f4"), ("share", "<f4"))
FILE_FIELDS = (("stamp", "<i8", 3), ("clip", "V16"), ("unused", "<u4"))
FILES_INDEX = "files.index"

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads every bit upwards


def row_index(folder: Path, recipe: str) -> Path:
    """Return the path of the index of a recipe's rows.

    Args:
        folder: of the cache or a shard.
        recipe: the recipe's key.
    """
    return folder / f"{recipe}.index"


def file_key(path: bytes) -> bytes:
    """Return the 16-byte key of a file's record."""
    return hashlib.blake2b(path, digest_size=KEY_BYTES).digest()


def record_type(fields: Sequence[tuple]) -> np.dtype:
    """Return the layout of a record whose value has these fields."""
    return np.dtype([("key", ">u8", 2), *fields, ("check", "<u4")])


def _header(description: str) -> bytes:
    return (MAGIC + FORMAT.to_bytes(4) + description.encode()).ljust(HEADER_BYTES - 1) + b"\n"


def as_keys(keys: Iterable[bytes]) -> np.ndarray:
    """Return keys as `(keys, 2)` big-endian uint64; shorter ones are padded with zeros."""
    return np.array(list(keys), f"S{KEY_BYTES}").view(">u8").reshape(-1, 2)


class RecordFile:
    """The records of a file, each known by its position, counted from 0.

    If a key has several records, the last one counts.

    Args:
        path: created if it does not exist and `writable`.
        description: what the records are about, for people who look into the file.
        fields: of a record's value, as NumPy names them; 4 bytes short of a multiple of 8.
        writable: whether this process writes the file; it must be the only one.
        limit: records at this position and beyond are ignored; None: none are.

    Raises:
        UserError: the file is another program's, or another version's.
    """

    def __init__(
        self,
        path: Path,
        description: str,
        fields: Sequence[tuple],
        writable: bool,
        limit: int | None = None,
    ):
        self.path = path
        self.dtype = record_type(fields)
        self._fields = [name for name, *_ in fields]
        self.count = 0  # positions in use; new records follow
        self._written = 0
        self._sorted = np.empty(0, np.uint64)  # a key's upper bits, its position in the lower ones
        self._position_bits = 1
        self._new: dict[bytes, int] = {}  # positions of keys that are not in `_sorted`
        self._pending: list[np.ndarray] = []  # records that are not in the file yet
        self._removed: set[int] = set()
        self._swapping = threading.Lock()
        self._file = -1
        if writable and not path.exists():
            write_bytes(path, _header(description))
        if not path.exists():
            return
        self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        if os.pread(self._file, 8, 0) != MAGIC + FORMAT.to_bytes(4):
            raise UserError(
                f"{path} was written by another program or version: give another --cache-dir"
            )
        in_file = max(0, os.fstat(self._file).st_size - HEADER_BYTES) // self.dtype.itemsize
        damaged = self._load(in_file if limit is None else min(in_file, limit))
        self._written = self.count
        if writable:
            if damaged:
                log.warning(
                    "ignoring damaged entries of %s: %d; what they describe is computed again",
                    path,
                    damaged,
                )
            # What is ignored now must not be taken for a record once the file has grown again.
            os.ftruncate(self._file, HEADER_BYTES + self.count * self.dtype.itemsize)

    def _load(self, in_file: int) -> int:
        """Sort the keys of the file's first `in_file` records; return how many are damaged."""
        position_bits = max(1, in_file.bit_length())
        words = np.empty(in_file, np.uint64)
        loaded = damaged = count = 0
        for first in range(0, in_file, BLOCK):
            records = self._read_block(first, min(BLOCK, in_file - first))
            valid = _checks(records, first) == records["check"]
            positions = first + np.flatnonzero(valid)
            removed = (records[~valid]["key"] == 0).all(axis=1)
            damaged += int((~removed).sum())
            if len(positions):
                count = int(positions[-1]) + 1
            keys = records["key"][valid, 0].astype(np.uint64)
            words[loaded : loaded + len(positions)] = _packed(keys, positions, position_bits)
            loaded += len(positions)
        words = words[:loaded]
        words.sort()
        with self._swapping:
            self._sorted, self._position_bits = words, position_bits
            self.count = max(count, self.count)
            self._new = {key: at for key, at in self._new.items() if at >= in_file}
        return damaged

    def _read_block(self, first: int, count: int) -> np.ndarray:
        records = np.empty(count, self.dtype)
        buffer = records.view(np.uint8)
        read = os.preadv(self._file, [buffer.data], HEADER_BYTES + first * self.dtype.itemsize)
        buffer[read:] = 0  # the file may have been cut since
        return records

    def records(self, positions: np.ndarray) -> np.ndarray:
        """Return the records at `positions`, in that order."""
        if len(positions) <= FEW:
            return self._read_one_by_one(positions.tolist())
        found = np.empty(len(positions), self.dtype)
        order = np.argsort(positions)
        ordered = positions[order]
        blocks = range(0, int(ordered[-1]) + 1, BLOCK)
        ends = np.searchsorted(ordered, [first + BLOCK for first in blocks])
        begin = 0
        for first, end in zip(blocks, ends.tolist(), strict=True):
            if end > begin:
                in_file = begin + int(np.searchsorted(ordered[begin:end], self._written))
                block = self._read_block(first, min(BLOCK, self.count - first))
                found[order[begin:in_file]] = block[ordered[begin:in_file] - first]
                found[order[in_file:end]] = self._read_one_by_one(ordered[in_file:end].tolist())
            begin = end
        return found

    def _read_one_by_one(self, positions: Sequence[int]) -> np.ndarray:
        found = np.empty(len(positions), self.dtype)
        for number, position in enumerate(positions):
            if position >= self._written:
                found[number] = self._pending[position - self._written][0]
            else:
                found[number] = self._read_block(position, 1)[0]
        return found

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the positions of keys.

        Args:
            keys: `(keys, 2)` uint64, see `as_keys`.

        Returns:
            `(keys,)` int64; -1 where a key has no record.
        """
        keys = keys.astype(">u8", copy=False)  # NumPy's own functions change the byte order
        if len(keys) > FEW and self._new and not self._pending:
            self._load(self._written)
        parts = [keys[first : first + KEYS_AT_ONCE] for first in range(0, len(keys), KEYS_AT_ONCE)]
        found = np.concatenate([np.empty(0, np.int64), *map(self._find_sorted, parts)])
        if self._new:
            new = as_keys(self._new)[:, 0].astype(np.uint64)
            for number in np.flatnonzero(np.isin(keys[:, 0].astype(np.uint64), new)).tolist():
                found[number] = self._new.get(keys[number].tobytes(), found[number])
        return found

    def _find_sorted(self, keys: np.ndarray) -> np.ndarray:
        found = np.full(len(keys), -1, np.int64)
        upper = keys[:, 0].astype(np.uint64)
        order = np.argsort(upper)
        with self._swapping:
            words, bits = self._sorted, np.uint64(self._position_bits)
        upper = upper[order] >> bits
        # Keys with the same upper bits are neighbours; mostly there is one.
        at = np.searchsorted(words, upper << bits)
        open_keys = np.arange(len(keys))
        while len(open_keys):
            inside = at < len(words)
            open_keys, at = open_keys[inside], at[inside]
            same = words[at] >> bits == upper[open_keys]
            open_keys, at = open_keys[same], at[same]
            positions = (words[at] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
            equal = (self.records(positions)["key"] == keys[order[open_keys]]).all(axis=1)
            if self._removed:
                equal &= ~np.isin(positions, list(self._removed))
            found[order[open_keys[equal]]] = positions[equal]  # the last position wins
            at = at + 1
        return found

    def find_one(self, key: bytes) -> int | None:
        """Return the position of a key, or None. Any thread may call this."""
        key = key.ljust(KEY_BYTES, b"\0")
        position = self._new.get(key)
        if position is None:
            position = int(self._find_sorted(as_keys([key]))[0])
        return None if position < 0 else position

    def positions(self) -> np.ndarray:
        """Return `(records,)` int64, ascending: the positions in use when the file was opened."""
        return np.sort(self._sorted & np.uint64(2**self._position_bits - 1)).astype(np.int64)

    def entries(self) -> dict[bytes, int]:
        """Return the position of every key in the file; not for millions of them."""
        positions = self.positions()
        keys = self.records(positions)["key"]
        return {key.tobytes(): at for key, at in zip(keys, positions.tolist(), strict=True)}

    def add(self, key: bytes, *value: object) -> int:
        """Append a record, which is durable after the next `flush`.

        Args:
            key: at most 16 bytes.
            value: one argument per field.

        Returns:
            The record's position.
        """
        record = np.zeros(1, self.dtype)
        record["key"] = as_keys([key])
        for name, given in zip(self._fields, value, strict=True):
            record[name] = given
        position = self.count
        record["check"] = _checks(record, position)
        self._pending.append(record)
        self.count += 1
        self._new[record["key"].tobytes()] = position
        return position

    def flush(self) -> None:
        """Make the records that were added durable.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        if not self._pending:
            return
        data = b"".join(record.tobytes() for record in self._pending)
        with failing_as(self.path):
            at = HEADER_BYTES + self._written * self.dtype.itemsize
            while data:
                written = os.pwrite(self._file, data, at)
                data, at = data[written:], at + written
            os.fsync(self._file)
        self._written += len(self._pending)
        self._pending.clear()
        if len(self._new) > MERGE_ABOVE:
            self._load(self._written)

    def remove(self, positions: np.ndarray, in_file: bool = True) -> None:
        """Remove records.

        Args:
            positions: of the records.
            in_file: if False, they are removed for this process only.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        if in_file:
            self.flush()
        self._removed.update(positions.tolist())
        self._new = {key: at for key, at in self._new.items() if at not in self._removed}
        if in_file:
            with failing_as(self.path):
                for position in positions.tolist():
                    at = HEADER_BYTES + position * self.dtype.itemsize
                    os.pwrite(self._file, bytes(self.dtype.itemsize), at)
                os.fsync(self._file)


def _packed(keys: np.ndarray, positions: np.ndarray, position_bits: int) -> np.ndarray:
    """Return words that sort by the keys' upper bits and carry the positions in the lower ones."""
    bits = np.uint64(position_bits)
    return keys >> bits << bits | positions.astype(np.uint64)


def _checks(records: np.ndarray, first: int) -> np.ndarray:
    """Return the checksums of records from position `first` on: against damage, not malice."""
    words = records.view("<u8").reshape(len(records), -1)
    mixed = np.arange(first, first + len(records), dtype=np.uint64) + np.uint64(FORMAT)
    for number, column in enumerate(words.T):
        last = number == words.shape[1] - 1
        mixed ^= column & np.uint64(0xFFFFFFFF) if last else column  # above is the check itself
        mixed *= _MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def write_records(
    path: Path,
    description: str,
    fields: Sequence[tuple],
    parts: Iterable[tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]]],
) -> None:
    """Write a complete file of records in one step.

    Args:
        path: of the file.
        description: what the records are about.
        fields: of a record's value.
        parts: positions, keys (see `as_keys`), and an array per field; positions ascend over all
            parts, and those left out hold no record.

    Raises:
        RunError: the disk is full, gone or read-only.
    """
    dtype = record_type(fields)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(_header(description))
            written = 0
            for positions, keys, columns in parts:
                count = int(positions[-1]) + 1 - written
                records = np.zeros(count, dtype)
                at = np.asarray(positions) - written
                records["key"][at] = keys
                for (name, *_), column in zip(fields, columns, strict=True):
                    records[name][at] = column
                empty = np.ones(count, bool)
                empty[at] = False
                records["check"] = _checks(records, written)
                records[empty] = np.zeros(1, dtype)
                file.write(records.tobytes())
                written += count

    replace_file(path, write)
