import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from violence_detection.clips.dataset import find_clips, find_unlabeled
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


def test_split_folders_are_read(tmp_path: Path) -> None:
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
def test_common_class_names_are_understood(tmp_path: Path, violent: str, nonviolent: str) -> None:
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
        ([*LAYOUT_1, "violent/a.mp4"], ["violent", "keep one kind", "train"]),
        ([*LAYOUT_1, "holdout/fight/a.mp4"], ["holdout"]),
        ([*LAYOUT_2, "others/a.mp4"], ["others"]),
        ([*LAYOUT_2, "fights_or_normal/a.mp4"], ["fights_or_normal", "ambiguous"]),
        (["fights_or_normal/a.mp4", "b/a.mp4"], ["fights_or_normal", "ambiguous"]),
        (LAYOUT_2[:20], ["nonviolent"]),
        (LAYOUT_2[:21], ["nonviolent"]),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, files: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        find_clips(make_files(tmp_path, files), seed=0)
    assert all(word in str(error.value) for word in words)


def test_missing_folder_is_named(tmp_path: Path) -> None:
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
def test_malformed_groups_are_refused(tmp_path: Path, text: str | bytes, word: str) -> None:
    make_files(tmp_path, LAYOUT_2)
    (tmp_path / "groups.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=word):
        find_clips(tmp_path, seed=0)


def test_links_are_followed_but_not_in_cycles(tmp_path: Path) -> None:
    make_files(tmp_path, LAYOUT_1)
    elsewhere = make_files(tmp_path / "elsewhere_hidden", ["linked.mp4"])
    elsewhere.rename(tmp_path / ".elsewhere")
    (tmp_path / "train/fight/more").symlink_to(tmp_path / ".elsewhere")
    (tmp_path / "train/fight/self").symlink_to(tmp_path / "train/fight")
    names = [clip.name for clip in find_clips(tmp_path, seed=0) if clip.split == "train"]
    assert names == ["train/fight/a.mp4", "train/fight/more/linked.mp4", "train/normal/a.mp4"]


def test_groups_are_read_from_the_file_and_optional(tmp_path: Path) -> None:
    make_files(tmp_path, LAYOUT_1)
    write_groups(tmp_path, [("train/fight/a.mp4", "camera 1"), ("val/normal/a.mp4", "camera 2")])
    groups = {clip.name: clip.group for clip in find_clips(tmp_path, seed=0)}
    assert groups == {
        "train/fight/a.mp4": "camera 1",
        "train/normal/a.mp4": None,
        "val/fight/a.mp4": None,
        "val/normal/a.mp4": "camera 2",
    }


def test_class_folders_alone_are_split(tmp_path: Path) -> None:
    clips = find_clips(make_files(tmp_path, LAYOUT_2), seed=3)
    assert {clip.split for clip in clips} == {"train", "val", "test"}
    assert sorted(clip.name for clip in clips) == sorted(LAYOUT_2)


def test_unlabeled_clips_have_names_of_their_own(tmp_path: Path) -> None:
    clips = find_unlabeled(make_files(tmp_path, ["b.mp4", "deep/a.avi", "notes.txt"]))
    assert [clip.name for clip in clips] == ["unlabeled/b.mp4", "unlabeled/deep/a.avi"]
    assert [clip.path for clip in clips] == [tmp_path / "b.mp4", tmp_path / "deep" / "a.avi"]


@pytest.mark.parametrize(
    ("folder", "reason"), [(".", "contains no clips"), ("x", "no such folder")]
)
def test_unlabeled_folder_without_clips_is_named(tmp_path: Path, folder: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--unlabeled .*{reason}"):
        find_unlabeled(tmp_path / folder)


def test_what_a_system_or_an_archive_leaves_is_passed_over(tmp_path: Path) -> None:
    expected = find_clips(make_files(tmp_path, LAYOUT_2), seed=0)
    make_files(tmp_path, ["__MACOSX/violent/._0.mp4", "@eaDir/a.mp4", "violent/@eaDir/0.mp4"])
    assert find_clips(tmp_path, seed=0) == expected


def test_clips_may_have_any_name_that_is_not_hidden(tmp_path: Path) -> None:
    names = ["violent/@home.mp4", "nonviolent/$1.mp4", "violent/#1.mp4"]
    found = {clip.name for clip in find_clips(make_files(tmp_path, [*LAYOUT_2, *names]), seed=0)}
    assert set(names) <= found


@pytest.mark.parametrize("layout", [LAYOUT_1, LAYOUT_2])
def test_other_files_are_counted_by_their_type(layout: list[str], tmp_path: Path) -> None:
    folder = Path(layout[0]).parent
    more = [f"{folder}/{name}" for name in ("a.gif", "b.GIF", "c.mp4.part", "deep/notes", ".x.gif")]
    left_out: Counter[str] = Counter()
    clips = find_clips(make_files(tmp_path, [*layout, *more]), 0, left_out)
    assert left_out == {".gif": 2, ".part": 1, "": 1}
    assert len(clips) == len(layout)


@pytest.mark.parametrize("suffix", ["ts", "3gp", "MTS", "m2ts", "vob", "dav"])
def test_files_of_recorders_and_phones_are_clips(suffix: str, tmp_path: Path) -> None:
    names = [f"{name}/{n}.{suffix}" for name in ("violent", "nonviolent") for n in range(5)]
    assert len(find_clips(make_files(tmp_path, names), seed=0)) == 10


@pytest.mark.parametrize(("violent", "words"), [(1, "1 violent clip "), (2, "2 violent clips ")])
def test_too_few_clips_of_a_class_are_not_divided(violent: int, words: str, tmp_path: Path) -> None:
    names = [f"violent/{n}.mp4" for n in range(violent)]
    make_files(tmp_path, [*names, *(f"nonviolent/{n}.mp4" for n in range(20))])
    with pytest.raises(UserError, match=f"^{words}cannot be divided .* at least 3"):
        find_clips(tmp_path, seed=0)


def test_too_few_groups_of_a_class_are_not_divided(tmp_path: Path) -> None:
    make_files(tmp_path, LAYOUT_2)
    write_groups(tmp_path, [(f"violent/{n}.mp4", f"source{n % 2}") for n in range(20)])
    with pytest.raises(UserError, match=r"^20 violent clips of 2 groups cannot be divided"):
        find_clips(tmp_path, seed=0)


@pytest.mark.parametrize(
    ("given", "meant"), [("", "data"), ("data/violent", "data"), ("splits/train/fight", "splits")]
)
def test_folder_one_level_off_is_recognized(given: str, meant: str, tmp_path: Path) -> None:
    make_files(tmp_path / "data", LAYOUT_2)
    if meant == "splits":
        make_files(tmp_path / "splits", LAYOUT_1)
    with pytest.raises(UserError, match=rf"Did you mean {re.escape(str(tmp_path / meant))}\?"):
        find_clips(tmp_path / given, seed=0)


def test_other_columns_of_groups_csv_are_subgroups(tmp_path: Path) -> None:
    make_files(tmp_path, LAYOUT_1)
    (tmp_path / "groups.csv").write_text(
        "clip,light,group,camera\ntrain/fight/a.mp4, night ,g,\nval/normal/a.mp4,day,h,gate\n"
    )
    clips = find_clips(tmp_path, seed=0, subgroups=["camera", "light"])
    assert {clip.name: clip.subgroups for clip in clips} == {
        "train/fight/a.mp4": ("", "night"),
        "val/normal/a.mp4": ("gate", "day"),
        "train/normal/a.mp4": ("", ""),
        "val/fight/a.mp4": ("", ""),
    }
    assert clips[0].in_split("val").subgroups == ("", "night")


def test_subgroups_that_are_not_there_are_named(tmp_path: Path) -> None:
    make_files(tmp_path, LAYOUT_1)
    with pytest.raises(UserError, match=r"--subgroup camera names columns of .*groups.csv"):
        find_clips(tmp_path, seed=0, subgroups=["camera"])
    write_groups(tmp_path, [("train/fight/a.mp4", "g")])
    with pytest.raises(UserError, match=r"--subgroup camera: .* only clip, group"):
        find_clips(tmp_path, seed=0, subgroups=["camera"])
