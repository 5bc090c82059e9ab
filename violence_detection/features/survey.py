"""One pass over all features before they are trained on: what is damaged, and what each clip is.

A clip's summary is what `leakage` and `sanity` compare: its mean over the frames, and how much its
features change from frame to frame. Memory holds the summaries, never the features.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from sklearn.random_projection import GaussianRandomProjection

from violence_detection.clips.decoders import decoder_count
from violence_detection.features.cache.feature_cache import FeatureCache, FeatureRows, row_checksum

SUMMARY_SIZE = 128  # values; of more features, a random projection keeps the distances
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Survey:
    """What a pass over the rows found."""

    damaged: list[int]  # rows whose bytes are not those that were stored
    place_of: dict[int, int]  # of each row in the arrays below
    summaries: np.ndarray  # (rows, values) float32: the mean over the frames
    changes: np.ndarray  # (rows,) float32: median change from frame to frame over mean

    def places(self, rows: Sequence[int]) -> np.ndarray:
        """Return where `rows` are in the arrays."""
        return np.array([self.place_of[row] for row in rows], np.int64)


def survey_features(cache: FeatureCache, rows: Sequence[int]) -> Survey:
    """Read `rows` once, compare each with its checksum, and summarize it.

    Raises:
        RunError: a row cannot be read.
    """
    stored = cache.rows()
    projection = _projection(cache.recipe.features)
    ordered = sorted(set(rows))
    parts = [ordered[i : i + ROWS_AT_ONCE] for i in range(0, len(ordered), ROWS_AT_ONCE)]
    size = cache.recipe.features if projection is None else SUMMARY_SIZE
    place_of = {row: place for place, row in enumerate(ordered)}
    summaries = np.empty((len(ordered), size), np.float32)
    survey = Survey([], place_of, summaries, np.empty(len(ordered), np.float32))

    def look(part: Sequence[int]) -> list[int]:
        places = slice(place_of[part[0]], place_of[part[0]] + len(part))
        checksums, means, survey.changes[places] = _summarize(stored, part)
        survey.summaries[places] = means if projection is None else means @ projection
        expected = cache.checksums_of(part)
        pairs = zip(part, checksums, expected, strict=True)
        return [row for row, found, stored_as in pairs if found != stored_as]

    with ThreadPoolExecutor(decoder_count()) as threads:
        for damaged in threads.map(look, parts):
            survey.damaged.extend(damaged)
    return survey


def _projection(features: int) -> np.ndarray | None:
    """Return `(features, SUMMARY_SIZE)` float32, from mean to summary; None: the mean is short.

    Johnson and Lindenstrauss, 1984: a difference of two means keeps its length to within some
    percent, so that what is nearly the same stays so, and what is not does not become so.
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
    # Used again for each row: fresh memory would cost as much as the sums.
    values = np.empty((frames, features), np.float32)
    steps = np.empty((frames - 1, features), np.float32)
    for place, row in enumerate(rows):
        read = stored.read([row])[0]
        checksums.append(row_checksum(read))
        with np.errstate(all="ignore"):  # damaged values may be anything
            np.copyto(values, read)
            np.mean(values, axis=0, out=means[place])
            np.abs(np.subtract(values[1:], values[:-1], out=steps), out=steps)
            # The median of the steps: a still that was encoded settles after its first frames.
            change = np.median(steps.mean(axis=1)) if frames > 1 else np.nan
            changes[place] = change / max(float(np.abs(means[place]).mean()), 1e-12)
    return checksums, means, changes
