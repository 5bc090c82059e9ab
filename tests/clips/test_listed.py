"""The clips of a manifest: found, checked, grouped and split."""

from collections import Counter
from pathlib import Path

import pytest

from tests.clips.videos import grey, write_clip
from violence_detection.clips.clip import Clip, Segment
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.listed import listed_clips
from violence_detection.clips.locations import dataset_locations
from violence_detection.errors import UserError


def clips_in(path: Path, seed: int = 0) -> list[Clip]:
    with dataset_locations(path, path.parent / "spool", 1.0) as locations:
        return listed_clips(path, locations, seed, 60.0)[0]


def manifest(folder: Path, header: str, *lines: str) -> Path:
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Return a folder of six files, which are not opened as long as no row has times."""
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(b"video")
    return tmp_path


def test_a_folder_as_a_list_is_split_alike(drawn_clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    for split in ("train", "val", "test"):
        for name in ("violent", "nonviolent"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for clip in (drawn_clips / split / name).iterdir():
                (folder / name / f"{split}_{clip.name}").symlink_to(clip)
    listed = [f"{p.parent.name}/{p.name},{p.parent.name}" for p in folder.glob("*/*.mp4")]
    found = clips_in(manifest(folder, "video,label", *sorted(listed)), seed=3)
    assert found == find_clips(folder, seed=3)


def test_videos_below_the_folder_have_one_name(videos: Path) -> None:
    names = ["0.mp4", "./1.mp4", str(videos / "2.mp4"), "x/../3.mp4", f"{videos}/./4.mp4", "5.mp4"]
    lines = [f"{name},{number % 2}" for number, name in enumerate(names)]
    found = clips_in(manifest(videos, "video,label", *lines))
    assert {clip.name for clip in found} == {f"{number}.mp4" for number in range(6)}
    assert all(clip.path.is_file() for clip in found)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["0.mp4,1", "none.mp4,0", "gone.mp4,1"],
            r"line 3: video 'none.mp4': no such .*1 more",
        ),
        (["0.mp4,1", "https://a.b/c.mp4,0"], "line 3: https:// is none of s3://"),
        (["0.mp4,1", "s3://key:secret@bucket/c.mp4,0"], "line 3: a s3:// URL with a user, a key"),
        (["0.mp4,1", "1.mp4,0", "./0.mp4,1"], "line 4: the same clip as in line 2$"),
        (["0.mp4,1", "1.mp4,0", "0.mp4,0"], "line 4: the same clip as in line 2, with another"),
    ],
)
def test_wrong_lines_are_named(videos: Path, lines: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        clips_in(manifest(videos, "video,label", *lines))


def test_splits_are_taken_and_validation_is_made_where_it_is_missing(videos: Path) -> None:
    lines = [f"{n}.mp4,{n % 2},{'test' if n > 3 else 'train'}" for n in range(6)]
    found = clips_in(manifest(videos, "video,label,split", *lines))
    assert {clip.name for clip in found if clip.split == "test"} == {"4.mp4", "5.mp4"}
    assert Counter(clip.split for clip in found) == {"train": 2, "val": 2, "test": 2}


def test_a_split_for_some_rows_only_is_refused(videos: Path) -> None:
    lines = ["0.mp4,1,train", "1.mp4,0,", "2.mp4,0,val"]
    with pytest.raises(UserError, match="line 3: has no split, others have"):
        clips_in(manifest(videos, "video,label,split", *lines))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three videos of 4 s."""
    folder = tmp_path_factory.mktemp("film")
    for name in ("a", "b", "c"):
        times = [number / 10 for number in range(40)]
        write_clip(folder / f"{name}.mp4", [grey(number) for number in range(40)], times=times)
    return folder


HEADER = "video,start,end,label,split,group"


def test_segments_of_a_video_are_a_group_of_clips(film: Path) -> None:
    lines = [f"{v}.mp4,{t},{t + 1},{t % 2},," for v in "abc" for t in range(4)]
    found = clips_in(manifest(film, HEADER, *lines))
    assert {clip.group for clip in found} == {"a.mp4", "b.mp4", "c.mp4"}
    assert len({clip.split for clip in found if clip.file == "a.mp4"}) == 1
    assert found[0].segment in [Segment(float(t), float(t + 1)) for t in range(4)]
    assert "a.mp4#t=1,2" in {clip.name for clip in found}


def test_overlapping_segments_are_never_on_two_sides(film: Path) -> None:
    """Groups that are given to them are joined, also over several steps."""
    a = ["a.mp4,0,2,1,,x", "a.mp4,1,3,0,,y", "a.mp4,2.5,4,1,,z", "b.mp4,0,1,1,,z"]
    lines = [*a, "b.mp4,2,3,0,,w", *(f"c.mp4,{t},{t + 1},{t % 2},,c{t}" for t in range(4))]
    groups = {clip.name: clip.group for clip in clips_in(manifest(film, HEADER, *lines))}
    assert len({groups[f"a.mp4#t={s}"] for s in ("0,2", "1,3", "2.5,4")}) == 1
    assert groups["b.mp4#t=0,1"] == groups["a.mp4#t=0,2"] != groups["b.mp4#t=2,3"]
    lines = ["a.mp4,0,2,1,train,", "a.mp4,1,3,0,val,", "b.mp4,,,0,train,", "c.mp4,,,1,val,"]
    with pytest.raises(UserError, match="line 3: overlaps the segment in line 2"):
        clips_in(manifest(film, HEADER, *lines))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.mp4,4.2,,1,,", r"line 2: video 'a.mp4': start 4.2 is after its end, at \d"),
        ("a.mp4,3,4.9,1,,", r"line 2: video 'a.mp4': end 4.9 is after its end, at \d"),
        ("bad.mp4,0,1,1,,", r"line 2: video 'bad.mp4': not a video"),
    ],
)
def test_times_after_the_end_and_unreadable_videos_are_named(
    film: Path, line: str, words: str
) -> None:
    (film / "bad.mp4").write_bytes(b"no video" * 99)
    with pytest.raises(UserError, match=words):
        clips_in(manifest(film, HEADER, line, "b.mp4,0,1,0,,", "c.mp4,0,4.3,0,,"))
