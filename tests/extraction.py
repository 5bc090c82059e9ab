"""Extraction into a cache, as several processes and machines do it."""

import os
from pathlib import Path

from benchmarks.crash import cached_features
from tests.conftest import ROOT, TRAIN
from tests.warm_start import ForkedProcess
from train_rtx5000_dual_optimized import main
from violence_detection.clips.dataset import find_clips
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.recipe import stored_recipes
from violence_detection.settings.parser import parse_settings
from violence_detection.storage.files import file_checksum

Features = list[dict[str, bytes]]  # for each recipe, of each clip by its name
CLIPS = 28


def flags_of(dataset: Path, cache: Path) -> list[str]:
    """Return the flags of what is extracted here: a stream, and thumbnails."""
    return [
        *("--dataset-path", str(dataset), "--cache-dir", str(cache), "--streams", "difference"),
        *("--vgg19-weights", "random", "--feature-layer", "block1_conv1", "--frames", "4"),
        "--no-mixed-precision",
    ]


def extract(dataset: Path, cache: Path, *flags: str) -> int:
    return main([*flags_of(dataset, cache), "--extract-only", *flags])


def start(dataset: Path, cache: Path, *flags: str, **environment: str) -> ForkedProcess:
    command = [str(TRAIN), *flags_of(dataset, cache), "--extract-only", *flags]
    return ForkedProcess(command, os.environ | environment, merged=True)


def recipes_of(dataset: Path) -> list[Recipe]:
    return stored_recipes(parse_settings(flags_of(dataset, Path("cache"))))


def features_in(dataset: Path, cache: Path) -> Features:
    """Return the features of all clips, as a worker reads them that has computed nothing."""
    clips, found = find_clips(dataset, 0), []
    with CacheFolder(cache, writable=False) as folder:
        for each in [FeatureCache(folder, recipe) for recipe in recipes_of(dataset)]:
            rows = each.rows_of([file_checksum(clip.path) for clip in clips]).tolist()
            assert -1 not in rows
            pairs = zip(clips, each.rows().read(rows), strict=True)
            found.append({clip.name: features.tobytes() for clip, features in pairs})
    return found


def rows_in(cache: Path) -> int:
    """Return how many rows of the stream's features there are, copies included."""
    return len(cached_features(cache, recipes_of(ROOT)[0].key))
