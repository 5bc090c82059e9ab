"""FiftyOne's data sets on disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.tools.conftest import WriteVideo
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.tools.fiftyone import fiftyone
from violence_detection.errors import UserError


def events(*detections: tuple[Any, ...]) -> dict[str, Any]:
    """Return a field of labels with support, and confidence if given."""
    keys = ("label", "support", "confidence")
    parts = [
        {"_cls": "TemporalDetection", "tags": [], **dict(zip(keys, each, strict=False))}
        for each in detections
    ]
    return {"_cls": "TemporalDetections", "detections": parts}


def sample(path: str, *tags: str, **fields: Any) -> dict[str, Any]:
    """Return a sample."""
    return {"filepath": path, "tags": list(tags), "_media_type": "video", **fields}


def write(folder: Path, *samples: dict[str, Any]) -> Path:
    """Write a data set."""
    folder.mkdir(exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps({"version": "1.0.0", "media_type": "video"}))
    (folder / "samples.json").write_text(json.dumps({"samples": list(samples)}))
    return folder


def test_support_is_frames_from_1_both_included(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("set/data/a.avi")
    write_video("set/data/b.avi")
    write_video("set/data/c.avi")
    folder = write(
        tmp_path / "set",
        sample("data/a.avi", "train", events=events(("Fight", [11, 20]), ("Fight", [96, 100]))),
        sample(
            "data/b.avi",
            "train",
            events=events(("Fight", [31, 60])),
            metadata={"_cls": "VideoMetadata", "frame_rate": 30.0},
        ),
        sample("data/c.avi", "val", events=events()),
    )
    expected = [
        ManifestRow("set/data/a.avi", 1, 1.0, 2.0, "train", "set/data/a.avi"),
        ManifestRow("set/data/a.avi", 1, 9.5, 10.0, "train", "set/data/a.avi"),
        ManifestRow("set/data/b.avi", 1, 1.0, 2.0, "train", "set/data/b.avi"),
        ManifestRow("set/data/c.avi", 0, split="val"),
    ]
    for source in (folder, folder / "samples.json"):
        found = fiftyone(source, tmp_path, None)
        assert found is not None
        assert found.rows == expected
        assert found.are_events


def test_predictions_count_only_without_labels_of_people(
    tmp_path: Path, write_video: WriteVideo
) -> None:
    write_video("set/a.avi")
    predicted = {"_cls": "Classification", "label": "violent", "confidence": 0.9}
    truth = {"_cls": "Classification", "label": "nonviolent"}
    both = sample("a.avi", prediction=predicted, ground_truth=truth)
    found = fiftyone(write(tmp_path / "set", both), tmp_path, None)
    assert found is not None
    assert [row.label for row in found.rows] == [0]
    assert any("prediction" in note for note in found.notes)
    found = fiftyone(write(tmp_path / "set", sample("a.avi", p=predicted)), tmp_path, None)
    assert found is not None
    assert [row.label for row in found.rows] == [1]


def test_temporal_detection_dataset(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video("set/data/a.avi")
    write_video("set/data/sub/b.avi")
    write_video("set/data/c.avi")
    write_video("set/data/d.avi")
    labels = {
        "a": [{"label": 0, "support": [1, 10], "confidence": None}],
        "sub/b": [{"label": "Fight", "timestamps": [2.5, 3.5]}],
        "c": [],
        "d": None,
        "gone": [{"label": 0, "support": [1, 10]}],
    }
    path = tmp_path / "set" / "labels.json"
    path.write_text(json.dumps({"classes": ["Fight", "Run"], "labels": labels}))
    found = fiftyone(tmp_path / "set", tmp_path, None)
    assert found is not None
    assert found.rows == [
        ManifestRow("set/data/a.avi", 1, 0.0, 1.0, group="set/data/a.avi"),
        ManifestRow("set/data/sub/b.avi", 1, 2.5, 3.5, group="set/data/sub/b.avi"),
        ManifestRow("set/data/c.avi", 0),
    ]
    assert found.missing == ["gone"]
    assert any("1 video left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (sample("a.avi", e=events(("Fight", [0, 5]))), r"support \[0, 5\]"),
        (sample("a.avi", e=events(("Fight", [9, 5]))), r"sample a.avi, field e: support \[9, 5\]"),
        (sample("a.avi", e=events(("Fight", None))), "support None"),
        (sample("a.avi", "train", "test", e=events()), "train and test"),
        (sample("a.avi", e=events(("Fight", [1, 5]), ("push", [6, 9]))), "push is neither"),
        ({"filepath": "a.jpg", "_media_type": "image"}, "images"),
    ],
)
def test_errors_name_the_sample(
    tmp_path: Path, write_video: WriteVideo, item: dict[str, Any], message: str
) -> None:
    write_video("set/a.avi")
    with pytest.raises(UserError, match=message):
        fiftyone(write(tmp_path / "set", item), tmp_path, None)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"samples": [{"name": 1}]}, {"classes": ["a"], "labels": {"x": 0}}, {"labels": {}}],
)
def test_other_files_are_something_else(tmp_path: Path, content: object) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    assert fiftyone(path, tmp_path, None) is None
    assert fiftyone(tmp_path, tmp_path, None) is None
