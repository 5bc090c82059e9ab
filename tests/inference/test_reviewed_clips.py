"""The order of review, known labels, and events in frames."""

from pathlib import Path

import pytest

from violence_detection.clips.frames import ClipInfo
from violence_detection.inference.detector import Prediction
from violence_detection.inference.events import Event, Timeline, Window
from violence_detection.inference.reviewed_clips import (
    certainty_of,
    known_labels,
    most_doubtful_first,
    reviewed_clip,
)

INFO = ClipInfo(50, 2.0, None, 1.0, False, 1.0)


def test_contradicted_labels_come_first_and_then_what_is_least_certain() -> None:
    cases = [("sure", 0.9, 1), ("unsure", 0.55, None), ("wrong", 0.6, 0), ("very wrong", 0.1, 1)]
    clips = [
        reviewed_clip(Prediction(Path(name), probability, info=INFO), 0.5, label)
        for name, probability, label in cases
    ]
    ordered = most_doubtful_first(clip for clip in clips if clip)
    assert [str(clip.path) for clip in ordered] == ["very wrong", "wrong", "unsure", "sure"]
    assert [clip.contradicts_label for clip in ordered] == [True, True, False, False]


@pytest.mark.parametrize(
    ("probability", "threshold", "certainty"),
    [
        (0.5, 0.5, 0),
        (1, 0.5, 1),
        (0, 0.5, 1),
        (0.9, 0.8, 0.5),
        (0.6, 0.8, 0.25),
        (1, 1, 0),
        (0, 0, 0),
    ],
)
def test_certainty_is_the_distance_from_the_threshold(
    probability: float, threshold: float, certainty: float
) -> None:
    assert certainty_of(probability, threshold) == pytest.approx(certainty)


def test_labels_are_known_where_both_classes_have_a_folder() -> None:
    violent, calm = Path("a/train/Fights/1.mp4"), Path("a/train/normal/2.mp4")
    alone = Path("fight_detector/3.mp4")
    assert known_labels([violent, calm, alone, Path("4.mp4")]) == {violent: 1, calm: 0}


def test_unreadable_clips_are_left_out() -> None:
    assert reviewed_clip(Prediction(Path("a"), error="empty"), 0.5, None) is None
    assert reviewed_clip(Timeline(Path("a"), error="empty"), 0.5, None) is None


def test_events_in_frames_from_1() -> None:
    event = Event(1.0, 1.96, 1.5, 0.8)  # the last frame of a window is shown at its end
    window = Window(1.0, 1.96, 0.8)
    clip = reviewed_clip(Timeline(Path("gone"), (window,), (event,)), 0.5, None)
    assert clip is not None
    assert clip.frame_rate == 25
    assert clip.frames_of(event) == (26, 50)
    whole = reviewed_clip(Prediction(Path("a"), 0.8, info=INFO), 0.5, None)
    assert whole is not None
    assert (whole.frame_rate, whole.frames) == (25, 50)
    assert whole.frames_of(Event(1.0, 3.0, 2.0, 0.8)) == (26, 50)
