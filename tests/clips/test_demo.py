from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips import demo
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.demo import draw_clip, draw_demo_clips
from violence_detection.clips.frames import read_clip, read_frames
from violence_detection.clips.splits import count_by_split
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import reported_duration
from violence_detection.errors import UserError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dataset have four clips of each class."""
    monkeypatch.setattr(demo, "CLIPS_PER_CLASS", {"train": 2, "val": 1, "test": 1})


@pytest.mark.usefixtures("small")
def test_demo_is_a_dataset_that_is_drawn_once(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    draw_demo_clips(folder)
    clips = find_clips(folder, seed=0)
    assert count_by_split(clips) == {
        "train": {"nonviolent": 2, "violent": 2},
        "val": {"nonviolent": 1, "violent": 1},
        "test": {"nonviolent": 1, "violent": 1},
    }
    clips[0].path.unlink()
    draw_demo_clips(folder)
    assert not clips[0].path.exists(), "a complete dataset is left as it is"


@pytest.mark.usefixtures("small")
def test_demo_that_was_interrupted_is_drawn_to_the_end(tmp_path: Path) -> None:
    draw_demo_clips(tmp_path / "whole")
    draw_demo_clips(tmp_path / "resumed")
    (tmp_path / "resumed" / ".demo_complete").unlink()
    (tmp_path / "resumed" / "val" / "violent" / "violent_00.mp4").unlink()
    draw_demo_clips(tmp_path / "resumed")
    for clip in find_clips(tmp_path / "whole", seed=0):
        assert clip.path.read_bytes() == (tmp_path / "resumed" / clip.file).read_bytes()


def test_demo_is_not_drawn_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(UserError, match=r"not empty.*--dataset-path.*--demo"):
        draw_demo_clips(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_fights_move_more_than_peaceful_clips(tmp_path: Path) -> None:
    motion: dict[bool, list[float]] = {False: [], True: []}
    for violent, found in motion.items():
        for seed in range(4):
            path = tmp_path / f"{violent}{seed}.mp4"
            draw_clip(path, violent, np.random.default_rng(seed))
            assert reported_duration(path) == pytest.approx(2.0)
            assert read_clip(path, 2)[1].aspect_ratio == pytest.approx(4 / 3)
            found.append(stream_images(read_frames(path, 16), "difference").mean())
    assert np.mean(motion[True]) > 1.2 * np.mean(motion[False])
