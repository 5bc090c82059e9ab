"""The detector in a run's checkpoint directory: found and checked without loading TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.models.vgg19_weights import identify_weights
from violence_detection.runs.files import CONFIG, DETECTOR
from violence_detection.runs.received import check_detector_file, check_model_file
from violence_detection.settings.constants import PIXELS
from violence_detection.settings.setting import weights_flag
from violence_detection.storage.files import file_checksum, file_sha256, read_json


@dataclass(frozen=True)
class SavedDetector:
    """What `detector.json` says, and the weights to use."""

    checkpoint_dir: Path  # absolute
    model_path: Path
    model_checksum: str  # hexadecimal
    recipes: tuple[Recipe, ...]  # of a frame's features, in their order: of streams and backbones
    frames: int  # per clip, as the classifier takes them
    temperature: float
    threshold: float  # a clip is violent if its calibrated probability is at least this
    chosen_for: str
    weights: dict[tuple[str, str, str], str]  # "imagenet", "random" or a path, by the `network`
    computation: str  # dtype of VGG19's arithmetic
    clip_seconds: float | None  # the usual length of a training clip; None: unknown

    @cached_property
    def model_sha256(self) -> str:
        """The SHA-256 checksum of the model's file, hexadecimal."""
        return file_sha256(self.model_path)


def find_detector(checkpoint_dir: Path, vgg19_weights: str | None = None) -> SavedDetector:
    """Return the detector of a finished run.

    Args:
        checkpoint_dir: the run's folder.
        vgg19_weights: "imagenet", "random" or a file's path, of several backbones with commas;
            None: those of the run.

    Raises:
        UserError: the folder has no finished run; its files are not those of a detector; its model
            is missing or not the one that was tested; the VGG19 weights are missing or not those of
            the run.
    """
    folder = checkpoint_dir.expanduser().resolve()
    require_finished_run(folder, checkpoint_dir)
    saved, config = read_json(folder / DETECTOR), read_json(folder / CONFIG)
    recipes = check_detector_file(folder, saved)
    model_path = folder / saved["model"]
    _require_tested_model(model_path, saved["model_checksum"])
    check_model_file(model_path)
    weights = _weights_of(recipes, vgg19_weights or config["settings"]["vgg19_weights"])
    for recipe in {recipe.network: recipe for recipe in recipes}.values():
        _require_same_weights(weights[recipe.network], recipe)
    return SavedDetector(
        checkpoint_dir=folder,
        model_path=model_path,
        model_checksum=saved["model_checksum"],
        recipes=recipes,
        frames=saved["frames"],
        temperature=saved["temperature"],
        threshold=saved["threshold"],
        chosen_for=saved["chosen_for"],
        weights=weights,
        computation=config["precision"],
        clip_seconds=saved.get("clip_seconds"),
    )


def require_finished_run(folder: Path, named: Path) -> None:
    """Raise `UserError` if a folder, which the user gave as `named`, has no detector."""
    if not folder.is_dir():
        raise UserError(f"--checkpoint-dir {named}: no such folder")
    if (folder / DETECTOR).is_file():
        return
    if (folder / CONFIG).exists():
        raise UserError(
            f"--checkpoint-dir {named}: the run has not finished ({DETECTOR} is missing). Run its "
            "training command again to resume it"
        )
    raise UserError(
        f"--checkpoint-dir {named}: not a run's folder ({DETECTOR} is missing). Name the "
        "--checkpoint-dir of a finished training run"
    )


def _require_tested_model(model: Path, checksum: str) -> None:
    if not model.is_file():
        raise UserError(f"{model} is missing: restore it, or train again with --fresh")
    if file_checksum(model).hex() != checksum:
        raise UserError(
            f"{model} is not the model that was tested (its checksum differs from that in "
            f"{DETECTOR}): restore it, or train again with --fresh"
        )


def _weights_of(recipes: Sequence[Recipe], named: str) -> dict[tuple[str, str, str], str]:
    """Return the weights of each network, as a flag or a run's settings name them."""
    networks = list(dict.fromkeys(r.network for r in recipes if r.backbone != PIXELS))
    files = named.split(",") if len(networks) > 1 else [named]
    if len(files) not in (1, len(networks)):
        raise UserError(
            f"--backbone-weights {named}: names {len(files)}, but the detector has "
            f"{', '.join(name for name, _, _ in networks)}"
        )
    files *= len(networks) if len(files) == 1 else 1
    return {r.network: "none" for r in recipes} | dict(zip(networks, files, strict=True))


def _require_same_weights(weights: str, recipe: Recipe) -> None:
    found = identify_weights(weights, recipe.layer, recipe.backbone)
    if found != recipe.weights:
        raise UserError(
            f"{weights_flag(recipe.backbone)} {weights} is {found}, but the detector was trained "
            f"with {recipe.weights}: name those weights"
        )
