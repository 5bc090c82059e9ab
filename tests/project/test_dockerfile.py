"""What can be told of the image without Docker: that it gets what it copies and what it needs."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from violence_detection.commands.serve import TOKEN_VARIABLE, make_parser

PACKAGE = ROOT / "violence_detection"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with what follows them, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def copied() -> Iterator[Path]:
    """Yield the files that are copied into the image, if .dockerignore lets them."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    for name, rest in instructions():
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert source in kept, source
                path = ROOT / source
                files = sorted(path.rglob("*")) if path.is_dir() else [path]
                yield from (f for f in files if f.is_file() and "__pycache__" not in f.parts)


def test_image_has_every_file_that_the_server_reads() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in copied()}
    tracked = subprocess.run(
        ["git", "ls-files", "violence_detection", "serve.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert set(tracked) <= names


def test_image_has_nothing_of_the_users() -> None:
    for path in copied():
        assert path.suffix in (".py", ".typed", ".txt", ".j2", ".js", ".css")


def required_packages(path: Path) -> Iterator[str]:
    for line in path.read_text().split("\n"):
        if line.startswith("-r "):
            yield from required_packages(path.parent / line[3:])
        elif line.strip() and not line.startswith("#"):
            yield re.match(r"[\w.-]+", line)[0]


def test_image_installs_what_the_service_imports() -> None:
    required = set(required_packages(ROOT / "requirements-deploy.txt"))
    provided = importlib.metadata.packages_distributions()
    for path in [*(PACKAGE / "serving").glob("*.py"), PACKAGE / "commands" / "serve.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                package = node.module.split(".")[0]
                if package in (*sys.stdlib_module_names, PACKAGE.name):
                    continue
                names = {name.replace("_", "-").lower() for name in provided[package]}
                # FastAPI is made of these two.
                assert names & required or package in ("starlette", "pydantic"), package


@pytest.mark.parametrize("instruction", ["ENTRYPOINT", "HEALTHCHECK"])
def test_commands_are_ones_that_run(instruction: str) -> None:
    rest = dict(instructions())[instruction]
    words = json.loads(rest[rest.index("[") :])
    assert words[0] == "python"
    if instruction == "HEALTHCHECK":
        compile(words[2], "healthcheck", "exec")
        assert ":8000/readyz" in words[2]
    else:
        flags = make_parser().parse_args(words[2:])
        assert (flags.host, flags.port, flags.insecure) == ("0.0.0.0", 8000, False)
        assert str(flags.checkpoint_dir) == dict(instructions())["VOLUME"]


def test_image_runs_as_somebody_who_owns_nothing() -> None:
    names = [name for name, _ in instructions()]
    assert dict(instructions())["USER"] != "root"
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert TOKEN_VARIABLE not in str([rest for name, rest in instructions() if name == "ENV"])
