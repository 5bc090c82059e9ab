import shutil
from pathlib import Path

import pytest

from benchmarks.frames import KINDS, compare


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg command")
@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_ffmpeg(name: str, tmp_path: Path) -> None:
    compared = compare(name, tmp_path)
    assert compared["frames"] == compared["frames_of_ffmpeg"] > 15
    assert compared["mean_difference"] <= compared["limit"]
