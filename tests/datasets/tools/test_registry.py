"""Exports of the tools among all formats."""

import json
from pathlib import Path

import pytest

from tests.datasets.tools import test_cvat, test_fiftyone, test_label_studio, test_via
from tests.datasets.tools.conftest import WriteVideo
from violence_detection.datasets.formats import read


def write_source(name: str, folder: Path) -> Path:
    """Write an export that names a.avi, with one violent segment from 1 s to 2 s."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "export"
    if name == "CVAT":
        fight = test_cvat.track("fight", test_cvat.box(10), test_cvat.box(20, outside=1))
        return test_cvat.write(path, fight, meta=test_cvat.META.replace("Yard.AVI", "a.avi"))
    if name == "Label Studio":
        region = test_label_studio.region("fight", 11, 20)
        return test_label_studio.write(path, test_label_studio.task(1, "a.avi", region, fps=10))
    if name == "FiftyOne":
        field = test_fiftyone.events(("fight", [11, 20]))
        return test_fiftyone.write(folder / "set", test_fiftyone.sample("a.avi", events=field))
    if name == "FiftyOne labels":
        labels = {"a": [{"label": "fight", "support": [11, 20]}]}
        (folder / "labels.json").write_text(json.dumps({"classes": None, "labels": labels}))
        return folder
    if name == "VIA":
        segment = test_via.metadata("1", [1, 2], a2="0")
        return test_via.write(path, {"1_a": segment}, names=("a.avi",))
    path = path.with_suffix(".csv")
    path.write_text(test_via.SEGMENTS.replace("1.5,3", "1,2"))
    return path


@pytest.mark.parametrize(
    "name", ["CVAT", "Label Studio", "FiftyOne", "FiftyOne labels", "VIA", "VIA CSV"]
)
def test_exactly_one_format_fits(tmp_path: Path, write_video: WriteVideo, name: str) -> None:
    write_video("videos/a.avi")
    imported = read(write_source(name, tmp_path / "x"), tmp_path, tmp_path / "videos")
    assert imported.format == name.split(" CSV")[0].split(" labels")[0]
    assert imported.are_events
    (row,) = imported.rows
    assert (row.video, row.label, row.start, row.end) == ("videos/a.avi", 1, 1, 2)
