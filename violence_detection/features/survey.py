"""One pass over all features before training: which are damaged, and a summary of each clip.

`leakage` and `checks` compare the summaries: a clip's mean over its frames, and how much its
features change from frame to frame. Memory holds the summaries, never the features.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from sklearn.random_projection import GaussianRandomProjection

from violence_detection.clips.decoders import decoder_count
from violence_detection.features.cache.feature_cache import FeatureCache
from violence_detection.features.cache.rows import FeatureRows, row_checksum

SUMMARY_SIZE = 128  # values; a random projection keeps the distances of larger features
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Survey:
    """The result of a pass over rows of features."""

    damaged: list[int]  # rows whose bytes are not those that were stored
    index_of: dict[int, int]  # from each row to its index in the arrays below
    summaries: np.ndarray  # (rows, values) float32: the mean over the frames
    changes: np.ndarray  # (rows,) float32: median change from frame to frame over mean
    seconds: np.ndarray  # (rows,) float32: lengths of the clips; nan where it is unknown
    shares: np.ndarray  # (rows,) float32: how much of the clips could be read, 0 to 1

    def indices(self, rows: Sequence[int]) -> np.ndarray:
        """Return `(rows,)` int64: the indices of rows in the arrays."""
        return np.array([self.index_of[row] for row in rows], np.int64)


def survey_features(cache: FeatureCache, rows: Sequence[int]) -> Survey:
    """Read rows once, compare each with its checksum, and summarize it.

    Args:
        cache: which has the rows.
        rows: may repeat.

    Raises:
        RunError: a row cannot be read.
    """
    stored = cache.rows()
    projection = _projection(cache.recipe.features)
    ordered = sorted(set(rows))
    parts = [ordered[i : i + ROWS_AT_ONCE] for i in range(0, len(ordered), ROWS_AT_ONCE)]
    size = cache.recipe.features if projection is None else SUMMARY_SIZE
    index_of = {row: index for index, row in enumerate(ordered)}
    summaries = np.empty((len(ordered), size), np.float32)
    changes = np.empty(len(ordered), np.float32)
    survey = Survey([], index_of, summaries, changes, *cache.facts_of(ordered))

    def summarize(part: Sequence[int]) -> list[int]:
        """Fill in the summaries of a part of the rows, and return the damaged ones."""
        indices = slice(index_of[part[0]], index_of[part[0]] + len(part))
        checksums, means, survey.changes[indices] = _summarize(stored, part)
        survey.summaries[indices] = means if projection is None else means @ projection
        return _damaged(cache, part, checksums)

    with ThreadPoolExecutor(decoder_count()) as threads:
        for damaged in threads.map(summarize, parts):
            survey.damaged.extend(damaged)
    return survey


def damaged_rows(cache: FeatureCache, rows: Sequence[int]) -> list[int]:
    """Return the rows whose bytes are not those that were stored; rows elsewhere are left out.

    Args:
        cache: which has the rows.
        rows: may repeat.
    """
    stored = cache.rows()
    here = [row for row in sorted(set(rows)) if stored.has(row)]
    parts = [here[first : first + ROWS_AT_ONCE] for first in range(0, len(here), ROWS_AT_ONCE)]

    def damaged(part: Sequence[int]) -> list[int]:
        return _damaged(cache, part, [row_checksum(stored.read([row])) for row in part])

    with ThreadPoolExecutor(decoder_count()) as threads:
        return [row for found in threads.map(damaged, parts) for row in found]


def _damaged(cache: FeatureCache, rows: Sequence[int], checksums: Sequence[int]) -> list[int]:
    """Return the rows whose checksums are not those that they were stored with."""
    expected = cache.checksums_of(rows)
    return [
        row for row, now, before in zip(rows, checksums, expected, strict=True) if now != before
    ]


def _projection(features: int) -> np.ndarray | None:
    """Return `(features, SUMMARY_SIZE)` float32, from mean to summary; None if means are short.

    By Johnson and Lindenstrauss (1984), the difference of two means keeps its length to within a
    few percent, so that means that are nearly equal stay so, and others do not become so.
    """
    if features <= 2 * SUMMARY_SIZE:
        return None
    projection = GaussianRandomProjection(SUMMARY_SIZE, random_state=0)
    projection.fit(np.zeros((1, features), np.float32))
    return np.ascontiguousarray(projection.components_.T, np.float32)


def _summarize(
    stored: FeatureRows, rows: Sequence[int]
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return the rows' checksums, `(rows, features)` means, and `(rows,)` changes."""
    frames, features = stored.row_shape
    checksums = []
    means, changes = np.empty((len(rows), features), np.float32), np.empty(len(rows), np.float32)
    # Reused for each row: fresh memory would cost as much as the sums.
    values = np.empty((frames, features), np.float32)
    steps = np.empty((frames - 1, features), np.float32)
    for index, row in enumerate(rows):
        read = stored.read([row])[0]
        checksums.append(row_checksum(read))
        with np.errstate(all="ignore"):  # damaged values may be anything
            np.copyto(values, read)
            np.mean(values, axis=0, out=means[index])
            np.abs(np.subtract(values[1:], values[:-1], out=steps), out=steps)
            # The median of the steps: an encoded still settles after its first frames.
            change = np.median(steps.mean(axis=1)) if frames > 1 else np.nan
            changes[index] = change / max(float(np.abs(means[index]).mean()), 1e-12)
    return checksums, means, changes
