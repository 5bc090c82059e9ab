"""A grid: every combination of some settings' values, from a JSON file of lists."""

import itertools
import json
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError
from violence_detection.settings.parser import read_json_object
from violence_detection.settings.schema import IN_GRID, from_mapping, setting_named

FORM = 'it holds lists of values, {"dropout": [0.2, 0.5], ...}'


def read_grid(path: Path) -> list[dict[str, Any]]:
    """Return every combination of a JSON file of lists, `{"dropout": [0.2, 0.5], ...}`.

    In the file's order, the last setting's values change fastest; a value that is repeated counts
    once. A setting may be spelled as its flag. What varies is what the same features serve.

    Raises:
        UserError: it is no such file, a name is no setting or none of a grid, or a value cannot be
            one of it.
    """
    try:
        lists = read_json_object(path)
        for key, values in lists.items():
            if setting_named(key) not in IN_GRID:
                raise UserError(f"{key} cannot vary in a grid: give it on the command line")
            if not isinstance(values, list) or not values:
                raise UserError(f"{key} {json.dumps(values)} is not a list of values: {FORM}")
        products = itertools.product(*lists.values())
        combinations = [from_mapping(dict(zip(lists, c, strict=True))) for c in products]
    except UserError as error:
        raise UserError(f"--grid {path}: {error}") from error
    return [c for number, c in enumerate(combinations) if c not in combinations[:number]]
