"""Small parts of a cache become one, so that there are never many."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from violence_detection.features.cache.parts import (
    KEYS,
    ROWS,
    KeysFile,
    OpenFile,
    log_damaged,
    new_name,
    part_names,
    record_type,
    remove_part,
    write_keys,
)
from violence_detection.features.cache.rows import row_checksum
from violence_detection.storage.files import PARTIAL, replace_file

log = logging.getLogger(__name__)

SMALL = 64 * 2**20  # bytes of a part, up to which it is merged
MANY = 16  # small parts, from which on they are
ABANDONED = 24 * 3600.0  # seconds without a change, after which an unfinished file is removed

OpenPart = tuple[KeysFile, OpenFile | None]  # the rows may be elsewhere


def open_parts(folder: Path, fields: Sequence[tuple], with_rows: bool = True) -> list[OpenPart]:
    """Return the parts in a folder, the oldest first.

    Their files stay readable even if another process merges them. Damaged parts are left out.

    Args:
        folder: need not exist.
        fields: of a record's value.
        with_rows: whether the parts have rows.
    """
    found: dict[str, OpenPart | None] = {}
    # One that has gone since it was listed was merged into another: list again.
    while missing := [name for name in part_names(folder) if name not in found]:
        for name in missing:
            try:
                rows = None
                if with_rows:  # before the keys, which are removed first
                    with contextlib.suppress(FileNotFoundError):
                        rows = OpenFile(folder / f"{name}{ROWS}")
                with contextlib.suppress(FileNotFoundError):
                    found[name] = KeysFile(folder / f"{name}{KEYS}", fields), rows
            except ValueError as error:
                log_damaged(f"{folder}/{name}", error)
                found[name] = None
    parts = [part for part in found.values() if part is not None]
    replaced = {name for keys, _ in parts for name in keys.replaces}
    return sorted(
        (part for part in parts if part[0].name not in replaced), key=lambda part: part[0].name
    )


def rows_of_part(part: OpenPart, row_bytes: int) -> Iterator[tuple[np.void, np.ndarray]]:
    """Yield a part's records, the last first, each with its row; nothing if the keys are damaged.

    Args:
        part: with its rows, which may be damaged.
        row_bytes: size of a row; 0: the part has none.

    Yields:
        A record, and `(row_bytes,)` uint8.
    """
    keys, rows = part
    try:
        keys.upper_keys()  # compares the checksum
    except ValueError as error:
        log_damaged(keys.name, error)
        return
    records = keys.read(0, keys.count)
    for position in reversed(range(keys.count)):
        row = np.zeros(row_bytes, np.uint8)
        if rows is not None:
            rows.read_into(row.data, position * row_bytes)
        yield records[position], row


def merge_small_parts(folder: Path, fields: Sequence[tuple], row_bytes: int = 0) -> None:
    """Merge the small parts in a folder into one, if there are many.

    Rows that are damaged are left out. Readers keep the parts that they have opened.

    Args:
        folder: may be read by others.
        fields: of a record's value.
        row_bytes: size of a row; 0: the parts have none.

    Raises:
        RunError: the disk is full, gone or read-only.
    """
    if not os.access(folder, os.W_OK):
        return
    for path in folder.glob(f"{PARTIAL}*"):
        if time.time() - path.stat().st_mtime > ABANDONED:  # of a process that was killed
            path.unlink(missing_ok=True)
    if len(part_names(folder)) < MANY:
        return
    parts = open_parts(folder, fields, with_rows=row_bytes > 0)
    for name in {name for keys, _ in parts for name in keys.replaces}:
        remove_part(folder, name)  # left by a merge that was cut off
    small = [
        (keys, rows)
        for keys, rows in parts
        if keys.count * (keys.dtype.itemsize + row_bytes) <= SMALL
        and (rows is not None or not row_bytes)  # rows that are elsewhere cannot be copied
    ]
    if len(small) < MANY:
        return
    name, names = new_name(), [keys.name for keys, _ in small]
    records: list[np.void] = []

    def write_rows(path: Path) -> None:
        with path.open("wb") as file:
            for record, row in _newest(small, row_bytes):
                records.append(record)
                file.write(row.data)

    if row_bytes:
        replace_file(folder / f"{name}{ROWS}", write_rows)
    else:
        records += [record for record, _ in _newest(small, row_bytes)]
    merged = np.array(records, record_type(fields))
    write_keys(folder / f"{name}{KEYS}", "merged", merged, replaces=names)
    for old in names:
        remove_part(folder, old)
    log.debug("merged %d parts of %s", len(names), folder)


def _newest(parts: Sequence[OpenPart], row_bytes: int) -> Iterator[tuple[np.void, np.ndarray]]:
    """Yield the newest intact record of each key with its row; the parts are the oldest first."""
    seen: set[bytes] = set()
    for part in reversed(parts):
        for record, row in rows_of_part(part, row_bytes):
            key = record["key"].tobytes()
            if key in seen or (row_bytes and row_checksum(row) != record["checksum"]):
                continue
            seen.add(key)
            yield record, row
