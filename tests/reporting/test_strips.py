"""Which clips are shown, and their frames."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import write_hanging_clip
from violence_detection.clips.frames import even_positions, read_frames
from violence_detection.reporting.finished_run import PredictedClip
from violence_detection.reporting.strips import choose_clips, read_strips

FRAMES = 4


def predicted(*probabilities: float, label: int, threshold: float = 0.5) -> list[PredictedClip]:
    """Return clips of one label, named by their probability."""
    return [
        PredictedClip(f"{p:.3f} of {label}", label, p, int(p >= threshold)) for p in probabilities
    ]


def names(clips: list[PredictedClip]) -> list[str]:
    return [clip.name for clip in clips]


def picture(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


def test_worst_mistakes_come_first_then_uncertain_then_confident_ones_of_both_classes() -> None:
    violent = predicted(0.02, 0.4, 0.52, 0.7, 0.9, 0.99, label=1)
    others = predicted(0.95, 0.01, 0.1, 0.32, 0.45, label=0)
    chosen = choose_clips([*others, *violent], 0.5)
    assert names(chosen.worst) == ["0.020 of 1", "0.950 of 0", "0.400 of 1"]
    assert names(chosen.least_certain) == ["0.520 of 1", "0.450 of 0", "0.320 of 0", "0.700 of 1"]
    assert names(chosen.certain) == ["0.990 of 1", "0.900 of 1", "0.010 of 0", "0.100 of 0"]
    shown = names(list(chosen))
    assert len(shown) == len(set(shown))


def test_uncertain_is_what_is_near_the_threshold() -> None:
    clips = predicted(0.1, 0.21, 0.22, 0.5, 0.51, 0.6, 0.9, label=1, threshold=0.2)
    assert names(choose_clips(clips, 0.2).least_certain)[:2] == ["0.210 of 1", "0.220 of 1"]


@pytest.mark.parametrize(
    ("violent", "nonviolent", "of_each"), [(9, 9, (2, 2)), (1, 9, (1, 3)), (9, 0, (4, 0))]
)
def test_class_with_few_confident_clips_leaves_its_share_to_the_other(
    violent: int, nonviolent: int, of_each: tuple[int, int]
) -> None:
    uncertain = predicted(0.5, 0.5, 0.5, 0.5, label=1)
    clips = [
        *uncertain,
        *predicted(*[0.9] * violent, label=1),
        *predicted(*[0.1] * nonviolent, label=0),
    ]
    labels = [clip.label for clip in choose_clips(clips, 0.5).certain]
    assert (labels.count(1), labels.count(0)) == of_each


def test_strip_has_the_frames_in_time_order_and_the_aspect_ratio_of_the_clip(
    drawn_clips: Path, tmp_path: Path
) -> None:
    path = drawn_clips / "test" / "violent" / "violent0.mp4"
    strip = read_strips([(path, None)], FRAMES, FRAMES, 60)[path, None]
    frames = read_frames(path, FRAMES)
    assert len(strip.frames) == FRAMES
    for data, frame in zip(strip.frames, frames, strict=True):
        shown = picture(data)
        assert shown.shape == (strip.height, strip.width, 3)
        expected = cv2.resize(frame, (strip.width, strip.height), interpolation=cv2.INTER_AREA)
        assert np.abs(shown.astype(float) - expected).mean() < 12  # as JPEG keeps it

    wide = tmp_path / "wide.avi"
    writer = cv2.VideoWriter(str(wide), cv2.VideoWriter.fourcc(*"MJPG"), 5, (320, 80))
    for _ in range(FRAMES):
        writer.write(np.zeros((80, 320, 3), np.uint8))
    writer.release()
    strip = read_strips([(wide, None)], FRAMES, FRAMES, 60)[wide, None]
    assert strip.width == 4 * strip.height


def test_of_more_cached_frames_only_the_used_ones_are_shown(drawn_clips: Path) -> None:
    path = drawn_clips / "test" / "violent" / "violent0.mp4"
    strip = read_strips([(path, None)], 2, 8, 60)[path, None]
    assert len(strip.frames) == 2
    of_eight = read_frames(path, 8)
    for data, index in zip(strip.frames, even_positions(8, 2), strict=True):
        size = (strip.width, strip.height)
        expected = cv2.resize(of_eight[index], size, interpolation=cv2.INTER_AREA)
        assert np.abs(picture(data).astype(float) - expected).mean() < 12


def test_clip_that_cannot_be_read_has_a_reason_and_the_others_are_shown(
    drawn_clips: Path, tmp_path: Path
) -> None:
    good = tmp_path / "good.mp4"
    shutil.copyfile(drawn_clips / "test" / "violent" / "violent0.mp4", good)
    hanging = write_hanging_clip(tmp_path / "hanging.mp4")
    text, gone = tmp_path / "text.mp4", tmp_path / "gone.mp4"
    text.write_text("no video")
    clips = [(path, None) for path in (gone, text, hanging, good, good)]
    strips = read_strips(clips, FRAMES, FRAMES, timeout=2)
    troubles = {path.stem: strip.trouble for (path, _), strip in strips.items()}
    assert troubles == {
        "gone": "the file is missing",
        "text": "not a video that FFmpeg can open",
        "hanging": "could not be read within 2 s (--clip-timeout)",
        "good": None,
    }
    assert [len(strip.frames) for strip in strips.values()] == [0, 0, 0, FRAMES]


def test_without_clips_there_are_no_strips() -> None:
    assert read_strips([], FRAMES, FRAMES, 60) == {}
