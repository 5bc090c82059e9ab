"""What is wrong with a command line is said before anything heavy is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TRAINING = ("train_rtx5000_dual_optimized.py", "--checkpoint-dir", "{tmp}/run", "--dataset-path")


@pytest.fixture
def without_heavy_libraries(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which importing what takes seconds fails."""
    for name in ("tensorflow", "keras", "matplotlib", "sklearn"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was loaded')")
    return os.environ | {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("predict.py", "{clip}", "--checkpoint-dir", "{tmp}/none"), "no such folder"),
        (("predict.py", "{clip}", "--checkpoint-dir", "{tmp}"), "not a run's folder"),
        (("predict.py", "{clip}", "--window", "2", "--checkpoint-dir", "{tmp}"), "not a run's"),
        (("predict.py", "--source", "{clip}", "--checkpoint-dir", "{tmp}"), "not a run's folder"),
        (
            ("predict.py", "{clip}", "--checkpoint-dir", "{run}", "--vgg19-weights", "{text}"),
            "not an HDF5 file",
        ),
        (("export.py", "--output", "{tmp}/out", "--checkpoint-dir", "{tmp}"), "not a run's folder"),
        (("serve.py", "--port", "0", "--checkpoint-dir", "{tmp}"), "not a run's folder"),
        (("report.py", "--checkpoint-dir", "{tmp}"), "contains no run"),
        ((*TRAINING, "{tmp}/none"), "no such folder"),
        ((*TRAINING, "{clips}", "--vgg19-weights", "{text}"), "not an HDF5 file"),
        ((*TRAINING, "{clips}", "--vgg19-weights", "{tmp}/none.h5"), "no such file"),
    ],
)
def test_wrong_paths_are_refused_before_anything_heavy_is_loaded(
    command: tuple[str, ...],
    said: str,
    finished: Path,
    drawn_clips: Path,
    tmp_path: Path,
    without_heavy_libraries: dict[str, str],
) -> None:
    (tmp_path / "text.h5").write_text("not HDF5")
    names = {
        "tmp": tmp_path,
        "clip": drawn_clips / "test" / "violent" / "violent0.mp4",
        "clips": drawn_clips,
        "run": finished / "run",
        "text": tmp_path / "text.h5",
    }
    done = subprocess.run(
        [sys.executable, *(word.format(**names) for word in command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=without_heavy_libraries,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
