"""Files of the tests: videos that no test decodes, by their names."""

from pathlib import Path


def touch(folder: Path, *names: str) -> Path:
    """Make files below a folder, each with its own name as content, and return the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return folder


def write(path: Path, *lines: str) -> Path:
    """Write a text file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
