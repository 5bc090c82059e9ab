"""The index of caches of before there were shards, an SQLite file: taken over once.

Of ten million clips it took 16 s and 2.8 GB to open; and to be read by one host while another
writes it, SQLite wants locks that many shared file systems do not give.
"""

import logging
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from violence_detection.errors import UserError
from violence_detection.features.cache.record_file import (
    FILE,
    FILES_INDEX,
    ROW,
    as_keys,
    file_key,
    row_index,
    write_records,
)

log = logging.getLogger(__name__)

INDEX_NAME = "index.sqlite"
APPLICATION_ID = 0x56444643  # "VDFC" in the index's header: this program's own
FORMAT = 2
AT_ONCE = 100_000  # entries in memory


def take_over(folder: Path) -> None:
    """Write the records of an SQLite index as `record_file` has them, and remove it.

    The folder must be locked. A damaged index is set aside; killed in between, it is done again.

    Raises:
        UserError: it is not of this program, or of another version.
        RunError: the disk is full.
    """
    path = folder / INDEX_NAME
    ours = _application_id(path) == APPLICATION_ID
    try:
        index = _connect(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        index = None
    if index is None and ours:
        aside = path.with_name(f"{INDEX_NAME}.damaged-{datetime.now():%Y%m%d_%H%M%S}")
        path.rename(aside)
        for journal in folder.glob(f"{INDEX_NAME}-*"):
            journal.unlink()
        log.warning(
            "%s was damaged and is set aside as %s: features are computed anew", path, aside.name
        )
        return
    if index and not index.execute("SELECT 1 FROM sqlite_master").fetchone():
        index.close()
        path.unlink()  # a run was killed when it had just made it
        return
    if index is None or index.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        raise UserError(
            f"--cache-dir {folder}: {path.name} is of another program's making or of another "
            "version of this one: name another folder"
        )
    for recipe, description in index.execute("SELECT recipe, description FROM recipes").fetchall():
        rows = index.execute(
            "SELECT row, clip, checksum FROM features WHERE recipe = ? ORDER BY row", (recipe,)
        )
        write_records(row_index(folder, recipe), description, ROW, _row_parts(rows))
    files = index.execute("SELECT path, size, mtime_ns, ctime_ns, clip FROM files")
    write_records(folder / FILES_INDEX, "files", FILE, _file_parts(files))
    index.close()
    path.unlink()


Part = tuple[np.ndarray, np.ndarray, list[np.ndarray]]


def _row_parts(found: sqlite3.Cursor) -> Iterator[Part]:
    while rows := found.fetchmany(AT_ONCE):
        places, clips, checksums = zip(*rows, strict=True)
        yield np.array(places), as_keys(clips), [np.array(checksums, np.uint32)]


def _file_parts(found: sqlite3.Cursor) -> Iterator[Part]:
    first = 0
    while files := found.fetchmany(AT_ONCE):
        paths, *stamps, clips = zip(*files, strict=True)
        columns = [np.array(stamps, np.int64).T, as_keys(clips).view("V16")[:, 0]]
        places = np.arange(first, first + len(paths))
        yield places, as_keys(map(file_key, paths)), [*columns, np.zeros(len(paths), np.uint32)]
        first += len(paths)


def _connect(path: Path) -> sqlite3.Connection | None:
    """Return the index; None if it is another program's.

    Raises:
        sqlite3.DatabaseError: it is damaged, or no database at all.
    """
    index = sqlite3.connect(path, timeout=30)
    if (
        index.execute("SELECT 1 FROM sqlite_master").fetchone()
        and index.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID
    ):
        return None
    complaint = index.execute("PRAGMA quick_check(1)").fetchone()[0]
    if complaint != "ok":
        index.close()
        raise sqlite3.DatabaseError(complaint)
    return index


def _application_id(path: Path) -> int:
    """Return what an SQLite file's header says about whose it is; 0 if it has none."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(72)[68:72])
