"""The folder that features are kept in: whose it is, who may write it, which clip each file is.

A clip is known by its content, so it may move, be renamed or change split; its file is only read
again for that when its size or times have changed. A folder is written by one process at a time.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from durable_files import failing_as, require_room
from errors import UserError
from folder_lock import LOCK_NAME, locked
from remote_storage import AnyPath, RemotePath
from run_log import log

INDEX_NAME = "index.sqlite"
APPLICATION_ID = 0x56444643  # "VDFC" in the index's header: this program's own
FORMAT = 2  # of the folder; also to be raised when decoding or preprocessing changes

_SCHEMA = """
CREATE TABLE files (path BLOB PRIMARY KEY, size INT, mtime_ns INT, ctime_ns INT, clip BLOB);
CREATE TABLE recipes (recipe TEXT PRIMARY KEY, description TEXT);
CREATE TABLE features (
    recipe TEXT, clip BLOB, row INT, checksum INT, PRIMARY KEY (recipe, clip)
) WITHOUT ROWID;
"""

Stamp = tuple[int, int, int]


def file_stamp(path: AnyPath) -> Stamp:
    """Return a file's size and its times of change: if they stay, so does its content.

    Of a file in a store, what stands for them there.
    """
    if isinstance(path, RemotePath):
        return path.stamp
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class CacheFolder:
    """A cache folder with its index, this process's own until `close`.

    Args:
        busy: called once, with "process 123", if another process has the folder; if it does not
            raise, the folder is waited for.

    Raises:
        UserError: the folder cannot be written, or another program made it.
    """

    def __init__(self, path: Path, busy: Callable[[str], None] | None = None):
        self.path = path.expanduser().absolute()
        self.index_path = self.path / INDEX_NAME
        self._lock = contextlib.ExitStack()
        _require_ours(self.path)
        with self.opening():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.path, busy or (lambda holder: None)))
            self.index = _open_index(self.path)

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Raise a `UserError` if the folder cannot be written when it is first used."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            require_room(error, self.path)
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"--cache-dir {self.path} cannot be written: {reason}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def known_contents(self, paths: Sequence[AnyPath]) -> list[bytes | None]:
        """Return each file's content hash if it was hashed before and has not changed since."""
        query = "SELECT size, mtime_ns, ctime_ns, clip FROM files WHERE path = ?"
        contents: list[bytes | None] = []
        for path in paths:
            seen = self.index.execute(query, (os.fsencode(path),)).fetchone()
            try:
                unchanged = seen is not None and file_stamp(path) == seen[:3]
            except OSError:  # decoding will say what is wrong with it
                unchanged = False
            contents.append(seen[3] if unchanged else None)
        return contents

    def remember_file(self, path: AnyPath, stamp: Stamp, clip: bytes) -> None:
        """Keep a file's content hash and the stamp that it had before it was read."""
        with failing_as(self.index_path):
            self.index.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                (os.fsencode(path), *stamp, clip),
            )

    def close(self) -> None:
        """Commit, and let go of the index and the folder."""
        try:
            with failing_as(self.index_path):
                self.index.commit()
        finally:
            self.index.close()
            self._lock.close()


def _require_ours(folder: Path) -> None:
    """Raise `UserError` if a folder has files, but not this program's."""
    if (folder / INDEX_NAME).exists() or not folder.is_dir():
        return
    # A run may have been killed with the index set aside, and the rows still there.
    own = re.compile(rf"{re.escape(INDEX_NAME)}.*|{re.escape(LOCK_NAME)}|[0-9a-f]{{16}}\.features")
    foreign = sorted(path.name for path in folder.iterdir() if not own.fullmatch(path.name))
    if foreign:
        raise UserError(
            f"--cache-dir {folder} is not empty and no cache of this program's making "
            f"({foreign[0]} is in it): name another folder"
        )


def _open_index(folder: Path) -> sqlite3.Connection:
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
        for journal in folder.glob(f"{INDEX_NAME}-*"):  # not to be played back into the new one
            journal.unlink()
        log.warning(
            "%s was damaged and is set aside as %s: features are computed anew", path, aside.name
        )
        index = _connect(path)
    if index is None or index.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        raise UserError(
            f"--cache-dir {folder}: {path.name} is of another program's making or of another "
            "version of this one: name another folder"
        )
    return index


def _connect(path: Path) -> sqlite3.Connection | None:
    """Return the index, made if there is none; None if it is another program's.

    Raises:
        sqlite3.DatabaseError: it is damaged, or no database at all.
    """
    index = sqlite3.connect(path, timeout=30)
    if not index.execute("SELECT 1 FROM sqlite_master").fetchone():
        with index:  # all or nothing: a run killed here leaves an empty index
            index.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {FORMAT}; COMMIT;"
            )
    if index.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return None
    complaint = index.execute("PRAGMA quick_check(1)").fetchone()[0]
    if complaint != "ok":
        index.close()
        raise sqlite3.DatabaseError(complaint)
    return index


def _application_id(path: Path) -> int:
    """Return what an SQLite file's header says about whose it is; 0 if it has none."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(72)[68:72])
    except FileNotFoundError:
        return 0
