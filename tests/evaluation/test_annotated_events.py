import math
from pathlib import Path

import pytest

from violence_detection.clips.manifest import ManifestRow
from violence_detection.errors import UserError
from violence_detection.evaluation.annotated_events import annotated_events, video_key


def test_violent_rows_are_events_and_those_that_overlap_or_touch_are_one(tmp_path: Path) -> None:
    rows = [
        ManifestRow("a.mp4", 1, 20.0, 30.0, split="test"),
        ManifestRow("a.mp4", 1, 0.0, 2.0),
        ManifestRow("a.mp4", 1, 1.0, 3.0),
        ManifestRow("./a.mp4", 1, 3.0, 4.0, split="val"),
        ManifestRow("a.mp4", 0, 5.0, 6.0),
        ManifestRow("b.mp4", 0),
        ManifestRow("c.mp4", 0, 0.0, 2.0),
        ManifestRow("d.mp4", 1),
        ManifestRow("e.mp4", 1, 5.0),
        ManifestRow("s3://bucket/f.mp4", 1, 1.0, 2.0),
    ]
    videos = annotated_events(rows, tmp_path / "events.csv")
    assert videos[str(tmp_path / "a.mp4")].events == [(0.0, 4.0), (20.0, 30.0)]
    assert videos[str(tmp_path / "a.mp4")].splits == {"test", "val"}
    assert videos[str(tmp_path / "b.mp4")].events == []
    assert videos[str(tmp_path / "c.mp4")].events == []
    assert videos[str(tmp_path / "d.mp4")].events == [(0.0, math.inf)]
    assert videos[str(tmp_path / "e.mp4")].events == [(5.0, math.inf)]
    assert videos["s3://bucket/f.mp4"].events == [(1.0, 2.0)]
    assert len(videos) == 6


def test_contradiction_is_an_error_that_names_the_video() -> None:
    rows = [ManifestRow("a.mp4", 0), ManifestRow("a.mp4", 1, 61.5, 70.0)]
    with pytest.raises(UserError, match=r"a\.mp4 is nonviolent as a whole, but violent at 61\.5 s"):
        annotated_events(rows, Path("events.csv"))


def test_a_link_and_its_file_are_one_video(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    assert video_key("link.mp4", tmp_path) == video_key(tmp_path / "a.mp4", Path("elsewhere"))
