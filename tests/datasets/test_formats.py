import json
from pathlib import Path

import pytest

from tests.datasets.files import touch, write
from violence_detection.datasets.formats import read
from violence_detection.errors import UserError

FIGHT = {"subset": "testing", "annotations": [{"segment": [1.5, 2.5], "label": "Fight"}]}


def make_source(name: str, folder: Path) -> None:
    """Make a small data set of a format."""
    if name == "UCF-Crime":
        touch(folder, "Videos/Fighting/Fighting003_x264.mp4")
        write(folder / "list.txt", "Fighting003_x264.mp4  Fighting  30  60  -1  -1  ")
    elif name == "CCTV-Fights":
        touch(folder, "mpeg-001-100/fight_0001.mpeg")
        database = {"version": "1.0", "database": {"fight_0001": FIGHT}}
        (folder / "groundtruth.json").write_text(json.dumps(database))
    elif name == "UBI-Fights":
        touch(folder, "videos/fight/F_0_1_0_0_0.mp4", "videos/normal/N_0_0_0_1_0.mp4")
        write(folder / "annotation/F_0_1_0_0_0.csv", "0", "1", "1")
    else:
        touch(folder, *CLIPS[name])


CLIPS = {
    "Hockey Fight": ("fi1_xvid.avi", "no1_xvid.avi"),
    "RWF-2000": ("train/Fight/_6-B11R9FJM_0.avi", "val/NonFight/10uSOcwS_0.avi"),
    "Real Life Violence Situations": ("Violence/V_1.mp4", "NonViolence/NV_1.mp4"),
    "AIRTLab": ("violent/cam1/1.mp4", "non-violent/cam2/1.mp4"),
    "Violent Flows": ("1/Violence/a__ZGI5vlDMpJA.avi", "2/NonViolence/b__ZGI5vlDMpJB.avi"),
    "SCVD": ("Train/Normal/n001_converted.avi", "Test/Violence/t_v001_converted.avi"),
    "XD-Violence": ("1-1004/v=a__#1_label_A.mp4", "test_videos/v=b__#1_label_B1-0-0.mp4"),
}


@pytest.mark.parametrize("depth", ["", "archive/data/"])
@pytest.mark.parametrize("name", [*CLIPS, "UCF-Crime", "CCTV-Fights", "UBI-Fights"])
def test_exactly_one_format_fits(tmp_path: Path, name: str, depth: str):
    make_source(name, tmp_path / "x" / depth)
    imported = read(tmp_path / "x", tmp_path)
    assert imported.format == name
    assert imported.rows and not imported.missing
    assert all((tmp_path / row.video).is_file() for row in imported.rows)


@pytest.mark.parametrize("names", [(), ("violent/a.mp4", "nonviolent/b.mp4"), ("notes.txt",)])
def test_another_folder_is_an_error_that_lists_the_formats(tmp_path: Path, names: tuple[str, ...]):
    with pytest.raises(UserError, match=r"Hockey Fight.*UBI-Fights"):
        read(touch(tmp_path, *names), tmp_path)


def test_two_formats_in_one_folder_are_an_error_that_names_them(tmp_path: Path):
    for name in ("Hockey Fight", "CCTV-Fights"):
        make_source(name, tmp_path)
    touch(tmp_path, "fi2_xvid.avi", "no2_xvid.avi")
    with pytest.raises(UserError, match="Hockey Fight or CCTV-Fights"):
        read(tmp_path, tmp_path)


def test_what_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="nothing"):
        read(tmp_path / "nothing", tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        read(tmp_path, tmp_path, tmp_path / "nowhere")


def test_a_folder_of_clips_needs_no_folder_of_videos(tmp_path: Path):
    with pytest.raises(UserError, match="Hockey Fight"):
        read(touch(tmp_path, *CLIPS["Hockey Fight"]), tmp_path, tmp_path)


def test_annotations_without_any_of_their_videos_are_an_error(tmp_path: Path):
    source = write(tmp_path / "list.txt", "Fighting003_x264.mp4  Fighting  30  60  -1  -1")
    with pytest.raises(UserError, match=r"none of its videos.*Fighting003_x264\.mp4"):
        read(source, tmp_path)


def test_broken_json_is_reported_with_its_place(tmp_path: Path):
    with pytest.raises(UserError, match=r"not valid JSON.*line 2"):
        read(write(tmp_path / "groundtruth.json", '{"database":', "}"), tmp_path)
