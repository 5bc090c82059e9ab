from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from violence_detection.errors import UserError
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.folds import folds, possible_folds, sources_of
from violence_detection.training.splits import Splits, splits_of_folds

Store = Callable[..., FeatureRows]
SETTINGS = Settings().replace(dataset_path=Path("/"))


def clips_in_groups(store: Store, groups: int, of_each: int) -> ClipFeatures:
    """Return clips of both classes in every group."""
    count = groups * of_each
    rows = store(np.zeros((count, 4, 3), np.float32))
    numbers = np.arange(count)
    return ClipFeatures([rows], numbers, numbers % 2, groups=numbers // of_each)


def splits_of(clips: ClipFeatures, validation: int) -> Splits:
    """Return splits of which the last clips validate."""
    train = clips.select(slice(len(clips) - validation))
    val = clips.select(slice(len(clips) - validation, None))
    return Splits(clips, train, val, None, clips.select(slice(0)), (1.0, 1.0), {"clips": "abc"})


def test_every_clip_is_held_out_once_and_its_group_with_it(stored_features: Store) -> None:
    clips = clips_in_groups(stored_features, 12, 6)
    divided = folds(clips.labels, sources_of(clips), 4, 0, "--folds 4")
    assert sorted(np.concatenate([held_out for _, held_out in divided])) == list(range(72))
    for train, held_out in divided:
        assert sorted([*train, *held_out]) == list(range(72))
        assert not set(clips.groups[train]) & set(clips.groups[held_out])
        assert set(clips.labels[held_out]) == {0, 1}


def test_copies_of_a_file_are_held_out_together(stored_features: Store) -> None:
    """Also where that joins two groups, and whether or not a row of features is missing."""
    clips = clips_in_groups(stored_features, 12, 6)
    clips.rows[6] = clips.rows[0]  # of groups 0 and 1
    clips.rows[[20, 40]] = -1  # cannot be read: no copies of each other
    sources = sources_of(clips)
    assert sources[0] == sources[6] == sources[11]
    assert sources[20] != sources[40]
    assert len(set(sources)) == 11
    for train, held_out in folds(clips.labels, sources, 4, 0, "--folds 4"):
        assert not set(sources[train]) & set(sources[held_out])


@pytest.mark.parametrize("asked_by", ["--folds 5", "--cross-validate 5"])
def test_more_folds_than_groups_are_refused_with_what_is_possible(
    asked_by: str, stored_features: Store
) -> None:
    clips = clips_in_groups(stored_features, 3, 4)
    with pytest.raises(UserError, match=rf"{asked_by}: only 3 groups .* at most 3"):
        folds(clips.labels, sources_of(clips), 5, 0, asked_by)
    assert possible_folds(clips.labels, sources_of(clips), 5, 0) == []


def test_groups_that_leave_a_fold_without_a_class_are_refused() -> None:
    """A division exists, but is not found: the clips are shuffled and assigned one by one."""
    labels = np.array([0, 1, 0, 0, 1])
    sources = np.array([0, 0, 1, 1, 2])
    with pytest.raises(UserError, match=r"--folds 2: .*every fold has both classes.*--seed"):
        folds(labels, sources, 2, 0, "--folds 2")


def test_classifiers_are_validated_on_another_part_of_both_splits(stored_features: Store) -> None:
    splits = splits_of(clips_in_groups(stored_features, 12, 4), validation=8)
    divided = splits_of_folds(splits, SETTINGS)
    assert len(divided) == 5
    validated = np.concatenate([own.val.rows[:, 0] for own in divided])
    assert sorted(validated) == list(range(48))
    assert len({name for own in divided for name in own.fold.values()}) == 5
    for own in divided:
        assert len(own.train) + len(own.val) == 48
        assert not set(own.train.groups) & set(own.val.groups)
        assert own.fingerprints == splits.fingerprints


def test_class_factors_are_those_of_a_folds_own_clips(stored_features: Store) -> None:
    clips = clips_in_groups(stored_features, 40, 1)
    clips.labels[30:] = 1
    splits = splits_of(clips, validation=10)
    for own in splits_of_folds(splits, SETTINGS.replace(folds=4, use_focal_loss=False)):
        shares = np.bincount(own.train.labels) / len(own.train)
        assert np.multiply(own.factors, shares) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("groups", "of_each"),
    [(1, 20), (3, 1), (4, 6)],
    ids=["one group", "three clips", "fewer groups than folds"],
)
def test_without_enough_groups_one_classifier_is_trained_unless_folds_are_asked_for(
    groups: int, of_each: int, stored_features: Store
) -> None:
    splits = splits_of(clips_in_groups(stored_features, groups, of_each), validation=1)
    assert splits_of_folds(splits, SETTINGS) == []
    with pytest.raises(UserError, match=r"--folds 5: only \d groups? .*use at most"):
        splits_of_folds(splits, SETTINGS.replace(folds=5))


@pytest.mark.parametrize(
    "values", [{"folds": 1}, {"ensemble": 2}, {"unlabeled": Path("/unlabeled")}]
)
def test_settings_that_leave_the_splits_as_they_are(
    values: dict[str, object], stored_features: Store
) -> None:
    splits = splits_of(clips_in_groups(stored_features, 12, 4), validation=8)
    assert splits_of_folds(splits, SETTINGS.replace(**values)) == []


def test_with_many_clips_one_validation_split_is_enough(stored_features: Store) -> None:
    clips = clips_in_groups(stored_features, 20, 100)
    assert splits_of_folds(splits_of(clips, validation=400), SETTINGS) == []
    fewer = splits_of(clips.select(slice(1999)), validation=400)
    assert len(splits_of_folds(fewer, SETTINGS)) == 5
    assert len(splits_of_folds(splits_of(clips, 400), SETTINGS.replace(folds=3))) == 3
