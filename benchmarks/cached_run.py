"""The training command on a large cache: seconds to the first step, and its peak of memory.

The clips are files of a few bytes that are never decoded, since their features are in the cache: a
page of random values each, followed by zeros, in a sparse file.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.features.cache.parts import (
    KEYS,
    ROW_FIELDS,
    ROWS,
    as_keys,
    record_type,
    write_keys,
)
from violence_detection.features.cache.rows import row_checksum
from violence_detection.models.vgg19_weights import feature_size, identify_weights
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import file_checksum

SCRIPT = Path(__file__).parent.parent / "train_rtx5000_dual_optimized.py"
HELP_ROUNDS = 5
STARTUP_CLIPS = 10_000
SMALL, LARGE = 2_000, 100_000  # clips
PAGE = 2048  # values of a row that are not zero
STREAM = "rgb"  # one, as the sizes of the report are of one
LAYER = "fc2"  # the most values
FIRST_STEP = "first step after"  # in the command's output


def measure_startup(folder: Path) -> dict[str, Any]:
    """Return the seconds of `--help` and those from the command to its first training step."""
    help_seconds = []
    for _ in range(HELP_ROUNDS):
        started = time.perf_counter()
        subprocess.run([sys.executable, SCRIPT, "--help"], check=True, capture_output=True)
        help_seconds.append(time.perf_counter() - started)
    dataset = cached_dataset(folder, STARTUP_CLIPS)
    started = time.perf_counter()
    process = start_training(dataset, folder)
    assert process.stdout is not None
    first_step = next((line for line in process.stdout if FIRST_STEP in line), None)
    seconds = time.perf_counter() - started
    process.kill()
    process.communicate()
    if first_step is None:
        raise RuntimeError("the training command ended before its first step")
    return {
        "help_seconds": sorted(help_seconds)[HELP_ROUNDS // 2],
        "clips": STARTUP_CLIPS,
        "first_step_seconds": seconds,
    }


def measure_memory(folder: Path) -> dict[str, Any]:
    """Return the peak resident memory of an epoch of the training command, small and large."""
    peaks, sizes = {}, {}
    for clips in (SMALL, LARGE):
        dataset = cached_dataset(folder, clips)
        with (folder / "output").open("w+") as output:
            process = start_training(dataset, folder, output)
            _, status, used = os.wait4(process.pid, 0)
            if status:
                output.seek(0)
                raise RuntimeError(f"the training command failed: {output.read()}")
        # A process inherits the peak of the one that started it.
        if used.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
            raise RuntimeError("the peak may be that of this process")
        peaks[clips] = used.ru_maxrss / 1024
        sizes[clips] = sum(p.stat().st_size for p in dataset.glob("cache/*/*.rows")) / 2**20
    return {
        "peak_mb": {str(clips): peak for clips, peak in peaks.items()},
        "features_mb": {str(clips): size for clips, size in sizes.items()},
        "large_over_small": peaks[LARGE] / peaks[SMALL],
    }


def recipe() -> Recipe:
    """Return the recipe of one stream with random weights, and the command's defaults."""
    features = Settings().replace(dataset_path=Path()).features
    weights, size = identify_weights("random", LAYER), feature_size(LAYER)
    return Recipe(features.frames, LAYER, weights, size, features.feature_dtype, STREAM)


def cached_dataset(
    folder: Path,
    clips: int,
    recipes: Sequence[Recipe] = (),
    write_clip: Callable[[Path, int], object] | None = None,
) -> Path:
    """Return a folder of clips, 80 % to train on, whose features are in its `cache`.

    Args:
        folder: where the folder is made.
        clips: how many.
        recipes: of the features; none: `recipe()`.
        write_clip: writes a clip, given its path and a number; each must differ from the others.
    """
    dataset = folder / f"{clips}_clips"
    splits = {"train": clips * 8 // 10, "val": clips // 10, "test": clips // 10}
    contents: list[bytes] = []
    with CacheFolder(dataset / "cache") as cache_folder:
        for split, count in splits.items():
            for number in range(count):
                path = dataset / "clips" / split / CLASS_NAMES[number % 2] / f"{number}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                if write_clip is None:
                    path.write_text(f"{split} {number}")
                else:
                    write_clip(path, len(contents))
                contents.append(file_checksum(path))
                cache_folder.remember_file(path, file_stamp(path), contents[-1])
        for each in recipes or [recipe()]:
            _draw_rows(FeatureCache(cache_folder, each), contents)
    return dataset


def _draw_rows(cache: FeatureCache, contents: Sequence[bytes]) -> None:
    """Write a part with a row of made-up features for each clip."""
    records = np.zeros(len(contents), record_type(ROW_FIELDS))
    records["key"], records["share"], records["seconds"] = as_keys(contents), 1, 2
    random = np.random.default_rng(0)
    values = np.zeros(cache.row_shape, cache.recipe.dtype)
    drawn = values[0, :PAGE]  # a view
    cache.path.mkdir()
    with (cache.path / f"drawn{ROWS}").open("wb") as file:
        for row in range(len(contents)):
            drawn[:] = random.random(drawn.size, np.float32)
            records["checksum"][row] = row_checksum(values)
            file.seek(row * cache.row_bytes)
            file.write(drawn.tobytes())
        file.truncate(len(contents) * cache.row_bytes)
    write_keys(cache.path / f"drawn{KEYS}", cache.recipe.description, records)


def start_training(
    dataset: Path, folder: Path, stdout: IO[str] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start one epoch of the training command on a cached dataset."""
    return subprocess.Popen(
        [
            *(sys.executable, str(SCRIPT), "--dataset-path", str(dataset / "clips")),
            *("--cache-dir", str(dataset / "cache"), "--vgg19-weights", "random"),
            *("--checkpoint-dir", str(folder / "run"), "--fresh", "--streams", STREAM),
            *("--feature-layer", LAYER),
            *("--epochs", "1", "--warmup-epochs", "0", "--folds", "1"),
            *("--groups", "none"),
        ],
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )
