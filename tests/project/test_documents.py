"""The documents: their links lead somewhere, and their command lines are understood."""

import argparse
import importlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from violence_detection.commands import predict
from violence_detection.commands.cli import COMMANDS
from violence_detection.settings.parser import make_parser

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SCRIPTS = {
    f"{name}.py": f"violence_detection.commands.{name}"
    for name in ("predict", "export", "serve", "report", "watch")
}
OWN = ("benchmarks.", "violence_detection.")
QUICK = ("python config.py", "python model_architecture.py", "--help")
MOST_README = 8 * 1024  # bytes: two screens


def id_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that a page has for its headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(path), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(plain)


def without_code(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield the lines of all blocks of shell commands, with the document's name."""
    for path in DOCUMENTS:
        for block in re.findall(r"^```bash\n(.*?)^```", path.read_text(), re.M | re.S):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                for command in re.split(r" && | \| ", line):
                    if command.strip() and not command.startswith("#"):
                        yield id_of(path), command.strip()


@pytest.mark.parametrize("path", DOCUMENTS, ids=id_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked), target


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in names if f"({name})" not in index} == set()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= MOST_README


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser | None, list[str]]:
    """Return the parser of a command of this project, and its arguments; None: of another."""
    if words[0] == "violence-detection":
        module, arguments = COMMANDS[words[1]][0], words[2:]
    elif words[0] != "python":
        return None, []
    elif words[1] in SCRIPTS:
        module, arguments = SCRIPTS[words[1]], words[2:]
    elif words[1:3] == ["-m", "violence_detection.datasets"]:
        module, arguments = "violence_detection.datasets.command", words[3:]
    else:
        module, arguments = words[1].removesuffix(".py"), words[2:]
    if module in ("train_rtx5000_dual_optimized", "config", "model_architecture"):
        return make_parser(), arguments
    if module == "-m" or module.startswith("examples/"):
        return None, []
    return importlib.import_module(module).make_parser(), arguments


@pytest.mark.parametrize(("document", "line"), sorted(set(command_lines())))
def test_command_line_is_understood(
    document: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # VARIABLE=value command
        words = words[1:]
    for name in words:
        if name.startswith("requirements") or name.startswith("examples/"):
            assert (ROOT / name).exists(), name
    parser, arguments = parser_of(words) if words else (None, [])
    if parser is not None:
        try:
            parser.parse_args(arguments)
        except SystemExit as ended:
            assert ended.code in (0, None), capsys.readouterr().err
    elif words[:2] == ["python", "-m"] and words[2].startswith(
        ("benchmarks", "violence_detection")
    ):
        # Many benchmarks pass the flags that they do not know on to the training, or to predict.py.
        others = make_parser().format_help() + predict.make_parser().format_help()
        known = help_of(words[2], monkeypatch, capsys) + others
        for flag in (word.partition("=")[0] for word in words[3:] if word.startswith("--")):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", known), flag


def help_of(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Return what a module that is run with --help prints."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module(module, run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "line", sorted({line for _, line in command_lines() if any(quick in line for quick in QUICK)})
)
def test_quick_command_runs(line: str) -> None:
    words = [sys.executable if word == "python" else word for word in shlex.split(line)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
