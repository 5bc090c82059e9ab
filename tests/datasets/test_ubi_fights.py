from pathlib import Path

import numpy as np
import pytest

from tests.datasets.files import touch, write
from violence_detection.clips.demo import draw_clip
from violence_detection.clips.manifest import ManifestRow
from violence_detection.clips.video import open_video
from violence_detection.datasets.ubi_fights import ubi_fights
from violence_detection.errors import UserError

FIGHT, OTHER, NORMAL = "F_0_1_0_0_0", "F_100_1_2_0_0", "N_0_0_0_1_0"
LABELS = ["0"] * 30 + ["1"] * 60 + ["0"] * 15 + ["1"]


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "UBI_FIGHTS"
    touch(folder, *(f"videos/fight/{name}.mp4" for name in (FIGHT, OTHER)))
    touch(folder, f"videos/normal/{NORMAL}.mp4")
    write(folder / f"annotation/{FIGHT}.csv", *LABELS)
    write(folder / f"annotation/{OTHER}.csv", "0", "1", "1")
    write(folder / f"annotation/{NORMAL}.csv", *["0"] * 40)
    write(folder / "test_videos.csv", OTHER)
    return folder


def test_runs_of_frames_are_events(data_set: Path):
    imported = ubi_fights(data_set, data_set)
    fight, other, normal = (
        *(f"videos/fight/{name}.mp4" for name in (FIGHT, OTHER)),
        f"videos/normal/{NORMAL}.mp4",
    )
    assert imported.are_events and not imported.missing and not imported.notes
    assert imported.rows == [
        ManifestRow(fight, 1, 1.0, 3.0, "train", FIGHT),
        ManifestRow(fight, 1, 3.5, 106 / 30, "train", FIGHT),
        ManifestRow(other, 1, 1 / 30, 0.1, "test", OTHER),
        ManifestRow(normal, 0, None, None, "train", NORMAL),
    ]


def test_the_frame_rate_is_read_from_the_video(data_set: Path):
    video = data_set / f"videos/fight/{OTHER}.mp4"
    draw_clip(video, True, np.random.default_rng(0))
    with open_video(video) as opened:
        rate = opened.info.frames_per_second
    assert rate and rate != 30
    rows = [row for row in ubi_fights(data_set, data_set).rows if row.group == OTHER]
    assert [(row.start, row.end) for row in rows] == [(1 / rate, 3 / rate)]


def test_normal_videos_need_no_annotation_and_fights_do(data_set: Path):
    (data_set / f"annotation/{NORMAL}.csv").unlink()
    (data_set / f"annotation/{FIGHT}.csv").unlink()
    (data_set / "test_videos.csv").unlink()
    imported = ubi_fights(data_set, data_set)
    assert [(row.group, row.label, row.split) for row in imported.rows] == [
        (OTHER, 1, None),
        (NORMAL, 0, None),
    ]
    assert any("1 fight video left out" in note for note in imported.notes)


@pytest.mark.parametrize("lines", [["label", "0", "1", "1"], ["0,1,1"], ["0.0", "1.0", "1.0"]])
def test_variants_of_an_annotation_mean_the_same(data_set: Path, lines: list[str]):
    source = write(data_set / f"annotation/{OTHER}.csv", *lines)
    imported = ubi_fights(source, data_set, data_set / "videos/fight")
    events = [(row.start, row.end) for row in imported.rows if row.group == OTHER]
    assert events == [(1 / 30, 0.1)]


def test_missing_videos_are_named(data_set: Path):
    (data_set / f"videos/fight/{FIGHT}.mp4").unlink()
    assert ubi_fights(data_set, data_set).missing == [FIGHT]


@pytest.mark.parametrize(
    ("name", "lines", "reason"),
    [
        (OTHER, ["0", "2"], r"line 2: '2' is neither"),
        (OTHER, ["0", "", "yes"], r"line 3: 'yes'"),
        (OTHER, [], r"has no labels"),
        (NORMAL, ["0", "1"], r"line 2: a fight in a normal video"),
    ],
)
def test_what_is_impossible_is_an_error_with_its_file(
    data_set: Path, name: str, lines: list[str], reason: str
):
    write(data_set / f"annotation/{name}.csv", *lines)
    with pytest.raises(UserError, match=rf"{name}\.csv.*{reason}"):
        ubi_fights(data_set, data_set)


def test_a_video_in_two_splits_is_an_error(data_set: Path):
    write(data_set / "train_videos.csv", f"{OTHER}.mp4")
    with pytest.raises(UserError, match=rf"{OTHER.lower()} is in"):
        ubi_fights(data_set, data_set)


def test_other_tables_are_of_another_format(tmp_path: Path):
    write(tmp_path / "manifest.csv", "video,label", "F_1.mp4,violent")
    assert ubi_fights(tmp_path, tmp_path) is None
    assert ubi_fights(tmp_path / "manifest.csv", tmp_path) is None
