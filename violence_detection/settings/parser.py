"""The training command's flags: one per setting, in the settings' groups."""

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from violence_detection.errors import UserError
from violence_detection.settings.checks import check_settings
from violence_detection.settings.constants import (
    CACHED_BELOW,
    FEATURES,
    LAST_LAYER,
    ONNX,
    VGG19,
)
from violence_detection.settings.data import FeatureSettings
from violence_detection.settings.kinds import MODEL_DEFAULTS
from violence_detection.settings.schema import Settings, from_mapping
from violence_detection.settings.setting import flag, setting_of
from violence_detection.settings.values import format_value

# What a demo changes: a few minutes on two CPU cores, everything under ./demo.
DEMO_DEFAULTS = {
    "dataset_path": Path("demo/clips"),
    "cache_dir": Path("demo/feature_cache"),
    "checkpoint_dir": Path("demo/checkpoints"),
    "vgg19_weights": "random",
    "feature_layer": "block1_conv1",
    "epochs": 30,
    "batch_size": 16,
    "warmup_epochs": 3,
    "folds": 1,
}
EXAMPLES = """\
examples:
  %(prog)s --demo
  %(prog)s --dataset-path clips --mixed-precision --xla
  %(prog)s --dataset-path clips --cross-validate 5
  %(prog)s --dataset-path clips --threshold-for recall=0.95
"""


class FlagParser(argparse.ArgumentParser):
    """argparse with one-line errors, which name the nearest flag for an unknown one.

    Args:
        settings: of `argparse.ArgumentParser`; abbreviations of flags are not accepted.
    """

    def __init__(self, **settings: Any):
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings | {"allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line; exit status 2."""
        self.exit(2, f"error: {self.explained(message)} (all flags: {self.prog} --help)\n")

    def explained(self, message: str) -> str:
        """Return a message of argparse's; about an unknown flag, with the nearest one."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = f"unknown argument {unknown}"
            name = unknown.split()[0].partition("=")[0]
            # argparse has no public list of its flags.
            near = difflib.get_close_matches(name, self._option_string_actions, 1)
            if name.startswith("-") and near:
                message = f"unknown flag {name}: did you mean {near[0]}?"
        return message


def make_parser(kind: type[FlagParser] = FlagParser) -> FlagParser:
    """Return the parser of the training command: one flag per setting.

    Args:
        kind: of parser; it decides what becomes of an error.
    """
    parser = kind(
        usage="%(prog)s --dataset-path DIR [flags]\n       %(prog)s --demo [flags]",
        description="Train a violence detector on a folder of labelled video clips.",
        epilog=EXAMPLES,
    )
    for group in Settings().groups.values():
        section = parser.add_argument_group(group.TITLE)
        for item in dataclasses.fields(group):
            _add_flag(section, item)
    return parser


def _add_flag(section: argparse._ArgumentGroup, item: dataclasses.Field) -> None:
    known = setting_of(item)
    options = dict(known.flag)
    help_text = known.help
    if item.default is not None:
        help_text += f" (default: {format_value(item.default)})"
    takes_value = "choices" in options  # of a switch: --xla, --no-xla and --xla=all
    if isinstance(item.default, bool):
        only_switch = {"action": argparse.BooleanOptionalAction}
        options |= {"nargs": "?", "const": True} if takes_value else only_switch
    names = flag(item.name), *options.pop("aliases", ())
    section.add_argument(*names, default=item.default, help=help_text, **options)
    if isinstance(item.default, bool) and takes_value:
        section.add_argument(
            f"--no-{names[0].removeprefix('--')}",
            dest=item.name,
            action="store_false",
            default=argparse.SUPPRESS,
            help=f"undo {names[0]}, as in a --config file",
        )
    if item.name == "resume":
        section.add_argument(
            "--fresh",
            dest="resume",
            action="store_false",
            default=argparse.SUPPRESS,
            help="set an earlier run in --checkpoint-dir aside (renamed, never deleted) and start "
            "a new run",
        )


def parse_settings(
    arguments: Sequence[str] | None = None, kind: type[FlagParser] = FlagParser
) -> Settings:
    """Return the checked settings of a command line.

    Args:
        arguments: without the program's name; None: those of this process.
        kind: of parser, as of `make_parser`.

    Raises:
        UserError: a value is out of its range, or two settings contradict each other.
        SystemExit: a flag is unknown or its value cannot be read; status 2.
    """
    parser = make_parser(kind)
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(arguments)
    from_file = read_config(given.config) if given.config else {}
    parser.set_defaults(**from_file)
    if parser.parse_args(arguments).demo:
        parser.set_defaults(**DEMO_DEFAULTS | from_file)
    chosen = parser.parse_args(arguments)
    if chosen.model != FEATURES:
        parser.set_defaults(**MODEL_DEFAULTS[chosen.model] | from_file)
    elif chosen.fine_tune != "none":
        layer, pooling = CACHED_BELOW[chosen.fine_tune]
        below = {"feature_layer": layer, "feature_pooling": pooling}
        parser.set_defaults(**below | from_file)
    elif chosen.backbone != VGG19 and "feature_layer" not in from_file:
        usual = [FeatureSettings().feature_layer, LAST_LAYER]
        layers = [usual[name != VGG19] for name in chosen.backbone.split(",")]
        parser.set_defaults(feature_layer=",".join(layers))
    values = vars(parser.parse_args(arguments))
    if "warmup_epochs" not in from_file and not _is_given("--warmup-epochs", arguments):
        values["warmup_epochs"] = _shortened(values["warmup_epochs"], values["epochs"])
    if values["class_weights"] is not None:
        values["class_weights"] = tuple(values["class_weights"])
    values["backbone"], values["vgg19_weights"] = _named_files(
        values["backbone"], values["vgg19_weights"]
    )
    settings = Settings().replace(**values)
    check_settings(settings)
    return settings


def _is_given(name: str, arguments: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] == name for argument in arguments)


def _shortened(warmup: int, epochs: int) -> int:
    """Return how many epochs the default warm-up takes: half of them if there are too few."""
    if epochs > warmup:
        return warmup
    shorter = max(0, epochs // 2)
    if epochs >= 1:  # else that is what will be said
        print(
            f"--epochs {epochs}: the warm-up is shortened from {warmup} epochs to {shorter} "
            "(--warmup-epochs)",
            file=sys.stderr,
        )
    return shorter


def _named_files(backbones: str, weights: str) -> tuple[str, str]:
    """Return backbones by name and files of weights by absolute path, several with commas.

    A backbone in an ONNX file is known by the file's name, wherever it is; the file is its weights.
    """
    names, files = backbones.split(","), weights.split(",")
    if any(name.endswith(ONNX) for name in names) and len(files) in (1, len(names)):
        files = [
            name if name.endswith(ONNX) and not file.endswith(ONNX) else file
            for name, file in zip(names, files * (len(names) // len(files)), strict=True)
        ]
    elif Path(weights).is_file():  # whatever its name has in it
        files = [weights]
    absolute = (str(Path(file).resolve()) if Path(file).is_file() else file for file in files)
    return ",".join(Path(n).name if n.endswith(ONNX) else n for n in names), ",".join(absolute)


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of a `--config` file by name; a null leaves a setting at its default.

    Raises:
        UserError: it is no JSON object of settings.
    """
    try:
        values = read_json_object(path)
        return from_mapping({name: value for name, value in values.items() if value is not None})
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that a person wrote; raises `UserError`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or not values:
        raise UserError("is not a JSON object of settings by name")
    return values
