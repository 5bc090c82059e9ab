from contextlib import ExitStack
from pathlib import Path

import pytest

from violence_detection.clips.loading import (
    ALONE,
    GIVEN,
    PROPOSED,
    UNKNOWN,
    Dataset,
    find_dataset,
    write_groups,
)
from violence_detection.clips.splits import groups_in_several_splits
from violence_detection.errors import UserError
from violence_detection.settings.parser import parse_settings


def write_clips(folder: Path, count: int = 8) -> Path:
    """Write empty files as clips, in class folders."""
    for kind in ("violent", "nonviolent"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            (folder / kind / f"{number}.mp4").touch()
    return folder


def load(folder: Path, *flags: str) -> Dataset:
    settings = parse_settings(["--dataset-path", str(folder), "--vgg19-weights", "random", *flags])
    with ExitStack() as stack:
        return find_dataset(settings, stack)


PAIRS = {
    f"{kind}/{n}.mp4": f"scene{n // 2}" for kind in ("violent", "nonviolent") for n in range(8)
}


def test_groups_csv_wins(tmp_path: Path) -> None:
    folder = write_clips(tmp_path)
    assert load(folder).groups_from == UNKNOWN
    (folder / "groups.csv").write_text("clip,group\nviolent/0.mp4,camera\n")
    for flags in ([], ["--groups", "none"]):
        dataset = load(folder, *flags)
        assert dataset.groups_from == GIVEN
        assert "(groups.csv)" in dataset.describe_groups()


def test_without_groups_each_clip_counts(tmp_path: Path) -> None:
    dataset = load(write_clips(tmp_path), "--groups", "none")
    assert dataset.groups_from == ALONE
    expected = "16 clips, 16 groups (each clip counted as its own source)"
    assert dataset.describe_groups() == expected


def test_proposed_groups_are_kept_on_one_side_and_can_be_used_as_groups_csv(tmp_path: Path) -> None:
    folder = write_clips(tmp_path)
    dataset = load(folder).with_groups(PAIRS, seed=42)
    assert dataset.groups_from == PROPOSED
    assert "16 clips, 4 groups (proposed" in dataset.describe_groups()
    assert not groups_in_several_splits(dataset.clips)
    write_groups(dataset, folder / "groups.csv")
    assert load(folder, "--seed", "42").clips == dataset.clips


def test_split_folders_are_not_changed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_clips(tmp_path / split, 2)
    before = load(tmp_path)
    names = {clip.name: "one" for clip in before.clips}
    after = before.with_groups(names, seed=0)
    assert [(c.name, c.split) for c in after.clips] == [(c.name, c.split) for c in before.clips]
    assert groups_in_several_splits(after.clips) == {"one": ["train", "val"]}


def test_groups_that_are_too_few_to_split_are_refused(tmp_path: Path) -> None:
    dataset = load(write_clips(tmp_path))
    with pytest.raises(UserError, match="1 group "):
        dataset.with_groups(dict.fromkeys(PAIRS, "one"), seed=0)


def test_file_of_an_earlier_proposal_is_removed_if_nothing_is_proposed(tmp_path: Path) -> None:
    dataset = load(write_clips(tmp_path / "clips"))
    write_groups(dataset.with_groups(PAIRS, seed=0), tmp_path / "groups_proposed.csv")
    assert (tmp_path / "groups_proposed.csv").read_text().splitlines()[0] == "clip,group"
    write_groups(dataset, tmp_path / "groups_proposed.csv")
    assert not (tmp_path / "groups_proposed.csv").exists()
