"""`violence-detection COMMAND`: every command of the project under one name."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import violence_detection
from violence_detection.runtime.interrupts import leave
from violence_detection.settings.parser import FlagParser

# Each module has `main(arguments)`, which returns the exit status.
COMMANDS = {
    "train": ("train_rtx5000_dual_optimized", "train and test a detector"),
    "predict": ("violence_detection.commands.predict", "predict for clips, folders or a stream"),
    "export": ("violence_detection.commands.export", "export a detector to other runtimes"),
    "serve": ("violence_detection.commands.serve", "serve a detector over HTTP"),
    "watch": ("violence_detection.commands.watch", "watch cameras, with a clip of each alarm"),
    "dataset": ("violence_detection.datasets.command", "make a manifest of clips to train on"),
    "sign": ("violence_detection.commands.sign", "sign a detector, for --verify"),
    "push": ("violence_detection.commands.push", "push a detector to the Hugging Face Hub"),
    "report": ("violence_detection.commands.report", "write a run's report, or compare runs"),
}


def make_parser() -> FlagParser:
    """Return the parser of the command's name; what follows it is for the command itself."""
    width = max(map(len, COMMANDS))
    parser = FlagParser(
        prog="violence-detection",
        usage="%(prog)s COMMAND [flags]",
        description=violence_detection.__doc__,
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
        + "\n\nFlags of a command: %(prog)s COMMAND --help",
    )
    version = f"%(prog)s {violence_detection.__version__}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def run_command(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names with the others; return its exit status."""
    parsed = make_parser().parse_args(arguments)
    module, _ = COMMANDS[parsed.command]
    # As `python -m` does: a command's help and errors show the name that it was started by.
    sys.argv = [f"violence-detection {parsed.command}", *parsed.flags]
    return importlib.import_module(module).main(parsed.flags)


def main() -> NoReturn:
    """Run the command line that this process was started with, and end the process."""
    leave(run_command(sys.argv[1:]))
