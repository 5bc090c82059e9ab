import json
from pathlib import Path

import pytest

from benchmarks import long_videos, segments
from violence_detection.clips.manifest import read_manifest


def test_segments_have_the_frames_of_the_clips(
    drawn_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--dataset-path", str(drawn_clips), "--work-dir", str(tmp_path), "--files", "3"]
    assert segments.main([*command, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["clips"] == figures["identical"] == 28
    assert len(read_manifest(tmp_path / "segments.csv")) == 28
    assert "identical" in capsys.readouterr().out


@pytest.mark.slow
def test_events_of_joined_test_clips_are_compared(trained: Path, tmp_path: Path) -> None:
    command = ["--checkpoint-dir", str(trained / "run"), "--work-dir", str(tmp_path)]
    assert long_videos.main([*command, "--files", "1", "--window", "2", "--stride", "2"]) == 0
    figures = json.loads((tmp_path / "event_figures.json").read_text())
    assert "long_1.mp4" in json.dumps(figures)
    assert [row.label for row in read_manifest(tmp_path / "events.csv")].count(1) == 4
