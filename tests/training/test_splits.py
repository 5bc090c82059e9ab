from collections.abc import Callable

import numpy as np
import pytest

from violence_detection.features.cache.rows import FeatureRows
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.splits import Splits, splits_of_folds


@pytest.fixture
def clips(stored_features: Callable[[np.ndarray], FeatureRows]) -> ClipFeatures:
    """Return 12 clips, every third of them violent."""
    rows = stored_features(np.zeros((12, 4, 3), np.float32))
    return ClipFeatures([rows], range(12), np.arange(12) % 3 == 0)


def splits_of(clips: ClipFeatures, *, with_test: bool) -> Splits:
    train, val, test = (clips.select(slice(start, start + 4)) for start in (0, 4, 8))
    nothing = clips.select(slice(0))
    return Splits(clips, train, val, test if with_test else None, nothing, (1.0, 1.0), {})


def test_validation_clips_are_tested_on_where_there_are_no_test_clips(clips: ClipFeatures) -> None:
    with_test, without = (splits_of(clips, with_test=given) for given in (True, False))
    assert with_test.tested == ("test", with_test.test)
    assert without.tested == ("val", without.val)
    assert len(with_test.read) == 3
    assert len(without.read) == 2


def test_class_factors_follow_from_the_training_clips(clips: ClipFeatures) -> None:
    settings = Settings().replace(use_class_weights=True, use_focal_loss=False)
    splits = splits_of(clips, with_test=True).trained_on(clips, settings)
    assert splits.factors == pytest.approx((12 / 16, 12 / 8))  # 8 nonviolent, 4 violent
    expected = np.where(clips.labels == 1, 12 / 8, 12 / 16)
    np.testing.assert_allclose(splits.train.weights, expected)
    np.testing.assert_allclose(splits.val.weights, expected[4:8])


def test_folds_name_the_clips_that_they_validate_on(clips: ClipFeatures) -> None:
    splits = splits_of(clips, with_test=True)
    parts = splits_of_folds(splits, Settings().replace(folds=2))
    known = [*splits.train.rows[:, 0], *splits.val.rows[:, 0]]
    assert sorted(index for part in parts for index in part.held_out) == list(range(8))
    for part in parts:
        assert part.val.rows[:, 0].tolist() == [known[index] for index in part.held_out]
