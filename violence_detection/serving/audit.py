"""An audit log: what was predicted for whom, each line chained to the one before by its hash.

A line that was changed, cut out or moved breaks the chain from there on. Lines that were cut off at
the end leave no trace in the file: note the last hash elsewhere.

    python -m violence_detection.serving.audit FILE
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from violence_detection.errors import RunError, failing_as
from violence_detection.storage.files import file_sha256

FIRST = "0" * 64  # stands in for the hash before the first line
HASH, PREVIOUS = "hash", "previous"


class AuditLog:
    """Appends lines to a file; thread-safe.

    Args:
        path: of the file; an existing one is continued.

    Raises:
        RunError: it cannot be written, or its chain is broken.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        with failing_as(path, "written (--audit)"):
            path.touch(mode=0o600)
            self._last, broken = last_hash(path)
        if broken:
            raise RunError(f"--audit {path}: line {broken} was changed, or one before it cut out")

    def write(self, clip: Path, **values: Any) -> None:
        """Add a line: the time, a clip's SHA-256 and other values, JSON's own types.

        Raises:
            OSError: the file cannot be written, or the clip not read.
        """
        content = file_sha256(clip)
        with self._lock:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = {"time": time, "clip_sha256": content, **values, PREVIOUS: self._last}
            line[HASH] = _hash_of(line)
            with self.path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
                log.flush()
                os.fsync(log.fileno())
            self._last = line[HASH]


def last_hash(path: Path) -> tuple[str, int]:
    """Return the hash of the last line, and the number of the first that does not fit; 0: none."""
    last = FIRST
    for number, line in enumerate(_lines(path), start=1):
        if line.get(PREVIOUS) != last or line.get(HASH) != _hash_of(line):
            return last, number
        last = line[HASH]
    return last, 0


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines as objects; an empty one for a line that is none."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                line = {}
            yield line if isinstance(line, dict) else {}


def _hash_of(line: dict[str, Any]) -> str:
    rest = {name: value for name, value in line.items() if name != HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def main(arguments: Sequence[str]) -> int:
    """Check files; return 1 if a line of any was changed or cut out, 2 if one cannot be read."""
    status = 0
    for name in arguments:
        try:
            last, broken = last_hash(Path(name))
            lines = sum(1 for _ in _lines(Path(name)))
        except OSError as error:
            print(f"{name}: {error.strerror}", file=sys.stderr)
            return 2
        if broken:
            print(f"{name}: line {broken} was changed, or one before it cut out")
            status = 1
        else:
            print(f"{name}: {lines} lines, unchanged; the last hash is {last}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
