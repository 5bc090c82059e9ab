"""A cache of the format before this one becomes parts, once: its rows stay where they are."""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from violence_detection.features.cache.parts import (
    FILE_FIELDS,
    FILES,
    KEYS,
    NO_KEY,
    ROW_FIELDS,
    ROWS,
    new_name,
    record_type,
    write_keys,
)
from violence_detection.storage.locks import locked

log = logging.getLogger(__name__)

HEADER_BYTES, MAGIC = 4096, b"VDFC\0\0\0\3"
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
FILES_INDEX = "files.index"
OF_A_SHARD = (".lock", "extraction.log", "bad_clips.json")


def take_up(folder: Path) -> None:
    """Make parts of the rows and indices in a cache folder and its shards.

    A process that is killed meanwhile leaves an index that the next one takes up again; one that
    begins meanwhile waits.

    Raises:
        OSError: the folder cannot be written.
        RunError: the disk is full.
    """
    if _indices(folder):
        with locked(folder):
            _take_up(folder)


def _indices(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.index"), *folder.glob("shard_*/*.index")])


def _take_up(folder: Path) -> None:
    for index in _indices(folder):
        rows = index.with_suffix(".features")
        name = new_name()
        if index.name == FILES_INDEX:
            records = _records(index, (("stamp", "<i8", 3), ("content", "V16"), ("unused", "<u4")))
            target = folder / FILES
        elif rows.exists():
            records, target = _records(index, ROW_FIELDS), folder / index.stem
        else:
            continue
        target.mkdir(exist_ok=True)
        if index.name != FILES_INDEX:
            os.link(rows, target / f"{name}{ROWS}")
        fields = FILE_FIELDS if index.name == FILES_INDEX else ROW_FIELDS
        kept = np.zeros(len(records), record_type(fields))
        for field in kept.dtype.names or ():
            kept[field] = records[field]
        write_keys(target / f"{name}{KEYS}", "taken up", kept)
        index.unlink()
        rows.unlink(missing_ok=True)
    log.info("%s has the format of an earlier version: taken up", folder)
    for left in (*_indices(folder), *folder.glob("*.features")):
        left.unlink()
    for shard in folder.glob("shard_*"):
        for path in [*shard.glob("*.features"), *(shard / name for name in OF_A_SHARD)]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something else in it
            shard.rmdir()


def _records(index: Path, fields: Sequence[tuple]) -> np.ndarray:
    """Return the records of an index; the key of one that is damaged or removed is `NO_KEY`."""
    data = index.read_bytes()
    dtype = np.dtype([("key", ">u8", 2), *fields, ("check", "<u4")])
    count = max(0, len(data) - HEADER_BYTES) // dtype.itemsize if data[:8] == MAGIC else 0
    records = np.frombuffer(data, dtype, count, min(HEADER_BYTES, len(data))).copy()
    words = records.view("<u8").reshape(count, -1)
    mixed = np.arange(count, dtype=np.uint64) + np.uint64(3)
    for number, column in enumerate(words.T):
        last = number == words.shape[1] - 1
        mixed ^= column & np.uint64(0xFFFFFFFF) if last else column
        mixed *= MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
    records["key"][(mixed >> np.uint64(32)).astype(np.uint32) != records["check"]] = NO_KEY
    return records
