"""CVAT's XML."""

import zipfile
from pathlib import Path

import pytest

from tests.datasets.tools.conftest import WriteVideo
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.tools.cvat import cvat
from violence_detection.errors import UserError

META = """<meta><task><id>4</id><name>yard</name><size>100</size><mode>interpolation</mode>
<start_frame>0</start_frame><stop_frame>99</stop_frame><frame_filter></frame_filter>
<subset>Train</subset><labels><label><name>fight</name><attributes></attributes></label></labels>
<segments><segment><id>1</id><start>0</start><stop>99</stop></segment></segments>
</task><dumped>2024-01-01</dumped><source>Yard.AVI</source></meta>"""


def box(frame: int, outside: int = 0, attributes: str = "") -> str:
    """Return a box of a track."""
    return (
        f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" xtl="1.00" '
        f'ytl="1.00" xbr="9.00" ybr="9.00" z_order="0">{attributes}</box>'
    )


def track(label: str, *boxes: str, number: int = 0, more: str = "") -> str:
    """Return a track."""
    inside = "".join(boxes)
    return f'<track id="{number}" label="{label}" source="manual" {more}>{inside}</track>'


def write(path: Path, *objects: str, meta: str = META) -> Path:
    """Write an export."""
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
    path.write_text(f"{head}{meta}{''.join(objects)}</annotations>")
    return path


def test_tracks_last_to_the_first_frame_outside(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("videos/yard.avi")  # 10 frames a second
    source = write(
        tmp_path / "a.xml",
        track("fight", box(10), box(11), box(12), box(13, outside=1), box(20), box(24, outside=1)),
        track("Fight", box(12), box(15, outside=1), number=1),
        track("fight", box(98), box(99), number=2),
        track("person", box(0), box(99), number=3),
    )
    found = cvat(source, tmp_path, None)
    assert found is not None
    assert found.are_events
    name = "videos/yard.avi"
    assert found.rows == [
        ManifestRow(name, 1, 1.0, 1.5, "train", name),
        ManifestRow(name, 1, 2.0, 2.4, "train", name),
        ManifestRow(name, 1, 9.8, 10.0, "train", name),
    ]
    assert any("person (1)" in note for note in found.notes)


def test_attributes_answer_too(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("yard.avi")
    yes, no = (
        f'<attribute name="violent">{value}</attribute><attribute name="clothes">red</attribute>'
        for value in ("true", "false")
    )
    boxes = [box(5, 0, no), box(6, 0, yes), box(7, 0, yes), box(8, 0, no), box(9, 1, no)]
    source = write(tmp_path / "annotations.xml", track("person", *boxes))
    found = cvat(tmp_path, tmp_path, None)
    assert found is not None and source.exists()
    assert [(row.label, row.start, row.end) for row in found.rows] == [
        (0, 0.5, 0.6),
        (1, 0.6, 0.8),
        (0, 0.8, 0.9),
    ]


def test_tags_of_frames_that_follow_each_other_are_a_segment(
    tmp_path: Path, write_video: WriteVideo
) -> None:
    write_video("yard.avi")
    meta = META.replace("<frame_filter></frame_filter>", "<frame_filter>step=5</frame_filter>")
    tag = '<tag label="violence" source="manual"></tag>'
    images = [
        f'<image id="{frame}" name="frame_{frame:06d}" width="32" height="24">{inside}</image>'
        for frame, inside in ((0, ""), (5, tag), (10, tag), (15, ""), (95, tag))
    ]
    found = cvat(write(tmp_path / "a.xml", *images, meta=meta), tmp_path, None)
    assert found is not None
    assert [(row.start, row.end) for row in found.rows] == [(0.5, 1.5), (9.5, 10.0)]


def test_a_project_in_the_archive_that_cvat_exports(
    tmp_path: Path, write_video: WriteVideo
) -> None:
    write_video("a.avi")
    write_video("b.avi", rate=20)
    tasks = "".join(
        f"<task><id>{number}</id><name>task {number}</name><mode>interpolation</mode>"
        f"<subset>{subset}</subset><source>{name}</source></task>"
        for number, name, subset in ((1, "a.avi", "Train"), (2, "b.avi", "Test"), (3, "c.avi", ""))
    )
    meta = f"<meta><project><id>9</id><name>all</name><tasks>{tasks}</tasks></project></meta>"
    source = write(
        tmp_path / "annotations.xml",
        track("fight", box(10), box(20, 1), more='task_id="1" subset="Train"'),
        track("normal", box(10), box(20, 1), number=1, more='task_id="2" subset="Test"'),
        meta=meta,
    )
    archive = tmp_path / "project.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(source, "annotations.xml")
    found = cvat(archive, tmp_path, None)
    assert found is not None
    assert not found.are_events
    assert found.rows == [
        ManifestRow("a.avi", 1, 1.0, 2.0, "train", "a.avi"),
        ManifestRow("b.avi", 0, 0.5, 1.0, "test", "b.avi"),
    ]
    assert found.missing == ["c.avi"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "video,label\n",
        '{"annotations": []}',
        "<annotation><folder/></annotation>",
        "<annotations/>",
        "<!DOCTYPE html><html></html>",
        "<annotations",
    ],
)
def test_other_files_are_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.xml"
    path.write_text(text)
    assert cvat(path, tmp_path, None) is None


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([track("fight", box(1)), "<track"], "damaged XML"),
        ([track("fight", '<box frame="x" outside="0"/>')], "track 0: frame is 'x'"),
        ([track("person", box(1)), track("car", box(1))], "none of its labels.*person, car"),
    ],
)
def test_damage_is_an_error(
    tmp_path: Path, write_video: WriteVideo, objects: list[str], message: str
) -> None:
    write_video("yard.avi")
    with pytest.raises(UserError, match=message):
        cvat(write(tmp_path / "a.xml", *objects), tmp_path, None)


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        '<?xml version="1.0"?><!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
        "<annotations><version>&b;</version></annotations>"
    )
    with pytest.raises(UserError, match="DOCTYPE"):
        cvat(path, tmp_path, None)


def test_tasks_of_images_have_no_times(tmp_path: Path) -> None:
    meta = META.replace("interpolation", "annotation")
    with pytest.raises(UserError, match="'yard' is of images"):
        cvat(write(tmp_path / "a.xml", track("fight", box(1)), meta=meta), tmp_path, None)


def test_an_empty_task_is_left_out(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("yard.avi")
    found = cvat(write(tmp_path / "a.xml"), tmp_path, None)
    assert found is not None
    assert not found.rows
    assert any("1 video left out" in note for note in found.notes)
