import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.files import touch, write
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.cctv_fights import cctv_fights
from violence_detection.errors import UserError


def item(*segments: Any, label: Any = "Fight", **others: Any) -> dict[str, Any]:
    """Return a video's entry."""
    annotations = [{"segment": segment, "label": label} for segment in segments]
    made = {"duration": 66.0666, "subset": "validation", "nb_frames": 1982, "frame_rate": 30.0}
    return made | {"source": "CCTV", "annotations": annotations} | others


def ground_truth(folder: Path, **items: dict[str, Any]) -> Path:
    """Write `groundtruth.json` for videos that are there."""
    touch(folder, *(f"mpeg-001-100/{name}.mpeg" for name in items))
    text = json.dumps({"version": "1.0", "database": items}, indent=1)
    return write(folder / "groundtruth.json", text)


def test_segments_are_in_seconds(tmp_path: Path):
    source = ground_truth(
        tmp_path,
        fight_0001=item([12.233, 36.4], ["41.2", "53.5"]),
        fight_0002=item([0, 70.5], subset="training"),
        fight_0003=item(subset="testing"),
    )
    imported = cctv_fights(source, tmp_path)
    first, second, third = (f"mpeg-001-100/fight_000{number}.mpeg" for number in (1, 2, 3))
    assert imported.are_events and not imported.missing
    assert imported.rows == [
        ManifestRow(first, 1, 12.233, 36.4, "val", "fight_0001"),
        ManifestRow(first, 1, 41.2, 53.5, "val", "fight_0001"),
        ManifestRow(second, 1, 0.0, 66.0666, "train", "fight_0002"),
        ManifestRow(third, 0, None, None, "test", "fight_0003"),
    ]
    assert any("1 fight cut" in note for note in imported.notes)


def test_videos_elsewhere_and_missing_ones(tmp_path: Path):
    source = ground_truth(tmp_path / "list", fight_0001=item([1, 2]), fight_0002=item([1, 2]))
    videos = touch(tmp_path / "videos", "deep/down/FIGHT_0002.MP4")
    imported = cctv_fights(source, tmp_path, videos)
    assert [row.video for row in imported.rows] == ["videos/deep/down/FIGHT_0002.MP4"]
    assert imported.missing == ["fight_0001"]


def test_nonviolent_segments_are_left_out(tmp_path: Path):
    source = ground_truth(tmp_path, a=item([1, 2], label="NonFight"), b=item([1, 2], label="fight"))
    imported = cctv_fights(source, tmp_path)
    assert [row.label for row in imported.rows] == [0, 1]
    assert any("1 nonviolent segment" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (item([36.4, 12.2]), "ends at 12.2"),
        (item([5, 5]), "ends at 5"),
        (item([-1, 12]), "from -1 to 12 is impossible"),
        (item([float("nan"), 12]), "impossible"),
        (item([70, 80]), "lasts 66"),
        (item([1]), r"\[1\] is no"),
        (item("1-2"), "'1-2' is no"),
        (item(["one", 2]), "'one' is no number"),
        (item([1, 2], label="Dance"), "'Dance'"),
        (item([1, 2], label=None), "None"),
        (item([1, 2], subset="holdout"), "'holdout'"),
        (item([1, 2], duration="long"), "duration.*'long'"),
    ],
)
def test_what_is_impossible_is_an_error_with_its_item(
    tmp_path: Path, entry: dict[str, Any], reason: str
):
    source = ground_truth(tmp_path, fight_0001=item([1, 2]), fight_0042=entry)
    with pytest.raises(UserError, match=rf"groundtruth\.json, fight_0042: .*{reason}"):
        cctv_fights(source, tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"database": []}', '{"database": {"a": 1}}', "{"])
def test_other_files_are_of_another_format(tmp_path: Path, text: str):
    assert cctv_fights(write(tmp_path / "groundtruth.json", text), tmp_path) is None
