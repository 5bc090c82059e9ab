from pathlib import Path

import cv2

from benchmarks.leakage import ALTERATIONS, altered_copies
from violence_detection.clips.clip import Clip
from violence_detection.clips.frames import read_frames


def test_each_alteration_gives_a_readable_copy_of_its_source(
    drawn_clips: Path, tmp_path: Path
) -> None:
    source = Clip(drawn_clips, "train/violent/violent0.mp4", 1, "train")
    copies = altered_copies([source], tmp_path)
    assert {copy.group for copy in copies} == set(ALTERATIONS)
    assert set(copies.values()) == {source}
    heights = {}
    for copy in copies:
        assert (copy.label, copy.split) == (1, "test")
        assert len(read_frames(copy.path, 4)) == 4
        heights[copy.group] = cv2.VideoCapture(str(copy.path)).get(cv2.CAP_PROP_FRAME_HEIGHT)
    assert heights["half the size"] == heights["mirrored"] / 2
