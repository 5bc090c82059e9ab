"""One pass over all features before they are trained on: what is damaged, and what each clip is.

A clip's summary is what `leakage` and `sanity` compare: its mean over the frames, and how much its
features change from frame to frame. Memory holds the summaries, never the features.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from sklearn.random_projection import GaussianRandomProjection

from decoding import decoder_count
from feature_cache import FeatureCache, FeatureRows, row_checksum

SUMMARY_SIZE = 256  # values; of more features, a random projection keeps the distances
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Survey:
    """What a pass over the rows found."""

    damaged: list[int]  # rows whose bytes are not those that were stored
    summaries: dict[int, np.ndarray]  # `(values,)` float32, the mean over the frames, by row
    changes: dict[int, float]  # median change from frame to frame over mean, by row


def survey_features(cache: FeatureCache, rows: Sequence[int]) -> Survey:
    """Read `rows` once, compare each with its checksum, and summarize it.

    Raises:
        RunError: a row cannot be read.
    """
    stored = cache.rows()
    project = _projection(cache.recipe.features)
    ordered = sorted(set(rows))
    parts = [ordered[i : i + ROWS_AT_ONCE] for i in range(0, len(ordered), ROWS_AT_ONCE)]
    survey = Survey([], {}, {})

    def look(part: list[int]) -> list[tuple[int, int, np.ndarray, float]]:
        return [(row, *_summarize(stored, row, project)) for row in part]

    with ThreadPoolExecutor(decoder_count()) as threads:
        for part in threads.map(look, parts):
            for row, checksum, summary, change in part:
                if checksum != cache.checksum_of(row):
                    survey.damaged.append(row)
                survey.summaries[row] = summary
                survey.changes[row] = change
    return survey


def _projection(features: int) -> GaussianRandomProjection | None:
    """Return what takes a mean to a summary; None: it is short enough as it is.

    Johnson and Lindenstrauss, 1984: a difference of two means keeps its length to within some
    percent, so that what is nearly the same stays so, and what is not does not become so.
    """
    if features <= SUMMARY_SIZE:
        return None
    projection = GaussianRandomProjection(SUMMARY_SIZE, random_state=0)
    return projection.fit(np.zeros((1, features), np.float32))


def _summarize(
    stored: FeatureRows, row: int, project: GaussianRandomProjection | None
) -> tuple[int, np.ndarray, float]:
    values = stored.read([row])[0]
    checksum = row_checksum(values)
    with np.errstate(all="ignore"):  # damaged values may be anything
        values = values.astype(np.float32)
        mean = values.mean(axis=0)
        # The median of the steps: a still that was encoded settles after its first frames.
        steps = np.abs(np.diff(values, axis=0)).mean(axis=1)
        change = np.median(steps) if len(steps) else np.nan
        summary = mean if project is None else mean @ project.components_.T.astype(np.float32)
        return checksum, summary, float(change / max(float(np.abs(mean).mean()), 1e-12))
