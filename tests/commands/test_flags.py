import re
from pathlib import Path

import pytest

from violence_detection.commands.flags import (
    PROBABILITY,
    add_checkpoint_dir,
    add_clip_timeout,
    add_debug,
    add_devices,
    add_threshold,
    add_vgg19_weights,
    check_output_file,
    check_values,
)
from violence_detection.errors import UserError
from violence_detection.settings.parser import FlagParser
from violence_detection.settings.setting import ABOVE_0, AT_LEAST_1


@pytest.fixture
def parser() -> FlagParser:
    parser = FlagParser(prog="command")
    for add in (add_checkpoint_dir, add_vgg19_weights, add_threshold, add_clip_timeout):
        add(parser)
    for add in (add_devices, add_debug):
        add(parser)
    return parser


def test_what_is_not_given_is_as_in_training(parser: FlagParser) -> None:
    flags = parser.parse_args([])
    assert flags.checkpoint_dir == Path("checkpoints")
    assert not flags.debug
    names = ("vgg19_weights", "threshold", "mixed_precision", "replicas")
    assert [getattr(flags, name) for name in names] == [None] * 4
    check_values(flags, threshold=PROBABILITY, replicas=AT_LEAST_1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "1.5"], "--threshold 1.5: must be from 0 to 1"),
        (["--threshold", "-0.1"], "--threshold -0.1: must be from 0 to 1"),
        (["--clip-timeout", "0"], "--clip-timeout 0: must be above 0"),
        (["--replicas", "0"], "--replicas 0: must be 1 or more"),
    ],
)
def test_a_value_out_of_its_range_is_named(
    parser: FlagParser, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_values(
            parser.parse_args(arguments),
            threshold=PROBABILITY,
            clip_timeout=ABOVE_0,
            replicas=AT_LEAST_1,
        )


@pytest.mark.parametrize("threshold", ["0", "0.5", "1"])
def test_the_limits_of_a_range_are_allowed(parser: FlagParser, threshold: str) -> None:
    check_values(parser.parse_args(["--threshold", threshold]), threshold=PROBABILITY)


def test_an_output_file_needs_its_folder(tmp_path: Path) -> None:
    check_output_file("--output", tmp_path / "rows.csv")
    with pytest.raises(UserError, match=r"^--output .*rows\.csv: its folder does not exist"):
        check_output_file("--output", tmp_path / "gone" / "rows.csv")
    with pytest.raises(UserError, match=r"^--plot .*: is a folder"):
        check_output_file("--plot", tmp_path)
