import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from violence_detection.clips.clip import Clip
from violence_detection.clips.splits import (
    count_by_split,
    fingerprint,
    groups_in_several_splits,
    require_both_classes,
    split_clips,
    write_splits,
)
from violence_detection.errors import UserError


def make_clips(violent: int, nonviolent: int, group_size: int = 1) -> list[Clip]:
    return [
        Clip(Path("/"), f"{label}/{n}", label, "train", f"{label}:{n // group_size}")
        for label, count in ((1, violent), (0, nonviolent))
        for n in range(count)
    ]


@pytest.mark.parametrize(("violent", "nonviolent"), [(780, 220), (100, 100), (14, 14)])
def test_automatic_split_is_stratified(violent: int, nonviolent: int) -> None:
    counts = count_by_split(split_clips(make_clips(violent, nonviolent), seed=1))
    for split, share in {"train": 0.7, "val": 0.15, "test": 0.15}.items():
        assert counts[split]["violent"] == pytest.approx(share * violent, abs=1)
        assert counts[split]["nonviolent"] == pytest.approx(share * nonviolent, abs=1)


def test_automatic_split_keeps_groups_together() -> None:
    clips = split_clips(make_clips(300, 100, group_size=7), seed=1)
    assert not groups_in_several_splits(clips)
    shares = Counter(clip.split for clip in clips)
    assert shares["train"] / len(clips) == pytest.approx(0.7, abs=0.05)
    assert shares["val"] / len(clips) == pytest.approx(0.15, abs=0.05)


def test_automatic_split_follows_the_seed() -> None:
    clips = make_clips(40, 40)
    assert split_clips(clips, seed=1) == split_clips(clips[::-1], seed=1)
    assert split_clips(clips, seed=1) != split_clips(clips, seed=2)


def test_clips_without_a_group_are_split_one_by_one() -> None:
    clips = [replace(clip, group=None) for clip in make_clips(20, 20)]
    assert count_by_split(split_clips(clips, seed=1))["train"] == {"nonviolent": 14, "violent": 14}


def test_groups_in_several_splits_are_found() -> None:
    clips = [
        Clip(Path("/"), "train/a", 1, "train", "camera"),
        Clip(Path("/"), "val/b", 1, "val", "camera"),
        Clip(Path("/"), "val/c", 0, "val", "other"),
        Clip(Path("/"), "train/d", 0, "train"),
    ]
    assert groups_in_several_splits(clips) == {"camera": ["train", "val"]}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"train": [0, 1], "val": [1]}, ["val", "nonviolent"]),
        ({"train": [0, 1], "val": [0, 1], "test": [0]}, ["test", "violent"]),
        ({"train": [0, 1]}, ["val", "no clips"]),
    ],
)
def test_splits_without_both_classes_are_refused(
    labels: dict[str, list[int]], words: list[str]
) -> None:
    clips = [
        Clip(Path("/"), f"{split}/{label}", label, split)
        for split, found in labels.items()
        for label in found
    ]
    with pytest.raises(UserError) as error:
        require_both_classes(clips)
    assert all(word in str(error.value) for word in words)


def test_fingerprint_changes_with_name_label_split_and_order() -> None:
    clips = split_clips(make_clips(4, 4), seed=0)
    first, *others = clips
    variants = [
        [replace(first, file="renamed"), *others],
        [replace(first, label=1 - first.label), *others],
        [replace(first, split="none"), *others],
        clips[::-1],
        others,
    ]
    assert len({fingerprint(variant) for variant in [clips, *variants]}) == 6
    assert fingerprint([replace(first, group="other"), *others]) == fingerprint(clips)


def test_split_file_can_be_read_back(tmp_path: Path) -> None:
    clips = split_clips(make_clips(10, 10), seed=0)
    write_splits(clips, tmp_path / "splits.csv")
    with (tmp_path / "splits.csv").open(newline="") as file:
        rows = [(row["clip"], row["split"]) for row in csv.DictReader(file)]
    assert rows == [(clip.name, clip.split) for clip in clips]
