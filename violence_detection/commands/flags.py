"""The flags that several commands have, each defined once, and the checks of their values."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from violence_detection.errors import UserError
from violence_detection.settings.constants import CLIP_TIMEOUT
from violence_detection.settings.setting import Check, flag
from violence_detection.settings.values import finite, folder_or_url, format_value

Flags = argparse._ActionsContainer  # a parser, or a group of its flags

PROBABILITY: Check = (lambda value: 0 <= value <= 1, "must be from 0 to 1")


def add_checkpoint_dir(flags: Flags) -> None:
    """Add `--checkpoint-dir`: the trained detector."""
    flags.add_argument(
        "--checkpoint-dir",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help="checkpoint directory of a finished training (default: checkpoints)",
    )


def add_verify(flags: Flags) -> None:
    """Add `--verify`: whose signature the detector must have."""
    flags.add_argument(
        "--verify",
        type=Path,
        metavar="KEY",
        help="public key, a PEM file, of the signature that the detector must have (default: "
        "none is asked for)",
    )


def add_vgg19_weights(flags: Flags) -> None:
    """Add `--vgg19-weights`, which is None unless given."""
    flags.add_argument(
        "--vgg19-weights",
        "--backbone-weights",
        metavar="NAME|FILE",
        help="weights of the training's backbone, if they have moved since: imagenet, random or "
        "the path of a file (default: as in training)",
    )


def add_threshold(flags: Flags) -> None:
    """Add `--threshold`, which is None unless given."""
    flags.add_argument(
        "--threshold",
        type=finite,
        metavar="P",
        help="decision threshold: a clip with at least this probability is predicted violent "
        "(default: as chosen in training)",
    )


def add_clip_timeout(flags: Flags) -> None:
    """Add `--clip-timeout`, in seconds."""
    flags.add_argument(
        "--clip-timeout",
        type=finite,
        default=CLIP_TIMEOUT,
        metavar="SECONDS",
        help=f"time limit for reading a clip (default: {CLIP_TIMEOUT:g})",
    )


def add_folder_or_url(flags: Flags, name: str, content: str) -> None:
    """Add a flag that names a folder or a URL that the training used, None unless given.

    Args:
        name: the flag, with its dashes.
        content: what the folder contains, for the help.
    """
    flags.add_argument(
        name,
        type=folder_or_url,
        metavar="DIR|URL",
        help=f"{content}, if moved since the training (default: as in training)",
    )


def add_devices(flags: Flags) -> None:
    """Add `--mixed-precision` and `--replicas`, which are None unless given."""
    flags.add_argument(
        "--mixed-precision",
        action=argparse.BooleanOptionalAction,
        help="compute VGG19 in float16 on a GPU, in bfloat16 on a CPU that has it (default: as "
        "in training if this device supports it, else float32)",
    )
    flags.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="number of GPUs to use, or without a GPU, of parts to split the CPU into (default: "
        "all GPUs, or 1)",
    )


def add_debug(flags: Flags) -> None:
    """Add `--debug`."""
    flags.add_argument(
        "--debug",
        action="store_true",
        help="show errors with their traceback, and FFmpeg's messages (default: off)",
    )


def examples_and_exit_status(examples: Iterable[str], statuses: dict[int, str]) -> str:
    """Return the end of a command's help.

    Args:
        examples: the arguments of example commands.
        statuses: what each exit status of the command means.
    """
    lines = ["examples:", *(f"  %(prog)s {example}".rstrip() for example in examples)]
    lines += ["", "exit status:", *(f"  {number:<3}  {text}" for number, text in statuses.items())]
    return "\n".join(lines)


def check_values(flags: argparse.Namespace, **checks: Check) -> None:
    """Raise `UserError` if the value of a flag that was given is out of its range.

    Args:
        checks: what must be true of each value, by the flag's name in `flags`.
    """
    for name, (is_allowed, rule) in checks.items():
        value = getattr(flags, name)
        if value is not None and not is_allowed(value):
            raise UserError(f"{flag(name)} {format_value(value)}: {rule}")


def check_output_file(name: str, path: Path) -> None:
    """Raise `UserError` unless `path`, the value of the flag `name`, can name a new file."""
    if path.is_dir():
        raise UserError(f"{name} {path}: is a folder; give the path of a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{name} {path}: its folder does not exist")
