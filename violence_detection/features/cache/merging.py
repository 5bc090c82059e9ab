"""Small parts of a cache become one, so that there are never many."""

import contextlib
import logging
import os
import time
from collections.abc import Sequence
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
    ]
    if len(small) < MANY:
        return
    newest: dict[bytes, tuple[np.ndarray, bytes]] = {}  # record and row, by key
    for keys, rows in small:
        for position, record in enumerate(keys.read(0, keys.count)):
            row = bytearray(row_bytes)
            if rows is not None:
                rows.read_into(memoryview(row), position * row_bytes)
                if row_checksum(np.frombuffer(row, np.uint8)) != record["checksum"]:
                    continue
            newest[record["key"].tobytes()] = record, bytes(row)
    name, names = new_name(), [keys.name for keys, _ in small]
    records = np.array([record for record, _ in newest.values()], record_type(fields))
    if row_bytes:
        data = b"".join(row for _, row in newest.values())
        replace_file(folder / f"{name}{ROWS}", lambda partial: partial.write_bytes(data))
    write_keys(folder / f"{name}{KEYS}", "merged", records, replaces=names)
    for old in names:
        remove_part(folder, old)
    log.debug("merged %d parts of %s", len(names), folder)
