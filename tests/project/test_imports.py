"""What import-linter cannot see: which imports wait until they are needed."""

import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

import violence_detection.api
import violence_detection.commands
import violence_detection.settings
from tests.conftest import ROOT

HEAVY = {"tensorflow", "keras", "matplotlib", "sklearn"}


def modules_of(package: object) -> Iterator[str]:
    """Yield the names of a package and of all modules in it."""
    yield package.__name__
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield module.name


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param([*modules_of(violence_detection.settings)], id="settings"),
        pytest.param(
            [f"violence_detection.clips.{name}" for name in ("dataset", "splits")], id="clips"
        ),
        pytest.param([*modules_of(violence_detection.commands)], id="commands"),
        pytest.param(["train_rtx5000_dual_optimized"], id="script"),
        pytest.param([*modules_of(violence_detection.api)], id="api"),
    ],
)
def test_help_and_errors_do_not_wait_for_tensorflow(modules: list[str]) -> None:
    program = f"import sys, {', '.join(modules)}; print(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_commands_and_decoders_do_not_load_the_api() -> None:
    program = "import sys, violence_detection.clips.clip; print(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "violence_detection.api" not in done.stdout.split()
