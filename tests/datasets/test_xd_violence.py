from pathlib import Path

import pytest

from tests.datasets.files import touch, write
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.xd_violence import xd_violence
from violence_detection.errors import UserError

FILM = "Bad.Boys.1995__#01-33-51_01-34-37_label_B2-0-0"
YOUTUBE = "v=u5SF4SlqNDQ__#00-00-00_00-01-00_label_G-B1-0"
NORMAL = "Bad.Boys.1995__#00-10-00_00-11-00_label_A"
LINES = (f"{FILM} 48 672 720 840", f"{YOUTUBE}.mp4 0 1200")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    names = (f"test_videos/{name}.mp4" for name in (FILM, YOUTUBE, NORMAL))
    return touch(tmp_path / "XD", *names)


@pytest.mark.parametrize(
    "lines", [LINES, (f"{FILM.upper()} B2 48 672 B2 720 840", f"{YOUTUBE} G 0 1200 B1 0 1200", "")]
)
def test_frames_are_24_to_the_second_and_a_film_is_a_group(
    tmp_path: Path, videos: Path, lines: tuple[str, ...]
):
    imported = xd_violence(write(tmp_path / "annotations.txt", *lines), tmp_path)
    assert imported.are_events and not imported.missing
    path = "XD/test_videos/"
    found = [(row.video, row.label, row.start, row.end, row.split) for row in imported.rows]
    assert found == [
        (f"{path}{FILM}.mp4", 1, 2.0, 28.0, "test"),
        (f"{path}{FILM}.mp4", 1, 30.0, 35.0, "test"),
        (f"{path}{YOUTUBE}.mp4", 1, 0.0, 50.0, "test"),
        (f"{path}{NORMAL}.mp4", 0, None, None, "test"),
    ]
    groups = [row.group.lower() for row in imported.rows]
    assert groups == ["bad.boys.1995", "bad.boys.1995", "v=u5sf4slqndq", "bad.boys.1995"]


def test_normal_videos_beside_the_listed_ones_only(tmp_path: Path, videos: Path):
    touch(videos, "1-1004/v=a__#1_label_A.mp4", "1-1004/v=b__#1_label_B1-0-0.mp4")
    imported = xd_violence(write(tmp_path / "annotations.txt", *LINES), tmp_path)
    assert [row.video for row in imported.rows if not row.label] == [f"XD/test_videos/{NORMAL}.mp4"]


def test_labels_in_the_names_of_videos(tmp_path: Path, videos: Path):
    touch(videos, "1-1004/v=a__#1_LABEL_b6-0-0.MP4", "Train/v=b__#1_label_A.mp4", "extra.mp4")
    imported = xd_violence(videos, videos)
    assert not imported.are_events
    by_name = {row.video: row for row in imported.rows}
    assert len(by_name) == 5
    train = "1-1004/v=a__#1_LABEL_b6-0-0.MP4"
    assert by_name[train] == ManifestRow(train, 1, split="train", group="v=a")
    assert by_name["Train/v=b__#1_label_A.mp4"].split == "train"
    assert by_name[f"test_videos/{NORMAL}.mp4"].label == 0
    assert by_name[f"test_videos/{FILM}.mp4"].split == "test"
    assert any("1 video left out" in note for note in imported.notes)


def test_a_folder_of_the_test_set_is_read_by_its_annotations(tmp_path: Path, videos: Path):
    write(videos / "annotations.txt", *LINES)
    assert xd_violence(videos, tmp_path).are_events
    touch(videos, "1-1004/v=b__#1_label_B1-0-0.mp4")
    imported = xd_violence(videos, tmp_path)
    assert not imported.are_events and len(imported.rows) == 4
    assert any("annotations.txt" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("v=x__#1_label_B1-0-0 700 48", "ends at 48"),
        ("v=x__#1_label_B1-0-0 -5 48", "impossible"),
        ("v=x__#1_label_B1-0-0 48", "pairs"),
        ("v=x__#1_label_B1-0-0", "pairs"),
        ("v=x__#1_label_B1-0-0 1.5 two", "pairs"),
        ("v=x__#1_label_B3-0-0 0 48", "label_B3"),
        ("v=x__#1 0 48", "no label"),
        ("v=x__#1_label_A 0 48", "normal"),
        (f"{FILM}.mp4 0 48", "listed twice"),
    ],
)
def test_what_is_impossible_is_an_error_with_its_line(
    tmp_path: Path, videos: Path, line: str, reason: str
):
    source = write(tmp_path / "annotations.txt", *LINES, line)
    with pytest.raises(UserError, match=rf"annotations\.txt, line 3: .*{reason}"):
        xd_violence(source, tmp_path)


def test_labels_in_names_need_no_folder_of_videos(tmp_path: Path, videos: Path):
    with pytest.raises(UserError, match="leave out"):
        xd_violence(videos, tmp_path, tmp_path)
