"""Files that are complete or absent, whatever happens, and that show when they were changed.

A file is written under another name, flushed to the disk and renamed. JSON files contain their own
checksum; those of other files are kept by whoever writes them.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError, failing_as

PARTIAL = ".partial-"  # prefix of a file that is being written


def replace_file(path: Path, write: Callable[[Path], Any], shared: bool = False) -> None:
    """Replace a file in one step with what `write` writes.

    Args:
        path: may exist or not.
        write: given the path of a temporary file in the same folder, with the same extension.
        shared: whether other processes may write the same file at the same time.

    Raises:
        RunError: the file cannot be written; the old one, if any, is unchanged.
    """
    own = f"{uuid.uuid4().hex}-" if shared else ""  # else, what a killed process left is replaced
    partial = path.with_name(PARTIAL + own + path.name)
    with failing_as(path):
        try:
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the folder may be gone
                partial.unlink(missing_ok=True)
            raise
        if sys.platform != "win32":
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


def remove_partial_files(folder: Path) -> None:
    """Remove the files that a killed run was writing in `folder`."""
    for path in folder.glob(PARTIAL + "*"):
        path.unlink()


def write_bytes(path: Path, data: bytes, shared: bool = False) -> None:
    """Write a file in one step; raises as `replace_file` does."""
    replace_file(path, lambda partial: partial.write_bytes(data), shared)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step; raises as `replace_file` does.

    File names in it that are not valid UTF-8 (surrogate escapes) keep their bytes.
    """
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in one step; raises as `replace_file` does."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, value: dict[str, Any], shared: bool = False) -> None:
    """Write a JSON object with its checksum in one step; raises as `replace_file` does.

    Args:
        path: of the file.
        value: without the key "checksum", which is added.
        shared: see `replace_file`.
    """
    text = json.dumps(value | {"checksum": _json_checksum(value)}, indent=2, ensure_ascii=False)
    # Surrogates of file names that are not valid UTF-8 are written as JSON escapes.
    write_bytes(path, (text + "\n").encode(errors="backslashreplace"), shared)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, without its checksum.

    Raises:
        UserError: the file is missing, not a JSON object, or not as `write_json` wrote it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it, or start over with --fresh"
        ) from error
    if not isinstance(value, dict) or "checksum" not in value:
        raise UserError(
            f"{path} was not written by this program: restore it, or start over with --fresh"
        )
    if value.pop("checksum") != _json_checksum(value):
        raise UserError(
            f"{path} was changed or damaged since it was written (checksum mismatch): "
            "restore it, or start over with --fresh"
        )
    return value


def _json_checksum(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal; raises `OSError` if it cannot."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_checksum(path: Path) -> bytes:
    """Return the 16-byte BLAKE2b hash of a file's content; raises `OSError` if it cannot."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
