"""What a type checker sees of a user's program."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROGRAM = """\
from pathlib import Path

import numpy as np

from violence_detection import Detector, Settings, train

run = train(Settings(dataset_path="clips"))
reveal_type(run.accuracy)
detector = Detector.load(run.folder)
reveal_type(detector.predict("clip.mp4").probability)
reveal_type(detector.predict(np.zeros((4, 8, 8, 3), np.uint8)))
reveal_type(detector.predict([Path("clip.mp4")]))
reveal_type(detector.predict_windows("clip.mp4").events[0].peak)
reveal_type(next(iter(detector.watch(0))))
"""
TYPES = [
    *("float | None", "float | None", "Prediction", "list[Prediction]", "float", "Window | Event"),
]
WRONG = """\
from violence_detection import Detector, Detektor

detector = Detector.load("run")
detector.predict(3)
detector.predicted("clip.mp4")
"""


def mypy(program: Path) -> list[str]:
    """Return mypy's messages about a program outside of the checkout."""
    program.with_name("mypy.ini").write_text(f"[mypy]\nmypy_path = {ROOT}\nfollow_imports = silent")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), program.name]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line.startswith(program.name)]


@pytest.mark.slow
def test_names_and_types_are_seen(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    seen = [line.split('"')[1] for line in mypy(program)]
    assert [text.replace("violence_detection.api.predictions.", "") for text in seen] == TYPES
    program.write_text(WRONG)
    lines = mypy(program)
    assert [line.split(":")[1] for line in lines if ": error: " in line] == ["1", "4", "5"]
