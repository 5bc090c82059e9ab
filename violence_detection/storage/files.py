"""Files that are whole or not there at all, and that show when something else has changed them.

Written beside their place, flushed to the disk, put in place in one step. JSON files carry a
checksum of their own; of other files it is kept by who writes them.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError, failing_as

PARTIAL = ".partial-"  # begins the name of a file that is being written


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file, and put it at `path` in one step once it is on disk.

    Raises:
        RunError: it cannot be written; what was at `path` is still there.
    """
    partial = path.with_name(PARTIAL + path.name)  # same suffix: Keras goes by it
    with failing_as(path):
        try:
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # its folder may be what is gone
                partial.unlink(missing_ok=True)
            raise
        if sys.platform != "win32":
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed run was writing in `folder`."""
    for path in folder.glob(PARTIAL + "*"):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step; a name that is not valid UTF-8 keeps its bytes."""
    data = text.encode(errors="surrogateescape")
    replace_file(path, lambda partial: partial.write_bytes(data))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in one step."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object and its checksum in one step."""
    text = json.dumps(value | {"checksum": _checksum_of(value)}, indent=2, ensure_ascii=False)
    # A file name that is not UTF-8 becomes JSON's own escape for it.
    data = (text + "\n").encode(errors="backslashreplace")
    replace_file(path, lambda partial: partial.write_bytes(data))


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, without its checksum.

    Raises:
        UserError: it is not one, or is not as it was written.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it, or --fresh to start anew"
        ) from error
    if not isinstance(value, dict) or "checksum" not in value:
        raise UserError(f"{path} is not what this program wrote: restore it, or --fresh")
    if value.pop("checksum") != _checksum_of(value):
        raise UserError(
            f"{path} was changed or damaged since it was written (its checksum differs): "
            "restore it, or --fresh to start anew"
        )
    return value


def _checksum_of(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)  # a name that is not UTF-8 as JSON's own escape
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_checksum(path: Path) -> bytes:
    """Return the 16 bytes that stand for a file's content (BLAKE2b)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
