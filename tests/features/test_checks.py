from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.features.checks import (
    contradicting_labels,
    require_varied_features,
    static_clips,
    uncertain_validation,
)
from violence_detection.features.survey import Survey


def clips_of(count: int, split: str = "train") -> list[Clip]:
    return [Clip(Path("/"), f"{number:03d}", number % 2, split) for number in range(count)]


def survey_of(summaries: np.ndarray, changes: np.ndarray) -> Survey:
    unknown = np.full(len(summaries), np.nan), np.ones(len(summaries))
    return Survey([], {row: row for row in range(len(summaries))}, summaries, changes, *unknown)


def test_still_among_moving_clips() -> None:
    changes = np.random.default_rng(0).uniform(0.3, 0.6, 20).astype(np.float32)
    changes[7] = 1e-3
    clips = {clip: row for row, clip in enumerate(clips_of(20))}
    found = static_clips(clips, survey_of(np.ones((20, 4)), changes))
    assert [clip.name for clip in found] == ["007"]


def test_one_frame_per_clip_reveals_no_stills() -> None:
    clips = {clip: row for row, clip in enumerate(clips_of(9))}
    assert static_clips(clips, survey_of(np.ones((9, 4)), np.full(9, np.nan))) == []


def test_equal_features_of_all_clips_are_refused() -> None:
    summaries = np.ones((9, 4), np.float32)
    changes = np.ones(9, np.float32)
    with pytest.raises(UserError, match=r"all 9 clips are the same: --vgg19-weights"):
        require_varied_features(survey_of(summaries, changes))
    summaries[3, 2] = 1.01
    require_varied_features(survey_of(summaries, changes))


def test_only_copies_with_different_labels_contradict() -> None:
    clips = [Clip(Path("/"), str(n), label, "train") for n, label in enumerate((0, 0, 1, 1, 0))]
    rows = dict(zip(clips, (5, 5, 6, 7, 7), strict=True))
    assert contradicting_labels(rows) == [clips[3:]]


@pytest.mark.parametrize(
    ("clips", "words"), [(20, "0.70 to 0.97"), (100, "50 nonviolent, 50 violent"), (400, None)]
)
def test_small_validation_split_is_reported_with_its_interval(
    clips: int, words: str | None
) -> None:
    message = uncertain_validation(np.arange(clips) % 2)
    assert (words in message) if words else message is None
