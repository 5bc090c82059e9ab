from pathlib import Path

import numpy as np
import pytest

from tests.conftest import opened_cache
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.survey import SUMMARY_SIZE, Survey, damaged_rows, survey_features


def recipe_of(features: np.ndarray) -> Recipe:
    return Recipe(features.shape[1], "fc2", "md5-0", features.shape[2], "float32")


def surveyed(folder: Path, features: np.ndarray) -> Survey:
    """Store `(clips, frames, features)` in rows 0, 1, … and survey them."""
    with opened_cache(folder, recipe_of(features)) as cache:
        cache.store([bytes([0, number]) for number in range(len(features))], features)
        return survey_features(cache, range(len(features)))


def test_summary_is_the_mean_and_the_median_change(tmp_path: Path) -> None:
    random = np.random.default_rng(0).random((70, 5, 8)).astype(np.float32)  # of two parts
    survey = surveyed(tmp_path, random)
    np.testing.assert_allclose(survey.summaries, random.mean(axis=1), rtol=1e-5)
    steps = np.abs(np.diff(random, axis=1)).mean(axis=2)
    expected = np.median(steps, axis=1) / random.mean(axis=(1, 2))
    np.testing.assert_allclose(survey.changes, expected, rtol=1e-5)
    assert survey.damaged == []


def test_rows_are_found_in_any_order_and_read_once(tmp_path: Path) -> None:
    features = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 2, 3), np.float32)
    with opened_cache(tmp_path, recipe_of(features)) as cache:
        cache.store([bytes([0, number]) for number in range(6)], features)
        survey = survey_features(cache, [5, 1, 5, 3])
    assert len(survey.summaries) == 3
    assert survey.summaries[survey.indices([3, 5, 1, 5]), 0].tolist() == [3, 5, 1, 5]


def test_projection_of_large_features_keeps_distances(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(20, 1, 4096)).astype(np.float32)
    survey = surveyed(tmp_path, features)
    assert survey.summaries.shape == (20, SUMMARY_SIZE)
    means = features[:, 0]
    distances = np.linalg.norm(means[:, None] - means, axis=2)[np.triu_indices(20, 1)]
    projected = survey.summaries[:, None] - survey.summaries
    projected = np.linalg.norm(projected, axis=2)[np.triu_indices(20, 1)]
    np.testing.assert_allclose(projected, distances, rtol=0.3)


@pytest.mark.parametrize("byte", [0, 7, 31])
def test_damaged_row_is_found_and_can_be_dropped(tmp_path: Path, byte: int) -> None:
    features = np.random.default_rng(0).random((9, 2, 4)).astype(np.float32)
    surveyed(tmp_path, features)
    with opened_cache(tmp_path, recipe_of(features)) as cache:
        rows = [cache.row_of(bytes([0, number])) for number in range(9)]
        (path,) = cache.path.glob("*.rows")
        with path.open("r+b") as file:
            file.seek(4 * cache.row_bytes + byte)
            file.write(b"\xff")
        assert survey_features(cache, rows).damaged == [rows[4]]
        assert damaged_rows(cache, rows) == [rows[4]]
        cache.drop([rows[4]])
        known = [cache.row_of(bytes([0, number])) for number in range(9)]
        assert known == [*rows[:4], None, *rows[5:]]
