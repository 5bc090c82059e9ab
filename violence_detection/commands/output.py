"""What the commands write: results as they come, and messages that are not results."""

import io
import sys
from collections.abc import Iterable
from pathlib import Path


def write_text(pieces: Iterable[str], path: Path | None) -> None:
    """Write text piece by piece to standard output, or to a file that appears only when complete.

    Args:
        pieces: generated while they are written.
        path: the file; None: standard output.

    Raises:
        RunError: the file cannot be written.
    """
    if path:
        from violence_detection.storage.files import replace_file

        def write(partial: Path) -> None:
            # A name that is not valid UTF-8 keeps its bytes.
            with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.writelines(pieces)

        replace_file(path, write)
        return
    from tqdm import tqdm

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    for piece in pieces:
        with tqdm.external_write_mode(file=sys.stdout):  # above a progress bar, not into it
            sys.stdout.write(piece)
            sys.stdout.flush()


def print_message(line: str) -> None:
    """Print a line on standard error, above a progress bar if there is one."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        print(line.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
