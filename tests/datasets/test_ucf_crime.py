from pathlib import Path

import pytest

from tests.datasets.files import touch, write
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.ucf_crime import ucf_crime
from violence_detection.errors import UserError

LINES = (
    "Abuse028_x264.mp4  Abuse  165  240  -1  -1  ",
    "Assault010_x264.mp4  Assault  11330  11680  12260  12930  ",
    "Arson011_x264.mp4  Arson  150  420  680  1267\t",
    "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  ",
)
VIDEOS = (
    *("Abuse/Abuse028_x264.mp4", "Assault/assault010_X264.MP4", "Arson/Arson011_x264.mp4"),
    *("Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4",),
)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return touch(tmp_path / "Videos", *VIDEOS)


def test_frames_are_30_to_the_second(tmp_path: Path, videos: Path):
    source = write(tmp_path / "Temporal_Anomaly_Annotation_for_Testing_Videos.txt", *LINES)
    imported = ucf_crime(source, tmp_path)
    assault = "Videos/Assault/assault010_X264.MP4"
    normal = "Videos/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4"
    assert imported.are_events and not imported.missing
    assert imported.rows == [
        ManifestRow(f"Videos/{VIDEOS[0]}", 1, 5.5, 8.0, "test", "Abuse028_x264"),
        ManifestRow(assault, 1, 11330 / 30, 11680 / 30, "test", "Assault010_x264"),
        ManifestRow(assault, 1, 12260 / 30, 431.0, "test", "Assault010_x264"),
        ManifestRow(normal, 0, None, None, "test", "Normal_Videos_003_x264"),
    ]
    assert any("Arson 1" in note for note in imported.notes)


def test_the_violent_classes_can_be_chosen(tmp_path: Path, videos: Path):
    source = write(tmp_path / "list.txt", *LINES)
    imported = ucf_crime(source, tmp_path, violent=("Arson",))
    assert {Path(row.video).stem for row in imported.rows if row.label} == {"Arson011_x264"}


@pytest.mark.parametrize(
    "line",
    [
        *("Abuse028_x264 Abuse 165 240 -1 -1", "abuse028_x264.mp4 ABUSE 165 240 -1 -1 1412"),
        *("Abuse/Abuse028_x264.mp4\tAbuse\t165\t240\t-1\t-1", "Abuse028_x264.mp4,Abuse,165,240"),
    ],
)
def test_variants_of_a_line_mean_the_same(tmp_path: Path, videos: Path, line: str):
    imported = ucf_crime(write(tmp_path / "list.txt", line), tmp_path, videos)
    assert [(row.start, row.end) for row in imported.rows] == [(5.5, 8.0)]


def test_the_list_is_found_in_a_folder_and_missing_videos_are_named(tmp_path: Path, videos: Path):
    write(tmp_path / "UCF_Crimes/list.txt", *LINES, "Fighting003_x264.mp4 Fighting 1 2 -1 -1")
    imported = ucf_crime(tmp_path, tmp_path)
    assert imported.missing == ["Fighting003_x264.mp4"]
    assert len(imported.rows) == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Fighting003_x264.mp4  Fighting  240  165  -1  -1", "ends at 165"),
        ("Fighting003_x264.mp4  Fighting  -1  165  -1  -1", "from -1 to 165 is impossible"),
        ("Fighting003_x264.mp4  Fighting  -1  -1  -1  -1", "Fighting, but has 0 events"),
        ("Fighting003_x264.mp4  Normal  30  60  -1  -1", "Normal, but has 1 event"),
        ("Fighting003_x264.mp4  Kidnapping  30  60  -1  -1", "Kidnapping"),
        ("Fighting003_x264.mp4  Fighting  30", "a start and an end frame"),
        ("Fighting003_x264.mp4  Fighting  30  sixty  -1  -1", "a start and an end frame"),
        ("Abuse028_x264.mp4  Abuse  165  240  -1  -1", "listed twice"),
        ("Fighting003_x264.mp4", "no class"),
    ],
)
def test_what_is_impossible_is_an_error_with_its_line(
    tmp_path: Path, videos: Path, line: str, reason: str
):
    source = write(tmp_path / "list.txt", *LINES, "", line)
    with pytest.raises(UserError, match=rf"list\.txt, line 6: .*{reason}"):
        ucf_crime(source, tmp_path)


@pytest.mark.parametrize("text", ["", "fight_0001 12 24", "a.mp4 violent 1 2", "\0\1"])
def test_other_files_are_of_another_format(tmp_path: Path, text: str):
    assert ucf_crime(write(tmp_path / "list.txt", text), tmp_path) is None
