"""Runs of the training command that are compared: their flags, and what is finished is kept."""

import argparse
import contextlib
import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DEFAULTS = [("defaults", "")]


class FinishedRun(NamedTuple):
    """A run of the training command."""

    folder: Path
    seconds: float


def numbers(text: str) -> list[int]:
    """Return whole numbers that are separated by commas."""
    return [int(number) for number in text.split(",")]


def add_flags_of_runs(parser: argparse.ArgumentParser) -> None:
    """Add `--seeds`, `--work-dir` and `--variant`, which is (name, flags)."""

    def named_flags(text: str) -> tuple[str, str]:
        name, _, flags = text.partition("=")
        return name, flags

    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3], help="default: 1,2,3")
    parser.add_argument("--work-dir", type=Path, required=True, help="keeps finished runs")
    parser.add_argument(
        "--variant",
        action="append",
        type=named_flags,
        metavar="NAME=FLAGS",
        help="flags of the training command to compare (default: its defaults)",
    )


def mean_figures(
    runs: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, float | None]:
    """Return the means of figures over the runs that have them; None if none has."""
    values = {name: [run[name] for run in runs if run[name] is not None] for name in names}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def without_folders(flags: Sequence[str]) -> list[str]:
    """Return flags as they are reported: files by their names."""
    return [Path(word).name if "/" in word else word for word in flags]


def finished_run(work_dir: Path, command: Sequence[str], result: str) -> FinishedRun:
    """Run the training command, unless it has been run before.

    Args:
        work_dir: has a folder for each command.
        command: the flags of the training command, without its checkpoint directory.
        result: the name of the file that a finished run has.
    """
    name = hashlib.blake2b(shlex.join(command).encode(), digest_size=6).hexdigest()
    folder = work_dir / name
    timed = folder / "seconds.json"
    if not (folder / result).exists() or not timed.exists():
        from train_rtx5000_dual_optimized import main as train

        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        (folder / "command.txt").write_text(shlex.join(command) + "\n")
        with (folder / "screen.txt").open("w") as screen, contextlib.redirect_stdout(screen):
            own = ["--checkpoint-dir", str(folder), "--quiet", "--no-report"]
            status = train([*command, *own])
        if status:
            raise SystemExit(f"error: {shlex.join(command)} failed: {folder / 'screen.txt'}")
        timed.write_text(json.dumps(time.perf_counter() - started))
    return FinishedRun(folder, json.loads(timed.read_text()))
