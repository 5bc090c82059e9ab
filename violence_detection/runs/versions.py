"""What a run was computed with: the versions of its packages and of this program."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import violence_detection

PACKAGES = (
    *("tensorflow", "keras", "numpy", "opencv-python-headless"),
    *("scikit-learn", "scipy", "h5py", "tensorboard", "pebble", "filelock"),
    *("matplotlib", "jinja2", "psutil", "nvidia-ml-py"),
)


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that matter; None: not installed."""
    packages = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of this program's checkout; None if it is none, or git is missing."""
    here = Path(violence_detection.__file__).parent.parent
    if not (here / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
