"""Flags of a command from a file: `--config FILE`, JSON by the flags' names."""

import argparse
import difflib
import json
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError
from violence_detection.settings.parser import FlagParser, read_json_object
from violence_detection.settings.setting import flag

SECRETS = ("token",)


def add_config(flags: argparse._ActionsContainer) -> None:
    """Add `--config`."""
    flags.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help='flags from a JSON file by their names, such as {"port": 9000}; those on the '
        "command line take precedence",
    )


def parse_with_config(
    parser: FlagParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Return the flags of a command line and of the file that its `--config` names.

    Args:
        parser: with `--config`.
        arguments: without the program's name; None: those of this process.

    Raises:
        UserError: the file cannot be read, or has something that is no flag's value; it has a
            token, and others may read it.
        SystemExit: a flag is unknown or its value cannot be read; status 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    path = parser.parse_args(arguments).config
    if path is not None:
        parser.set_defaults(**_values_in(path, parser))
    return parser.parse_args(arguments)


def _values_in(path: Path, parser: FlagParser) -> dict[str, Any]:
    try:
        given = read_json_object(path)
        # argparse has no public list of its flags.
        actions = {action.dest: action for action in parser._actions if action.dest != "config"}
        values = {}
        for key, value in given.items():
            name = key.removeprefix("--").replace("-", "_")
            if name not in actions:
                near = difflib.get_close_matches(name, actions, 1)
                hint = f": did you mean {near[0]}?" if near else ""
                raise UserError(f"{key!r} is not a flag of this command{hint}")
            values[name] = _converted(name, value, actions[name])
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from error
    if any(values.get(name) for name in SECRETS) and path.stat().st_mode & (
        stat.S_IRGRP | stat.S_IROTH
    ):
        raise UserError(f"--config {path}: has a token, and others may read it: chmod 600 {path}")
    return values


def _converted(name: str, value: Any, action: argparse.Action) -> Any:
    """Return a value as the flag's own would be.

    Raises:
        UserError: it is of another type.
    """
    wrong = UserError(f"{name} {json.dumps(value)}: is not a value of {flag(name)}")
    if action.nargs == 0:  # on or off
        if not isinstance(value, bool):
            raise wrong
        return value
    several = isinstance(action, argparse._AppendAction)
    if several != isinstance(value, list) or isinstance(value, dict | bool):
        raise wrong
    convert = action.type if callable(action.type) else str
    try:
        found = [convert(str(each)) for each in (value if several else [value])]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise wrong from error
    if action.choices is not None and any(each not in action.choices for each in found):
        raise wrong
    return found if several else found[0]
