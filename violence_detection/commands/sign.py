"""Sign a trained detector, so that others can tell that it is unchanged: `--verify KEY`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from violence_detection.commands.flags import (
    add_checkpoint_dir,
    add_debug,
    examples_and_exit_status,
)
from violence_detection.commands.output import print_message
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.settings.parser import FlagParser

KEYS = """\
keys:
  openssl genpkey -algorithm ed25519 -out private.pem
  openssl pkey -in private.pem -pubout -out public.pem

"""
STATUSES = {0: "signed", 1: "a disk failed", 2: "the key or the detector is missing or wrong"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    flags = make_parser().parse_args(arguments)
    return run_or_explain(lambda: run(flags), flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        usage="%(prog)s --key FILE [flags]",
        description="Sign a trained detector, so that others can tell that it is unchanged.",
        epilog=KEYS + examples_and_exit_status(["--key private.pem"], STATUSES),
    )
    add_checkpoint_dir(parser)
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="private Ed25519 key, a PEM file without a password",
    )
    add_debug(parser)
    return parser


def run(flags: argparse.Namespace) -> int:
    """Sign the detector; return the exit status.

    Raises:
        UserError: the key is none; there is no finished run.
        RunError: the signature cannot be written.
    """
    from violence_detection.runs.saved_detector import find_detector
    from violence_detection.runs.signature import SIGNATURE, sign

    saved = find_detector(flags.checkpoint_dir)
    names = sign(saved.checkpoint_dir, flags.key)
    print_message(f"signed {', '.join(names)}: {saved.checkpoint_dir / SIGNATURE}")
    return 0
