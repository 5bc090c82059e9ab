"""The wheel, installed outside the checkout: everything that its commands read is in it."""

import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT, quick_flags_in


def requirements(path: Path) -> Iterator[Requirement]:
    """Yield what a requirements file lists, with the files that it refers to."""
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            yield from requirements(path.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            yield Requirement(line)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of the tracked files, built without the network."""
    pytest.importorskip("setuptools", "77", reason="needs setuptools of requirements-dev.txt")
    folder = tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/", "docs/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(folder), str(folder / "source")], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Return the folder of commands of an environment with the wheel, and what it depends on."""
    environment = wheel.parent / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    install = ["install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    return python.parent


def run(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [str(command), *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


def test_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    tracked = ["git", "ls-files", "violence_detection"]
    names = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert {name for name in names.splitlines() if (ROOT / name).is_file()} <= packed


@pytest.mark.parametrize("extra", ["", "gpu", "deploy", "remote", "hub", "dev"])
def test_wheel_requires_what_the_requirements_files_list(wheel: Path, extra: str) -> None:
    listed = set(requirements(ROOT / f"requirements{'-' * bool(extra)}{extra}.txt"))
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        required = message_from_bytes(archive.read(name)).get_all("Requires-Dist")
    lines = map(Requirement, required)
    met = [r for r in lines if not r.marker or r.marker.evaluate({"extra": extra})]
    assert {(r.name, str(r.specifier)) for r in met} >= {(r.name, str(r.specifier)) for r in listed}
    assert bool(extra) == (len(met) > len(list(requirements(ROOT / "requirements.txt"))))


def test_installed_commands_answer(installed: Path, tmp_path: Path) -> None:
    command = installed / "violence-detection"
    for arguments in (["--help"], ["predict", "--help"], ["serve", "--help"]):
        done = run(command, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "usage: violence-detection" in done.stdout
    done = run(command, "train", "--dataset-path", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr


@pytest.mark.slow
def test_installed_command_trains_and_reports(
    installed: Path, drawn_clips: Path, tmp_path: Path
) -> None:
    flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(tmp_path), "--report"]
    flags += ["--epochs", "2"]
    done = run(installed / "violence-detection", "train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
