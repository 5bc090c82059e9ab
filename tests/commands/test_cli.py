import importlib
import sys
from pathlib import Path

import pytest

import violence_detection
from violence_detection.commands.cli import COMMANDS, run_command


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a command was started with."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_command(["--help"])
    shown = capsys.readouterr().out
    for name, (module, summary) in COMMANDS.items():
        assert name in shown and summary in shown
        assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_the_commands_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_command([name, "--help"])
    shown = capsys.readouterr().out
    assert f"violence-detection {name}" in shown
    own = {"dataset": "--output", "push": "REPO"}
    assert own.get(name, "--checkpoint-dir") in shown


def test_status_is_the_commands_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", "--checkpoint-dir", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(["tarin", "--demo"])
    assert "tarin" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_command(["--version"])
    assert violence_detection.__version__ in capsys.readouterr().out
