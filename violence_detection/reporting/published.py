"""What of a finished run may leave this machine: the detector, its card, and no path or picture."""

import shutil
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError, failing_as
from violence_detection.reporting.model_card import write_model_card
from violence_detection.runs.files import CONFIG, DETECTOR, MODEL_CARD, MODEL_CARD_JSON
from violence_detection.settings.schema import FIELDS, Settings
from violence_detection.storage.files import read_json, write_json

CARD_ON_THE_HUB = "README.md"
LOCAL_SETTINGS = ("mlflow", "wandb")  # addresses, with passwords maybe


def copy_published(folder: Path, target: Path) -> list[str]:
    """Copy the files of a detector that others may have; `predict.py` takes the copy.

    Args:
        folder: the checkpoint directory of a finished run; its model card is written anew.
        target: an empty folder.

    Returns:
        The names of the files.

    Raises:
        UserError: the run is not finished, or a file is missing or damaged.
        RunError: a file cannot be read or written.
    """
    write_model_card(folder)
    model = read_json(folder / DETECTOR)["model"]
    if not (folder / model).is_file():
        raise UserError(f"{folder / model} is missing: restore it, or train again with --fresh")
    copies = {
        MODEL_CARD: CARD_ON_THE_HUB,
        **{name: name for name in (MODEL_CARD_JSON, model, DETECTOR)},
    }
    for name, copy in copies.items():
        with failing_as(target / copy):
            shutil.copyfile(folder / name, target / copy)
    config = read_json(folder / CONFIG)
    public = {name: _without_folders(name, value) for name, value in config["settings"].items()}
    kept = ("precision", "versions", "git_commit", "started")
    write_json(
        target / CONFIG,
        {"settings": public, **{name: config[name] for name in kept if name in config}},
    )
    return [*copies.values(), CONFIG]


def _without_folders(name: str, value: Any) -> Any:
    """Return a setting without the folders above a file, and without a service's address."""
    if name in LOCAL_SETTINGS:
        return None
    is_place = name not in FIELDS or isinstance(Settings().by_name()[name], Path)
    if isinstance(value, str) and (is_place or "/" in value):
        return ",".join(Path(part).name for part in value.split(","))
    return value
