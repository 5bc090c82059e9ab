"""A detector that may come from elsewhere: its files are checked before anything is loaded."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.runs.files import DETECTOR

MODEL_LIMIT = 4 * 2**30  # bytes of a model when it is unpacked
WIDTH_LIMIT = 2**20  # of a layer
WIDTHS = ("units", "filters", "input_dim", "output_dim", "key_dim", "num_heads")
RESTORE = "restore it, or train again with --fresh"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# What each value of `detector.json` must be, and the same in words.
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (
        lambda value: isinstance(value, str) and value == Path(value).name and value != "..",
        "the name of a file in this folder",
    ),
    "model_checksum": (lambda value: isinstance(value, str), "a checksum"),
    "frames": (lambda value: type(value) is int and 0 < value < WIDTH_LIMIT, "a number above 0"),
    "temperature": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "threshold": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "chosen_for": (lambda value: isinstance(value, str), "a text"),
}


def check_detector_file(folder: Path, saved: dict[str, Any]) -> tuple[Recipe, ...]:
    """Check the content of `detector.json`; return the recipes of its features.

    Args:
        folder: that it lies in.
        saved: its content.

    Raises:
        UserError: something is missing or cannot be; the model is outside the folder.
    """
    path = folder / DETECTOR
    for name, (is_right, words) in CHECKS.items():
        if name not in saved:
            raise UserError(f"{path}: {name} is missing: {RESTORE}")
        if not is_right(saved[name]):
            raise UserError(f"{path}: {name} is {saved[name]!r}, not {words}: {RESTORE}")
    if (folder / saved["model"]).resolve().parent != folder:
        raise UserError(f"{path}: {saved['model']} is a link out of this folder: {RESTORE}")
    try:
        recipes = tuple(Recipe(**recipe) for recipe in saved["features"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: features are not those of a detector: {RESTORE}") from error
    if not recipes:
        raise UserError(f"{path}: features are missing: {RESTORE}")
    return recipes


def check_model_file(model: Path) -> None:
    """Check that a model takes a moderate amount of memory, before it is loaded.

    Raises:
        UserError: it is no file of Keras, or would take gigabytes.
    """
    try:
        with zipfile.ZipFile(model) as archive:
            size = sum(part.file_size for part in archive.infolist())
            if size > MODEL_LIMIT:
                raise UserError(
                    f"{model}: unpacks to {size / 2**30:.1f} GiB, more than the "
                    f"{MODEL_LIMIT / 2**30:.0f} GiB that a detector may have"
                )
            config = json.loads(archive.read("config.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{model}: is not a file of Keras ({error}): {RESTORE}") from error
    for name, width in _widths(config):
        if width > WIDTH_LIMIT:
            raise UserError(f"{model}: has a layer with {name} {width:,}, more than a detector has")


def _widths(config: Any) -> Iterator[tuple[str, int]]:
    """Yield the widths of the layers of a configuration, by name."""
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
            yield from ((name, item[name]) for name in WIDTHS if type(item.get(name)) is int)
