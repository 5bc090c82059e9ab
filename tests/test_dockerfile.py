"""What can be told of the image without Docker: that it gets what it copies and what it needs."""

import ast
import fnmatch
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from serve import TOKEN_VARIABLE, make_parser


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
            for pattern in rest.split()[:-1]:
                found = sorted(ROOT.glob(pattern))
                assert found, pattern
                assert all(any(fnmatch.fnmatch(p.name, k) for k in kept) for p in found), pattern
                yield from found


def test_image_has_every_file_that_the_server_reads() -> None:
    names = {path.name for path in copied()}
    modules, seen = ["serve"], set()
    while modules:
        module = modules.pop()
        if module in seen:
            continue
        seen.add(module)
        assert f"{module}.py" in names
        for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
            imported = [node.module] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            modules += [name for name in imported if name and (ROOT / f"{name}.py").exists()]
    assert {"serve_page.html.j2", "serve_page.js", "serve_page.css"} <= names


def test_image_has_nothing_of_the_users() -> None:
    for path in copied():
        assert path.suffix in (".py", ".txt", ".j2", ".js", ".css")


def required_packages(path: Path) -> Iterator[str]:
    for line in path.read_text().split("\n"):
        if line.startswith("-r "):
            yield from required_packages(path.parent / line[3:])
        elif line.strip() and not line.startswith("#"):
            yield re.match(r"[\w.-]+", line)[0]


def test_image_installs_what_the_service_imports() -> None:
    required = set(required_packages(ROOT / "requirements-deploy.txt"))
    provided = importlib.metadata.packages_distributions()
    modules = ("serve", "service", "uploads", "judge_queue", "exchange", "answers", "problems")
    for module in (*modules, "service_metrics", "serve_page"):
        for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                package = node.module.split(".")[0]
                if package in sys.stdlib_module_names or (ROOT / f"{package}.py").exists():
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
