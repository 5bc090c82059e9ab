"""A grid: every combination of some settings' values, from a JSON file of lists."""

import itertools
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from violence_detection.clips.clip import Clip
from violence_detection.clips.splits import fingerprint
from violence_detection.errors import UserError
from violence_detection.experiments.search import Score
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.settings.parser import read_json_object
from violence_detection.settings.schema import (
    CHANGES_ON_RESUME,
    IN_GRID,
    Settings,
    from_mapping,
    setting_named,
)
from violence_detection.settings.setting import flag
from violence_detection.settings.values import format_value
from violence_detection.storage.files import read_json, write_csv, write_json

log = logging.getLogger(__name__)

FORMAT = 'a grid has lists of values, {"dropout": [0.2, 0.5], ...}'
RESULTS, STATE = "grid.csv", "grid.json"


def read_grid(path: Path) -> list[dict[str, Any]]:
    """Return every combination of a JSON file of lists, `{"dropout": [0.2, 0.5], ...}`.

    In the file's order, the last setting's values change fastest; repeated combinations are left
    out. A setting may be spelled like its flag. Only settings that use the same features may vary.

    Args:
        path: of the JSON file.

    Returns:
        The values of each combination by the setting's name.

    Raises:
        UserError: the file cannot be read, a name is not a setting or cannot vary in a grid, or a
            value is not valid for its setting.
    """
    try:
        lists = read_json_object(path)
        for key, values in lists.items():
            if setting_named(key) not in IN_GRID:
                raise UserError(f"{key} cannot vary in a grid: set it on the command line")
            if not isinstance(values, list) or not values:
                raise UserError(f"{key} {json.dumps(values)} is not a list of values: {FORMAT}")
        products = itertools.product(*lists.values())
        combinations = [from_mapping(dict(zip(lists, c, strict=True))) for c in products]
    except UserError as error:
        raise UserError(f"--grid {path}: {error}") from error
    return [c for number, c in enumerate(combinations) if c not in combinations[:number]]


def try_grid(
    settings: Settings,
    combinations: Sequence[dict[str, Any]],
    score: Score,
    clips: Sequence[Clip],
    folder: Path,
) -> dict[str, Any]:
    """Score every combination of a grid and return the best one; resumes an interrupted grid.

    Args:
        settings: of the other settings.
        combinations: values by name, as `read_grid` returns them.
        score: scores settings; higher is better, nan if training diverged.
        clips: that are scored on.
        folder: where results and state are written.

    Raises:
        UserError: training diverged for every combination.
        RunError: a file cannot be written.
    """
    free = {*combinations[0], *CHANGES_ON_RESUME}
    fixed = {name: value for name, value in settings.as_json().items() if name not in free}
    identity = {"settings": fixed, "clips": fingerprint(clips)}
    state = folder / STATE
    done = read_json(state) if state.exists() else {}
    scores = done["scores"] if done.get("identity") == identity else {}
    for number, values in enumerate(combinations, start=1):
        raise_if_interrupted()
        name = json.dumps(values)
        if name not in scores:
            changed = settings.replace(**values)
            area = score(changed, lambda *_: None)
            scores[name] = None if math.isnan(area) else area
            write_json(state, {"identity": identity, "scores": scores})
        log.info(
            "combination %d of %d: %s, %s",
            number,
            len(combinations),
            " ".join(f"{flag(setting)} {format_value(v)}" for setting, v in values.items()),
            "diverged" if scores[name] is None else f"ROC-AUC {scores[name]:.3f}",
        )
    areas = [scores[json.dumps(values)] for values in combinations]
    rows = [
        (*values.values(), "" if area is None else f"{area:.6f}")
        for values, area in zip(combinations, areas, strict=True)
    ]
    write_csv(folder / RESULTS, (*combinations[0], "roc_auc"), rows)
    log.info("grid results: %s", folder / RESULTS)
    if all(area is None for area in areas):
        raise UserError(
            f"--grid {settings.experiment.grid}: training diverged for every combination: try "
            "a lower learning_rate"
        )
    best = max(range(len(areas)), key=lambda index: -1 if areas[index] is None else areas[index])
    return combinations[best]
