"""A file of records of one size that only grows, and in which they are found by their keys.

An index that any number of processes may read while one writes it, on a shared file system too:
there is nothing in it that a reader could find half changed. A record is a key (a hash of 16
bytes), a value, and a check of both and of its place; what a power cut or a killed process left
unfinished, or a disk damaged, fails its check and is as if it were not there.

Memory holds eight bytes a record, sorted; the rest is read when asked for.
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

MAGIC = b"VDFC"  # this program's own
FORMAT = 3  # of the records
HEADER = 4096  # bytes, before the first record: magic, format, what the records are of
BLOCK = 2**16  # records that are read at once
ASKED = 2**20  # keys that are looked up at once: what that takes of memory
MERGE = 2**18  # new records, above which they are sorted in with the others
FEW = 64  # records that are read one by one
KEY_BYTES = 16

# What there are records of in a cache: which clip a row is of, and the row's checksum; which clip
# (its content) a file is, and the stamp that the file had then.
ROW = (("checksum", "<u4"),)
FILE = (("stamp", "<i8", 3), ("clip", "V16"), ("unused", "<u4"))
FILES_INDEX = "files.index"

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads every bit upwards


def row_index(folder: Path, recipe: str) -> Path:
    """Return where the records of a recipe's rows are."""
    return folder / f"{recipe}.index"


def file_key(path: bytes) -> bytes:
    """Return the key of a file's record."""
    return hashlib.blake2b(path, digest_size=KEY_BYTES).digest()


def record_type(value: Sequence[tuple]) -> np.dtype:
    """Return the layout of a record with such a value."""
    return np.dtype([("key", ">u8", 2), *value, ("check", "<u4")])


def _head(description: str) -> bytes:
    return (MAGIC + FORMAT.to_bytes(4) + description.encode()).ljust(HEADER - 1) + b"\n"


def as_keys(keys: Iterable[bytes]) -> np.ndarray:
    """Return `(keys, 2)` uint64, to look them up; shorter ones are filled up with zeros."""
    return np.array(list(keys), f"S{KEY_BYTES}").view(">u8").reshape(-1, 2)


class RecordFile:
    """The records of a file, in the order in which they were added: a record's place is its number.

    Of two records of one key, the later counts.

    Args:
        path: is made, if it is not there and `writable`.
        description: of what the records are; for people who look into the file.
        value: the fields of a record's value, as NumPy names them; a multiple of 8 bytes, less 4.
        writable: by this process, which has seen to it that it is the only one.
        limit: places from there on do not count; None: all do.

    Raises:
        UserError: another program, or another version of this one, made the file.
    """

    def __init__(
        self,
        path: Path,
        description: str,
        value: Sequence[tuple],
        writable: bool,
        limit: int | None = None,
    ):
        self.path = path
        self.dtype = record_type(value)
        self._fields = [name for name, *_ in value]
        self.count = 0  # places in use; new records come behind them
        self._written = 0
        self._sorted = np.empty(0, np.uint64)  # the upper bits of a key, and its place in the lower
        self._place_bits = 1
        self._new: dict[bytes, int] = {}  # keys that are not in `_sorted`, and their places
        self._pending: list[np.ndarray] = []  # records that are not in the file
        self._struck: set[int] = set()
        self._swapping = threading.Lock()
        self._file = -1
        if writable and not path.exists():
            write_bytes(path, _head(description))
        if not path.exists():
            return
        self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        head = os.pread(self._file, 8, 0)
        if head != MAGIC + FORMAT.to_bytes(4):
            raise UserError(
                f"{path} is of another program's making or of another version of this one: name "
                "another --cache-dir"
            )
        in_file = max(0, os.fstat(self._file).st_size - HEADER) // self.dtype.itemsize
        damaged = self._sort(in_file if limit is None else min(in_file, limit))
        self._written = self.count
        if writable:
            if damaged:
                log.warning(
                    "%d entries of %s are damaged: what they stood for is looked at anew",
                    damaged,
                    path,
                )
            # What does not count must not come to count when the file has grown again.
            os.ftruncate(self._file, HEADER + self.count * self.dtype.itemsize)

    def _sort(self, in_file: int) -> int:
        """Take in the whole records of the file, and return how many are damaged."""
        place_bits = max(1, in_file.bit_length())
        words = np.empty(in_file, np.uint64)
        taken = damaged = count = 0
        for first in range(0, in_file, BLOCK):
            records = self._read_block(first, min(BLOCK, in_file - first))
            whole = _checks(records, first) == records["check"]
            places = first + np.flatnonzero(whole)
            struck = (records[~whole]["key"] == 0).all(axis=1)
            damaged += int((~struck).sum())
            if len(places):
                count = int(places[-1]) + 1
            keys = records["key"][whole, 0].astype(np.uint64)
            words[taken : taken + len(places)] = _packed(keys, places, place_bits)
            taken += len(places)
        words = words[:taken]
        words.sort()
        with self._swapping:
            self._sorted, self._place_bits, self.count = words, place_bits, max(count, self.count)
            self._new = {key: place for key, place in self._new.items() if place >= in_file}
        return damaged

    def _read_block(self, first: int, count: int) -> np.ndarray:
        records = np.empty(count, self.dtype)
        bytes_of = records.view(np.uint8)
        read = os.preadv(self._file, [bytes_of.data], HEADER + first * self.dtype.itemsize)
        bytes_of[read:] = 0  # of a file that has been cut since
        return records

    def records(self, places: np.ndarray) -> np.ndarray:
        """Return the records at some places, in their order."""
        if len(places) <= FEW:
            return self._one_by_one(places.tolist())
        found = np.empty(len(places), self.dtype)
        order = np.argsort(places)
        ordered = places[order]
        blocks = range(0, int(ordered[-1]) + 1, BLOCK)
        ends = np.searchsorted(ordered, [first + BLOCK for first in blocks])
        begin = 0
        for first, end in zip(blocks, ends.tolist(), strict=True):
            if end > begin:
                in_file = begin + int(np.searchsorted(ordered[begin:end], self._written))
                block = self._read_block(first, min(BLOCK, self.count - first))
                found[order[begin:in_file]] = block[ordered[begin:in_file] - first]
                found[order[in_file:end]] = self._one_by_one(ordered[in_file:end].tolist())
            begin = end
        return found

    def _one_by_one(self, places: Sequence[int]) -> np.ndarray:
        found = np.empty(len(places), self.dtype)
        for number, place in enumerate(places):
            pending = place >= self._written
            found[number] = (
                self._pending[place - self._written] if pending else self._read_block(place, 1)
            )[0]
        return found

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return `(keys,)` int64: the place of each of `as_keys`; -1: there is none."""
        keys = keys.astype(">u8", copy=False)  # NumPy's own functions change the order of bytes
        if len(keys) > FEW and self._new and not self._pending:
            self._sort(self._written)
        parts = [keys[first : first + ASKED] for first in range(0, len(keys), ASKED)]
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
            words, bits = self._sorted, np.uint64(self._place_bits)
        upper = upper[order] >> bits
        # Keys whose upper bits are the same stand side by side: mostly one.
        at = np.searchsorted(words, upper << bits)
        asked = np.arange(len(keys))
        while len(asked):
            inside = at < len(words)
            asked, at = asked[inside], at[inside]
            same = words[at] >> bits == upper[asked]
            asked, at = asked[same], at[same]
            places = (words[at] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
            equal = (self.records(places)["key"] == keys[order[asked]]).all(axis=1)
            if self._struck:
                equal &= ~np.isin(places, list(self._struck))
            found[order[asked[equal]]] = places[equal]  # a later place counts more
            at = at + 1
        return found

    def find_one(self, key: bytes) -> int | None:
        """Return the place of a key; None if there is none. From any thread."""
        key = key.ljust(KEY_BYTES, b"\0")
        place = self._new.get(key)
        if place is None:
            place = int(self._find_sorted(as_keys([key]))[0])
        return None if place < 0 else place

    def places(self) -> np.ndarray:
        """Return `(records,)` int64: the places that were in use when the file was opened."""
        return np.sort(self._sorted & np.uint64(2**self._place_bits - 1)).astype(np.int64)

    def entries(self) -> dict[bytes, int]:
        """Return the place of every key that is in the file; not for millions."""
        places = self.places()
        keys = self.records(places)["key"]
        return {key.tobytes(): place for key, place in zip(keys, places.tolist(), strict=True)}

    def add(self, key: bytes, *value: object) -> int:
        """Add a record and return its place; it is durable after the next `flush`."""
        record = np.zeros(1, self.dtype)
        record["key"] = as_keys([key])
        for name, given in zip(self._fields, value, strict=True):
            record[name] = given
        place = self.count
        record["check"] = _checks(record, place)
        self._pending.append(record)
        self.count += 1
        self._new[record["key"].tobytes()] = place
        return place

    def flush(self) -> None:
        """Make the records that were added durable.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        if not self._pending:
            return
        data = b"".join(record.tobytes() for record in self._pending)
        with failing_as(self.path):
            at = HEADER + self._written * self.dtype.itemsize
            while data:
                written = os.pwrite(self._file, data, at)
                data, at = data[written:], at + written
            os.fsync(self._file)
        self._written += len(self._pending)
        self._pending.clear()
        if len(self._new) > MERGE:
            self._sort(self._written)

    def strike(self, places: np.ndarray, in_file: bool = True) -> None:
        """Strike records out, for this process only if not `in_file`.

        Raises:
            RunError: the disk is full, gone or read-only.
        """
        if in_file:
            self.flush()
        self._struck.update(places.tolist())
        self._new = {key: place for key, place in self._new.items() if place not in self._struck}
        if in_file:
            with failing_as(self.path):
                for place in places.tolist():
                    at = HEADER + place * self.dtype.itemsize
                    os.pwrite(self._file, bytes(self.dtype.itemsize), at)
                os.fsync(self._file)


def _packed(keys: np.ndarray, places: np.ndarray, place_bits: int) -> np.ndarray:
    """Return words that sort by the upper bits of the keys, and hold the places."""
    bits = np.uint64(place_bits)
    return keys >> bits << bits | places.astype(np.uint64)


def _checks(records: np.ndarray, first: int) -> np.ndarray:
    """Return the checks of records from place `first` on: they tell damage, not malice."""
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
    value: Sequence[tuple],
    parts: Iterable[tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]]],
) -> None:
    """Write a whole file of records in one step.

    Args:
        parts: places, `as_keys`, and a column for each field of the value; the places of all parts
            ascend, those that are left out are struck.

    Raises:
        RunError: the disk is full, gone or read-only.
    """
    dtype = record_type(value)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(_head(description))
            written = 0
            for places, keys, columns in parts:
                count = int(places[-1]) + 1 - written
                records = np.zeros(count, dtype)
                at = np.asarray(places) - written
                records["key"][at] = keys
                for (name, *_), column in zip(value, columns, strict=True):
                    records[name][at] = column
                struck = np.ones(count, bool)
                struck[at] = False
                records["check"] = _checks(records, written)
                records[struck] = np.zeros(1, dtype)
                file.write(records.tobytes())
                written += count

    replace_file(path, write)
