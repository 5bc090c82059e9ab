"""What a Python without the requirements is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from violence_detection.runtime import environment
from violence_detection.runtime.environment import missing_packages
from violence_detection.runtime.interrupts import run_or_explain


@pytest.mark.parametrize(
    "command",
    [
        "train_rtx5000_dual_optimized.py --dataset-path clips",
        "model_architecture.py",
        "predict.py clip.mp4",
        "export.py",
        "serve.py",
        "report.py --checkpoint-dir checkpoints",
        "watch.py cameras.toml",
        "-m violence_detection.datasets clips",
    ],
)
def test_outside_the_environment_it_is_named_and_no_package(command: str, tmp_path: Path) -> None:
    """Without `site`, this Python finds none of the installed packages."""
    line = [sys.executable, "-S", *command.split()]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sys.executable} is outside the virtual environment")
    assert "No module" not in done.stderr and done.stdout == ""


def test_environment_that_is_there_is_pointed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "NEEDED", ("a_package_that_is_not_there",))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(environment.violence_detection, "__file__", str(tmp_path / "p" / "i.py"))
    assert "Make it: python3.11 -m venv .venv" in missing_packages("tqdm")
    python = tmp_path / ".venv-gpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert missing_packages("tqdm").endswith(f"Use {python}")
    monkeypatch.setattr(sys, "prefix", "/somewhere/venv")
    assert "the virtual environment /somewhere/venv lacks" in missing_packages("tqdm")


def test_in_the_environment_the_package_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        raise ModuleNotFoundError("No module named 'exotic'", name="exotic.part")

    assert run_or_explain(job, debug=False) == 2
    assert "lacks the package of exotic.part: pip install" in capsys.readouterr().err
