"""What exported files are compared on: a run's validation clips, and the original's predictions."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from violence_detection.clips.locations import dataset_locations
from violence_detection.export.inputs import Inputs
from violence_detection.export.validation_clips import Sources, cached_features, load_inputs
from violence_detection.features.cache.transfer import LocalCache
from violence_detection.inference.detector import ClassifierOutput, Detector
from violence_detection.runs.files import CONFIG
from violence_detection.settings.schema import Settings
from violence_detection.settings.values import folder_or_url
from violence_detection.storage.files import read_json

VALIDATION_CLIPS_END_TO_END = 32  # on two cores, VGG19 takes seconds per clip
CALIBRATION_CLIPS, CALIBRATION_CLIPS_END_TO_END = 200, 8


@dataclass(frozen=True)
class ComparisonData:
    """What files are compared on, and what int8 ranges are measured on; one clip each."""

    validation: list[Inputs]
    labels: np.ndarray  # (validation clips,), 1 is violent
    trained_in: str  # number format
    as_trained: ClassifierOutput | None  # in `trained_in`; None: float32, or features not cached
    calibration: list[Inputs]


@dataclass(frozen=True)
class MovedFolders:
    """Where folders of the training are now; None: where they were."""

    dataset_path: Path | str | None = None
    cache_dir: Path | str | None = None
    spool_dir: Path | None = None


def load_comparison_data(
    detector: Detector,
    moved: MovedFolders,
    *,
    end_to_end: bool,
    calibrate: bool,
    clips: int | None,
    clip_timeout: float,
) -> ComparisonData:
    """Return what files are compared on, from the run's feature cache or else its clips.

    Args:
        detector: of the run.
        moved: where to find both.
        end_to_end: whether files start from images instead of features.
        calibrate: whether training clips are needed, to measure ranges of int8.
        clips: how many validation clips, evenly chosen; None: all, or
            `VALIDATION_CLIPS_END_TO_END`.
        clip_timeout: seconds that reading a clip may take.

    Raises:
        UserError: there are neither features nor clips.
    """
    config = read_json(detector.checkpoint_dir / CONFIG)
    settings, defaults = config["settings"], Settings().data
    spool_dir = moved.spool_dir or Path(settings.get("spool_dir", defaults.spool_dir))
    spool_size = settings.get("spool_size", defaults.spool_size)
    cache_dir = moved.cache_dir or folder_or_url(settings["cache_dir"])
    dataset_path = moved.dataset_path or folder_or_url(settings["dataset_path"])
    with contextlib.ExitStack() as stack:
        cache = LocalCache(cache_dir, spool_dir)
        locations = stack.enter_context(dataset_locations(dataset_path, spool_dir, spool_size))
        sources = Sources(cache.path, locations, clip_timeout)
        count = clips or (VALIDATION_CLIPS_END_TO_END if end_to_end else None)
        compared, validation = load_inputs(detector, "val", count, sources, end_to_end)
        as_trained = None
        if config["precision"] != "float32":
            cached = cached_features(detector, compared, cache.path)
            if len(cached) == len(compared):
                features = np.stack([cached[clip] for clip in compared])
                as_trained = detector.predict_features(features)
        calibration: list[Inputs] = []
        if calibrate:
            count = CALIBRATION_CLIPS_END_TO_END if end_to_end else CALIBRATION_CLIPS
            _, calibration = load_inputs(detector, "train", count, sources, end_to_end)
    labels = np.array([clip.label for clip in compared])
    return ComparisonData(validation, labels, config["precision"], as_trained, calibration)
