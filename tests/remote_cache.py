"""Caches in a store whose clips are numbers, and whose features are the number of their clip."""

import numpy as np

from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.transfer import LocalCache

RECIPE = Recipe(frames=4, layer="block1_conv1", weights="random-0", features=64, dtype="float16")
ROW_BYTES = 4 * 64 * 2


def add(cache: LocalCache, first: int, count: int) -> None:
    """Store the features of `count` clips, numbered from `first`, without uploading them."""
    with CacheFolder(cache.path) as folder:
        features = FeatureCache(folder, RECIPE)
        clips = [number.to_bytes(16) for number in range(first, first + count)]
        values = np.arange(first, first + count, dtype=np.float16)
        features.store(clips, np.broadcast_to(values[:, None, None], (count, 4, 64)))
        features.commit()


def found(cache: LocalCache) -> list[float]:
    """Return the numbers of the clips in a cache, ascending, read from their features."""
    with CacheFolder(cache.path) as folder:
        features = FeatureCache(folder, RECIPE)
        rows = [row for n in range(99) if (row := features.row_of(n.to_bytes(16))) is not None]
        return sorted(features.rows().read(rows)[:, 0, 0].tolist()) if rows else []
