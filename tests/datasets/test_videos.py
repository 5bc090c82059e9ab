from pathlib import Path

import pytest

from tests.datasets.files import touch, write
from violence_detection.datasets.videos import VideoFolder, manifest_path, video_stem
from violence_detection.errors import UserError


@pytest.mark.parametrize(
    "name", ["Fight01", "fight01.mp4", "FIGHT01.AVI", "elsewhere/Fight01.mp4", "c:\\x\\fight01.mp4"]
)
def test_a_video_is_found_by_its_stem(tmp_path: Path, name: str):
    videos = VideoFolder(touch(tmp_path, "a/b/Fight01.MP4", "a/Fight011.mp4", "Fight01.txt"))
    assert videos.find(name) == tmp_path / "a/b/Fight01.MP4"
    assert videos.find("Fight02") is None


def test_dots_within_a_name_are_no_suffix(tmp_path: Path):
    name = "Bad.Boys.1995__#01-33-51_01-34-37_label_B2-0-0"
    assert video_stem(name) == video_stem(f"Test/{name}.mp4") == name
    assert VideoFolder(touch(tmp_path, f"{name}.mp4")).find(name) == tmp_path / f"{name}.mp4"


def test_folders_and_suffix_decide_between_videos_of_one_name(tmp_path: Path):
    videos = VideoFolder(touch(tmp_path, "cam1/1.mp4", "cam2/1.mp4", "cam2/1.avi"))
    assert videos.find("cam2/1.avi") == tmp_path / "cam2/1.avi"
    assert videos.find("cam1/1") == tmp_path / "cam1/1.mp4"


def test_copies_are_one_video_and_others_of_its_name_an_error(tmp_path: Path):
    videos = VideoFolder(touch(tmp_path, "a/1.mp4", "b/1.mp4"))
    assert videos.find("1") == tmp_path / "a/1.mp4"
    write(tmp_path / "b/1.mp4", "another")
    with pytest.raises(UserError, match=r"a/1\.mp4 and .*b/1\.mp4"):
        videos.find("1")


def test_a_path_outside_the_manifests_folder_is_absolute(tmp_path: Path):
    video = tmp_path / "videos/a.mp4"
    assert manifest_path(video, tmp_path) == "videos/a.mp4"
    assert manifest_path(video, tmp_path / "lists") == video.as_posix()
