"""Whether this Python has the packages that the program needs, and what to do if not."""

import importlib.util
import sys
from pathlib import Path

import violence_detection

NEEDED = ("tensorflow", "numpy", "tqdm")  # without one of them, it is another Python
PROGRAMS = ("bin/python", "Scripts/python.exe")
INSTALL = "pip install -r requirements.txt"


def is_outside() -> bool:
    """Return whether this Python is not the one that the requirements were installed for."""
    return any(importlib.util.find_spec(name) is None for name in NEEDED)


def is_own_module(name: str | None) -> bool:
    """Return whether a module is this program's: if it is missing, that is a fault of ours."""
    return name is not None and name.partition(".")[0] == violence_detection.__name__


def missing_packages(module: str | None) -> str:
    """Return what is wrong if a module cannot be found, and the way out, in up to three lines.

    Args:
        module: its name.
    """
    if not is_outside():
        return f"{sys.executable} lacks the package of {module}: {INSTALL}"
    if sys.prefix != sys.base_prefix:
        return f"the virtual environment {sys.prefix} lacks required packages: {INSTALL}"
    root = Path(violence_detection.__file__).parent.parent
    found = [
        path
        for folder in sorted(root.glob(".venv*"))
        for name in PROGRAMS
        if (path := folder / name).exists()
    ]
    way_out = (
        f"Use {found[0]}"
        if found
        else f"Make it: python3.11 -m venv .venv && .venv/bin/{INSTALL}\nthen use .venv/bin/python"
    )
    return f"{sys.executable} is outside the virtual environment with the requirements.\n{way_out}"


def require_environment() -> None:
    """End the process with what to do if this Python lacks the requirements; exit status 2.

    For commands that import them before anything else.
    """
    if is_outside():
        print(f"error: {missing_packages(None)}", file=sys.stderr)
        sys.exit(2)
