"""The VIA 3 video annotator's projects and exports."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.tools.conftest import WriteVideo
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.tools.via import via
from violence_detection.errors import UserError

ATTRIBUTES = {
    "1": {
        "aname": "TEMPORAL-SEGMENTS",
        "anchor_id": "FILE1_Z2_XY0",
        "type": 4,
        "options": {"default": "Default"},
    },
    "2": {
        "aname": "event",
        "anchor_id": "FILE1_Z2_XY0",
        "type": 4,
        "options": {"0": "Fight", "1": "Normal", "2": "Dance"},
    },
    "3": {"aname": "note", "anchor_id": "FILE1_Z0_XY0", "type": 1, "options": {}},
}


def metadata(view: str, times: list[float], **values: str) -> dict[str, Any]:
    """Return metadata of a view; values by "a" and the attribute's id."""
    av = {key[1:]: value for key, value in values.items()}
    return {"vid": view, "flg": 0, "z": times, "xy": [], "av": av}


def write(path: Path, found: dict[str, Any], names: tuple[str, ...] = ("a.avi", "b.avi")) -> Path:
    """Write a project with a view per file."""
    numbered = {str(number): name for number, name in enumerate(names, start=1)}
    project = {
        "project": {"pid": "x", "data_format_version": "3.1.1", "vid_list": list(numbered)},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
        "attribute": ATTRIBUTES,
        "file": {
            key: {"fid": int(key), "fname": name, "type": 4, "loc": 1, "src": ""}
            for key, name in numbered.items()
        },
        "metadata": found,
        "view": {key: {"fid_list": [int(key)]} for key in numbered},
    }
    path.write_text(json.dumps(project))
    return path


def test_segments_of_a_project(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("videos/a.avi")
    write_video("videos/b.avi")
    source = write(
        tmp_path / "project.json",
        {
            "1_a": metadata("1", [1.5, 3], a1="default", a2="0"),
            "1_b": metadata("1", [5, 7.25], a2="1", a3="two men leave a fight unharmed"),
            "1_c": metadata("1", [8], a2="0"),  # a still
            "1_d": metadata("1", [2, 4], a2="1") | {"flg": 1},  # deleted
        },
    )
    found = via(source, tmp_path, tmp_path / "videos")
    assert found is not None
    name = "videos/a.avi"
    assert found.rows == [
        ManifestRow(name, 1, 1.5, 3, group=name),
        ManifestRow(name, 0, 5, 7.25, group=name),
    ]
    assert not found.are_events
    assert any("1 video left out" in note for note in found.notes)


def test_files_as_a_whole_by_their_url(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("a.avi")
    write_video("b c.avi")
    names = ("https://host/A.AVI", "file:///home/other/b%20c.avi")
    found = via(
        write(
            tmp_path / "p.json",
            {"x": metadata("1", [], a2="0"), "y": metadata("2", [], a2="1")},
            names,
        ),
        tmp_path,
        None,
    )
    assert found is not None
    assert [(row.video, row.label) for row in found.rows] == [("a.avi", 1), ("b c.avi", 0)]


HEAD = "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
FULL = (
    HEAD
    + f"# ATTRIBUTE = {json.dumps(ATTRIBUTES)}\n"
    + "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,"
    + "metadata\n"
    + '"1_a","[""a.avi""]",0,"[1.5,3]","[]","{""2"":""0""}"\n'
    + '"1_b","[""a.avi""]",0,"[4.2]","[2,10,20,50,80]","{""2"":""1""}"\n'
)
SEGMENTS = (
    HEAD
    + "# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata\n"
    + '"1_a","[""a.avi""]",1.5,3,"{""event"":""Fight""}"\n'
    + '"1_b","[""a.avi""]",4.2,,"{""event"":""Fight""}"\n'
)


@pytest.mark.parametrize(
    "text", [FULL, SEGMENTS, FULL.replace("\n", "\r\n"), SEGMENTS.replace("# CSV_HEADER = ", "")]
)
def test_exports(tmp_path: Path, write_video: WriteVideo, text: str) -> None:
    write_video("a.avi")
    (tmp_path / "e.csv").write_text(text)
    found = via(tmp_path / "e.csv", tmp_path, None)
    assert found is not None
    assert found.rows == [ManifestRow("a.avi", 1, 1.5, 3.0, group="a.avi")]
    assert found.are_events


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"m": metadata("1", [3, 1.5], a2="0")}, "metadata m: ends at 1.5 s"),
        ({"m": metadata("1", [1, 2, 3], a2="0")}, "metadata m: times"),
        ({"m": metadata("1", [1, 2], a2="2"), "n": metadata("1", [3, 4], a2="0")}, "m: Dance"),
        ({"m": metadata("9", [1, 2], a2="0")}, "metadata m: view 9"),
    ],
)
def test_errors_name_the_metadata(
    tmp_path: Path, write_video: WriteVideo, found: dict[str, Any], message: str
) -> None:
    write_video("a.avi")
    write_video("b.avi")
    with pytest.raises(UserError, match=message):
        via(write(tmp_path / "p.json", found), tmp_path, None)


def test_a_broken_line_is_named(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("a.avi")
    (tmp_path / "e.csv").write_text(SEGMENTS + '"1_c","[""a.avi""]",1\n')
    with pytest.raises(UserError, match="line 5: has 3 columns, not 5"):
        via(tmp_path / "e.csv", tmp_path, None)


@pytest.mark.parametrize("text", ["", "video,label\n", "{}", '{"project": {}}'])
def test_other_files_are_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other"
    path.write_text(text)
    assert via(path, tmp_path, None) is None
    assert via(tmp_path, tmp_path, None) is None
