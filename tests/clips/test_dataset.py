import csv
from collections import Counter
from pathlib import Path

import pytest

from violence_detection.clips.dataset import (
    Clip,
    count_by_split,
    find_clips,
    groups_on_two_sides,
    split_clips,
    write_splits,
)
from violence_detection.errors import UserError

LAYOUT_1 = [f"{split}/{name}/a.mp4" for split in ("train", "val") for name in ("fight", "normal")]
LAYOUT_2 = [f"{name}/{n}.mp4" for name in ("violent", "nonviolent") for n in range(20)]


def make_files(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"clip")
    return folder


def write_groups(folder: Path, rows: list[tuple[str, str]]) -> None:
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("clip", "group"), *rows])


def test_split_folders(tmp_path: Path) -> None:
    make_files(tmp_path, [*LAYOUT_1, "test/normal/deep/er/B.MOV", "test/fight/c.WebM"])
    make_files(tmp_path, ["train/fight/notes.txt", "train/fight/._a.mp4", "train/.hidden/x.mp4"])
    clips = find_clips(tmp_path, seed=0)
    assert [(clip.split, clip.label, clip.name) for clip in clips] == [
        ("train", 1, "train/fight/a.mp4"),
        ("train", 0, "train/normal/a.mp4"),
        ("val", 1, "val/fight/a.mp4"),
        ("val", 0, "val/normal/a.mp4"),
        ("test", 1, "test/fight/c.WebM"),
        ("test", 0, "test/normal/deep/er/B.MOV"),
    ]
    assert all(clip.path.is_absolute() for clip in clips)


@pytest.mark.parametrize("violent", ["violent", "Violence", "fight", "FIGHTS"])
@pytest.mark.parametrize(
    "nonviolent",
    ["nonviolent", "non_violent", "non-violent", "NonViolence", "nofight", "noFight", "normal"],
)
def test_common_class_names(tmp_path: Path, violent: str, nonviolent: str) -> None:
    names = [f"{name}/{n}.avi" for name in (violent, nonviolent) for n in range(8)]
    clips = find_clips(make_files(tmp_path, names), seed=0)
    assert all(clip.label == clip.name.startswith(violent) for clip in clips)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["neither", "none"]),
        (["movies/a.mp4"], ["neither", "movies"]),
        ([name for name in LAYOUT_1 if "val" not in name], ["no val folder", "train"]),
        (LAYOUT_1[:3], ["val", "nonviolent"]),
        ([*LAYOUT_1[:3], "val/normal/readme.txt"], ["val", "nonviolent"]),
        ([*LAYOUT_1, "train/maybe/a.mp4"], ["maybe", "fight", "normal"]),
        ([*LAYOUT_1, "train/violence/a.mp4"], ["fight", "violence", "mean the same"]),
        ([*LAYOUT_1, "violent/a.mp4"], ["violent", "beside", "train"]),
        ([*LAYOUT_1, "holdout/fight/a.mp4"], ["holdout"]),
        ([*LAYOUT_2, "others/a.mp4"], ["others"]),
        (LAYOUT_2[:20], ["nonviolent"]),
        (LAYOUT_2[:21], ["nonviolent"]),
    ],
)
def test_folder_that_is_not_understood(tmp_path: Path, files: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        find_clips(make_files(tmp_path, files), seed=0)
    assert all(word in str(error.value) for word in words)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find_clips(tmp_path / "nowhere", seed=0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("clip,group\nviolent/0.mp4,a\nviolent/99.mp4,a\n", "violent/99.mp4"),
        ("file,source\nviolent/0.mp4,a\n", "clip,group"),
        ("clip,group\nviolent/0.mp4,a\nviolent/0.mp4,b\n", "two groups"),
        ("clip,group\nviolent/0.mp4\n", "line 2"),
        (b"clip,group\n\xff\xfe,a\n", "UTF-8"),
    ],
)
def test_groups_that_are_wrong(tmp_path: Path, text: str | bytes, word: str) -> None:
    make_files(tmp_path, LAYOUT_2)
    (tmp_path / "groups.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=word):
        find_clips(tmp_path, seed=0)


def test_group_on_two_sides_is_reported(tmp_path: Path) -> None:
    make_files(tmp_path, LAYOUT_1)
    write_groups(tmp_path, [("train/fight/a.mp4", "camera"), ("val/normal/a.mp4", "camera")])
    assert groups_on_two_sides(find_clips(tmp_path, seed=0)) == {"camera": ["train", "val"]}


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
    sides = {
        group: {c.split for c in clips if c.group == group} for group in {c.group for c in clips}
    }
    assert all(len(side) == 1 for side in sides.values())
    shares = Counter(clip.split for clip in clips)
    assert shares["train"] / len(clips) == pytest.approx(0.7, abs=0.05)
    assert shares["val"] / len(clips) == pytest.approx(0.15, abs=0.05)


def test_automatic_split_follows_the_seed() -> None:
    clips = make_clips(40, 40)
    assert split_clips(clips, seed=1) == split_clips(clips[::-1], seed=1)
    assert split_clips(clips, seed=1) != split_clips(clips, seed=2)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make_files(tmp_path, LAYOUT_1)
    elsewhere = make_files(tmp_path / "elsewhere_hidden", ["linked.mp4"])
    elsewhere.rename(tmp_path / ".elsewhere")
    (tmp_path / "train/fight/more").symlink_to(tmp_path / ".elsewhere")
    (tmp_path / "train/fight/self").symlink_to(tmp_path / "train/fight")
    names = [clip.name for clip in find_clips(tmp_path, seed=0) if clip.split == "train"]
    assert names == ["train/fight/a.mp4", "train/fight/more/linked.mp4", "train/normal/a.mp4"]


def test_split_file_can_be_read_back(tmp_path: Path) -> None:
    clips = split_clips(make_clips(10, 10), seed=0)
    write_splits(clips, tmp_path / "splits.csv")
    with (tmp_path / "splits.csv").open(newline="") as file:
        rows = [(row["clip"], row["split"]) for row in csv.DictReader(file)]
    assert rows == [(clip.name, clip.split) for clip in clips]
