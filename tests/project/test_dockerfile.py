"""The image without Docker: its files run the server on their own, as the user it runs as."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT
from violence_detection.commands.serve import TOKEN_VARIABLE, make_parser


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the files that the image gets, as far as .dockerignore allows them."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    folder = tmp_path_factory.mktemp("image")
    for name, arguments in instructions():
        if name == "COPY":
            *sources, target = arguments.split()
            for source in sources:
                assert source in allowed, f"{source} is not in the build context"
                into = folder / target
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, into, ignore=ignored, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, into)
    return folder


def arguments_of(instruction: str) -> list[str]:
    text = dict(instructions())[instruction]
    return json.loads(text[text.index("[") :])


def test_server_starts_from_the_files_of_the_image(image: Path) -> None:
    """As far as the missing checkpoint directory, of which it complains."""
    _, script, *flags = arguments_of("ENTRYPOINT")
    missing = image / "checkpoints"
    flags[flags.index("--checkpoint-dir") + 1] = str(missing)
    done = subprocess.run(
        [sys.executable, script, *flags],
        cwd=image,
        env=os.environ | {TOKEN_VARIABLE: "secret-of-the-tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(missing) in done.stderr


def test_image_installs_what_the_service_needs(image: Path) -> None:
    (command,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    requirements = image / command.split("-r ")[1]
    check = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--no-deps", "--no-index"]
    done = subprocess.run([*check, "-r", str(requirements)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # every file it refers to is there
    lists = image.glob("requirements-extra-*.txt")
    lines = [line for path in lists for line in path.read_text().splitlines()]
    names = {Requirement(line).name for line in lines if line and line[0] != "#"}
    assert names >= {"fastapi", "uvicorn", "python-multipart", "prometheus-client"}


def test_image_has_no_data_of_the_user(image: Path) -> None:
    kinds = {path.suffix for path in image.rglob("*") if path.is_file()}
    assert kinds <= {".py", ".typed", ".txt", ".j2", ".js", ".css"}


def test_command_listens_on_the_port_that_the_health_check_asks() -> None:
    flags = make_parser().parse_args(arguments_of("ENTRYPOINT")[2:])
    assert (flags.host, flags.insecure) == ("0.0.0.0", False)
    assert str(flags.checkpoint_dir) == dict(instructions())["VOLUME"]
    _, _, program = arguments_of("HEALTHCHECK")
    compile(program, "healthcheck", "exec")
    assert f":{flags.port}/healthz" in program


def test_image_does_not_run_as_root_and_contains_no_token() -> None:
    names = [name for name, _ in instructions()]
    assert dict(instructions())["USER"] not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not any(TOKEN_VARIABLE in rest for name, rest in instructions() if name == "ENV")
