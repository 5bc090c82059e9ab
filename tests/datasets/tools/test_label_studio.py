"""Label Studio's exports."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.tools.conftest import WriteVideo
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.tools.label_studio import label_studio
from violence_detection.errors import UserError


def region(label: str, first: int, last: int) -> dict[str, Any]:
    """Return a region of TimelineLabels."""
    return {
        "id": f"{label}{first}",
        "from_name": "events",
        "to_name": "video",
        "type": "timelinelabels",
        "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": [label]},
    }


def choice(*labels: str) -> dict[str, Any]:
    """Return the answer of Choices."""
    return {
        "id": "x",
        "from_name": "violence",
        "to_name": "video",
        "type": "choices",
        "value": {"choices": list(labels)},
    }


def task(number: int, video: str, *results: dict[str, Any], **data: object) -> dict[str, Any]:
    """Return a task with an annotation."""
    annotation = {"id": number, "was_cancelled": False, "result": list(results)}
    return {"id": number, "data": {"video": video, **data}, "annotations": [annotation]}


def write(path: Path, *tasks: dict[str, Any]) -> Path:
    """Write an export."""
    path.write_text(json.dumps(tasks))
    return path


def test_timeline_labels_are_frames_of_the_rate_of_the_task(
    tmp_path: Path, write_video: WriteVideo
) -> None:
    write_video("clips/a b.avi")
    write_video("c.avi")
    write_video("d.avi")
    source = write(
        tmp_path / "export.json",
        task(1, "/data/upload/3/0f1e2d3c-a_b.avi", region("Fight", 51, 100), fps=25),
        task(2, "/data/local-files/?d=clips%2Fc.avi", region("Fight", 1, 24)),
        task(3, "https://host/d.avi?token=1.2", fps="30"),
    )
    found = label_studio(source, tmp_path, None)
    assert found is not None
    assert found.are_events
    assert found.rows == [
        ManifestRow("clips/a b.avi", 1, 2.0, 4.0, group="clips/a b.avi"),
        ManifestRow("c.avi", 1, 0.0, 1.0, group="c.avi"),
        ManifestRow("d.avi", 0),
    ]
    assert any("1 task taken as 24/s" in note for note in found.notes)


def test_seconds_of_audio_in_sync_and_boxes(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("a.avi")
    seconds = {
        "from_name": "label",
        "type": "labels",
        "value": {"start": 1.25, "end": 2.5, "channel": 0, "labels": ["violence"]},
    }
    boxes = {
        "from_name": "boxes",
        "type": "videorectangle",
        "value": {
            "framesCount": 100,
            "duration": 10,
            "sequence": [
                {"frame": 41, "enabled": True, "x": 1},
                {"frame": 50, "enabled": False, "x": 1},
                {"frame": 91, "enabled": True, "x": 1},
            ],
            "labels": ["fight"],
        },
    }
    source = write(tmp_path / "e.json", task(1, "a.avi", seconds, boxes))
    found = label_studio(source, tmp_path, None)
    assert found is not None
    assert [(row.start, row.end) for row in found.rows] == [(1.25, 2.5), (4, 5), (9, 10)]


def test_choices_and_the_annotation_that_counts(tmp_path: Path, write_video: WriteVideo) -> None:
    for name in "abcd":
        write_video(f"{name}.avi")
    several = task(2, "b.avi", choice("violent"))
    several["annotations"][0]["updated_at"] = "2024-01-01T00:00:00Z"
    several["annotations"] += [
        {"result": [choice("nonviolent")], "updated_at": "2024-02-01T00:00:00Z"},
        {"result": [], "updated_at": "2024-03-01T00:00:00Z", "was_cancelled": True},
    ]
    truth = task(3, "c.avi", choice("violent"))
    truth["annotations"][0] |= {"ground_truth": True, "created_at": "2024-01-01T00:00:00Z"}
    truth["annotations"].append({"result": [choice("normal")], "created_at": "2025-01-01"})
    waiting = {"id": 4, "data": {"video": "d.avi"}, "annotations": [], "predictions": []}
    source = write(
        tmp_path / "e.json", task(1, "a.avi", choice("violent")), several, truth, waiting
    )
    found = label_studio(source, tmp_path, None)
    assert found is not None
    assert not found.are_events
    assert [(row.video, row.label) for row in found.rows] == [
        ("a.avi", 1),
        ("b.avi", 0),
        ("c.avi", 1),
    ]
    assert any("2 tasks with several annotations" in note for note in found.notes)
    assert any("1 video left out" in note for note in found.notes)


def test_json_min(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("a.avi")
    write_video("b.avi")
    end = {"annotator": 1, "annotation_id": 7, "created_at": "", "updated_at": "", "lead_time": 1.5}
    timeline = {"ranges": [{"start": 11, "end": 20}], "timelinelabels": ["fight"]}
    source = write(
        tmp_path / "min.json",
        {
            "video": "a.avi",
            "title": "normal street",
            "fps": 10,
            "id": 1,
            "events": [timeline],
            **end,
        },
        {"video": "b.avi", "title": "street fight", "fps": 10, "id": 2, "choice": "Normal", **end},
    )
    found = label_studio(source, tmp_path, None)
    assert found is not None
    assert found.rows == [ManifestRow("a.avi", 1, 1.0, 2.0, group="a.avi"), ManifestRow("b.avi", 0)]
    assert found.are_events


def test_a_store_keeps_its_url(tmp_path: Path) -> None:
    source = write(tmp_path / "e.json", task(1, "s3://bucket/x.mp4", choice("violent")))
    found = label_studio(source, tmp_path, None)
    assert found is not None
    assert found.rows == [ManifestRow("s3://bucket/x.mp4", 1)]


def test_missing_videos_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "e.json", task(1, "/data/upload/1/x.mp4", choice("violent")))
    found = label_studio(source, tmp_path, None)
    assert found is not None
    assert found.missing == ["/data/upload/1/x.mp4"]
    assert not found.rows


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (task(7, "a.avi", region("Fight", 9, 3)), "task 7, region Fight9.*no frames"),
        (task(7, "a.avi", region("Fight", 1, 900)), r"taken as 24/s.*the video lasts 10 s"),
        (task(7, "a.avi", region("punch", 1, 3)), "punch"),
        (task(7, "a.avi", choice("violent", "nonviolent")), "task 7.*violent and nonviolent"),
        ({"id": 7, "data": {"image": 3}, "annotations": []}, "task 7: its data names no video"),
    ],
)
def test_errors_name_the_task(
    tmp_path: Path, write_video: WriteVideo, item: dict[str, Any], message: str
) -> None:
    write_video("a.avi")
    with pytest.raises(UserError, match=message):
        label_studio(write(tmp_path / "e.json", item), tmp_path, None)


def test_a_folder_has_one_export(tmp_path: Path) -> None:
    item = task(1, "s3://bucket/x.mp4", choice("violent"))
    write(tmp_path / "a.json", item)
    found = label_studio(tmp_path, tmp_path, None)
    assert found is not None and len(found.rows) == 1
    write(tmp_path / "b.json", item)
    with pytest.raises(UserError, match=r"several exports.*a\.json"):
        label_studio(tmp_path, tmp_path, None)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '{"samples": []}', "video,label\n", "[{]"])
def test_other_files_are_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert label_studio(path, tmp_path, None) is None
    assert label_studio(tmp_path, tmp_path, None) is None
