"""What the command lines of the benchmarks have in common."""

import argparse
import json
from pathlib import Path
from typing import Any


def make_parser(module_doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with `--json FILE`, described by the first line of a module's docstring."""
    description = (module_doc or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser


def write_report(report: dict[str, Any], path: Path | None) -> None:
    """Write the figures to `path`, unless it is None."""
    if path:
        path.write_text(json.dumps(report, indent=2) + "\n")


def print_report(report: dict[str, Any], path: Path | None) -> None:
    """Print the figures, and write them to `path`, unless it is None."""
    print(json.dumps(report, indent=2))
    write_report(report, path)
