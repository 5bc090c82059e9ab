from pathlib import Path

import pytest

from tests.datasets.files import touch
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets import folders
from violence_detection.datasets.imported import Imported


def clips(imported: Imported | None) -> dict[str, tuple[int, str | None, str | None]]:
    """Return label, split and group of each clip by its path."""
    assert imported is not None and not imported.are_events and not imported.missing
    assert all(row.start is None and row.end is None for row in imported.rows)
    return {row.video: (row.label, row.split, row.group) for row in imported.rows}


@pytest.mark.parametrize("names", [("fi1_xvid.avi", "no1_xvid.avi"), ("FI001.AVI", "NO007.MP4")])
@pytest.mark.parametrize("below", ["", "data/", "HockeyFights/fights/"])
def test_hockey_fight(tmp_path: Path, names: tuple[str, str], below: str):
    touch(tmp_path, *(below + name for name in names), "readme.txt", "__MACOSX/._fi1_xvid.avi")
    found = clips(folders.hockey_fight(tmp_path, tmp_path))
    assert found == {below + names[0]: (1, None, None), below + names[1]: (0, None, None)}


def test_rwf_2000_groups_the_clips_of_a_youtube_video(tmp_path: Path):
    touch(
        *(tmp_path, "RWF-2000/train/Fight/_6-B11R9FJM_0.avi"),
        *("RWF-2000/train/NonFight/_6-B11R9FJM_12.avi", "RWF-2000/val/Fight/0Ow4cotKOuw_1.avi"),
        *("RWF-2000/val/NonFight/10uSOcwS_0.avi",),
    )
    imported = folders.rwf_2000(tmp_path, tmp_path)
    assert clips(imported) == {
        "RWF-2000/train/Fight/_6-B11R9FJM_0.avi": (1, "train", "_6-B11R9FJM"),
        "RWF-2000/train/NonFight/_6-B11R9FJM_12.avi": (0, "train", "_6-B11R9FJM"),
        "RWF-2000/val/Fight/0Ow4cotKOuw_1.avi": (1, "val", "0Ow4cotKOuw"),
        "RWF-2000/val/NonFight/10uSOcwS_0.avi": (0, "val", "10uSOcwS"),
    }


def test_real_life_violence_is_taken_once_though_its_archive_has_it_twice(tmp_path: Path):
    inner = "real life violence situations/Real Life Violence Dataset"
    for below in ("Real Life Violence Dataset", inner):
        touch(tmp_path, f"{below}/Violence/V_1.mp4", f"{below}/NonViolence/NV_1.mp4")
    imported = folders.real_life_violence(tmp_path, tmp_path)
    assert clips(imported) == {
        "Real Life Violence Dataset/Violence/V_1.mp4": (1, None, None),
        "Real Life Violence Dataset/NonViolence/NV_1.mp4": (0, None, None),
    }
    assert any("2 clips left out" in note for note in imported.notes)


@pytest.mark.parametrize("camera", ["cam{}/{}.mp4", "cam{}_{}.mp4", "Cam{}/{}.MP4"])
def test_airtlab_cameras_are_groups(tmp_path: Path, camera: str):
    files = {
        f"{folder}/{camera.format(number, scene)}": (label, None, f"cam{number}")
        for label, folder in enumerate(("non-violent", "violent"))
        for number in (1, 2)
        for scene in (1, 12)
    }
    touch(tmp_path, *files)
    assert clips(folders.airtlab(tmp_path, tmp_path)) == files


def test_violent_flows_leaves_the_folds_to_training(tmp_path: Path):
    fight, calm = "crowd_violence__Riot__someone__ZGI5vlDMpJA", "normal__Stadium__x__a-b_c123456"
    touch(
        *(tmp_path, f"movies/1/Violence/{fight}.avi", f"movies/5/NonViolence/{calm}.avi"),
        *("movies/2/violence/without an id.avi",),
    )
    assert clips(folders.violent_flows(tmp_path, tmp_path)) == {
        f"movies/1/Violence/{fight}.avi": (1, None, "ZGI5vlDMpJA"),
        f"movies/5/NonViolence/{calm}.avi": (0, None, "a-b_c123456"),
        "movies/2/violence/without an id.avi": (1, None, "without an id"),
    }


def test_scvd_takes_whole_videos_before_their_pieces(tmp_path: Path):
    whole = "SCVD/SCVD_converted"
    touch(
        *(tmp_path, f"{whole}/Train/Normal/n001_converted.avi"),
        *(
            f"{whole}/Train/Weaponized/w001_converted.avi",
            f"{whole}/Test/Violence/t_v001_converted.avi",
        ),
        *("SCVD/SCVD_converted_sec_split/Train/Normal/n001_converted_0.avi",),
    )
    imported = folders.scvd(tmp_path, tmp_path)
    assert clips(imported) == {
        f"{whole}/Train/Normal/n001_converted.avi": (0, "train", "n001"),
        f"{whole}/Train/Weaponized/w001_converted.avi": (1, "train", "w001"),
        f"{whole}/Test/Violence/t_v001_converted.avi": (1, "test", "t_v001"),
    }
    assert any("1 clip of SCVD_converted_sec_split" in note for note in imported.notes)


def test_pieces_of_an_scvd_video_are_a_group(tmp_path: Path):
    touch(tmp_path, *(f"Train/Violence/v002_converted_{second}.avi" for second in (0, 1)))
    found = clips(folders.scvd(tmp_path, tmp_path))
    assert set(found.values()) == {(1, "train", "v002")}


def test_videos_of_another_kind_are_left_out_with_a_note(tmp_path: Path):
    touch(tmp_path, "fi1_xvid.avi", "no1_xvid.avi", "holiday.mp4")
    imported = folders.hockey_fight(tmp_path, tmp_path)
    assert len(imported.rows) == 2
    assert any("holiday.mp4" in note for note in imported.notes)


def test_paths_are_relative_to_the_manifest_where_the_clips_are_below_it(tmp_path: Path):
    source = touch(tmp_path / "clips", "fi1_xvid.avi", "no1_xvid.avi")
    above = folders.hockey_fight(source, tmp_path)
    beside = folders.hockey_fight(source, tmp_path / "manifests")
    assert above.rows[0] == ManifestRow("clips/fi1_xvid.avi", 1)
    assert beside.rows[0] == ManifestRow((source / "fi1_xvid.avi").as_posix(), 1)
