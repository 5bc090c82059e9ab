import math
from collections.abc import Mapping

import numpy as np
import pytest

from violence_detection.export.runtimes import (
    MOST_TURNS,
    Judge,
    compare,
    predict_clips,
    time_in_turns,
)

Inputs = Mapping[str, np.ndarray]


def judge_of(batch: int | None, seen: list[int]) -> Judge:
    """Return a judge that says a clip's first feature, and keeps how many clips it was given."""

    def run(clips: Inputs) -> tuple[np.ndarray, np.ndarray]:
        features = clips["features"]
        seen.append(len(features))
        assert batch in (None, len(features))
        return features[:, 0, 0], features[:, :, 0]

    return Judge(run, batch)


def clips_of(values: np.ndarray) -> list[Inputs]:
    return [{"features": np.full((1, 2, 3), value)} for value in values]


@pytest.mark.parametrize(
    ("batch", "expected"), [(None, [3, 3, 1]), (3, [3, 3, 3]), (1, [1] * 7), (16, [16])]
)
def test_clips_are_judged_in_batches_and_a_fixed_one_is_filled(
    batch: int | None, expected: list[int]
) -> None:
    seen: list[int] = []
    values = np.arange(7.0)
    probabilities, attention = predict_clips(judge_of(batch, seen), clips_of(values), at_once=3)
    np.testing.assert_array_equal(probabilities, values)
    np.testing.assert_array_equal(attention, np.stack([values, values], axis=1))
    assert seen == expected


def test_difference_verdicts_and_accuracy_are_told() -> None:
    labels = np.array([0, 0, 1, 1])
    expected = np.array([0.1, 0.49, 0.6, 0.9]), np.full((4, 2), 0.5)
    judged = np.array([0.1, 0.5, 0.6, 0.8]), np.array([[0.5, 0.5]] * 3 + [[0.7, 0.3]])
    agreement = compare(judged, expected, labels, threshold=0.5)
    assert agreement.clips == 4
    assert agreement.largest_difference == pytest.approx(0.1)
    assert agreement.largest_attention_difference == pytest.approx(0.2)
    assert agreement.changed_verdicts == 1
    assert agreement.accuracy == 0.75
    assert compare(expected, expected, labels, threshold=0.5).accuracy == 1


def test_what_is_no_number_is_never_near() -> None:
    attention = np.ones((2, 1))
    judged, expected = (np.array([0.5, np.nan]), attention), (np.array([0.5, 0.5]), attention)
    difference = compare(judged, expected, np.array([0, 1]), 0.5).largest_difference
    assert math.isnan(difference)
    assert not difference <= 1.0


def test_judges_take_turns_and_a_larger_one_is_not_run_more_often() -> None:
    turns: list[str] = []

    def named(name: str, batch: int | None) -> Judge:
        inner = judge_of(batch, [])

        def run(clips: Inputs) -> tuple[np.ndarray, np.ndarray]:
            turns.append(name)
            return inner.run(clips)

        return Judge(run, batch)

    judges = {"a": named("a", None), "b": named("b", 4)}
    speeds = time_in_turns(judges, clips_of(np.arange(3.0)), at_once=2)
    assert list(speeds) == ["a", "b"]
    assert all(speed.latency_ms > 0 for speed in speeds.values())
    assert all(speed.clips_per_second > 0 for speed in speeds.values())
    assert turns == ["a", "a", "b", "b"] * (len(turns) // 4)
    assert len(turns) // 4 <= MOST_TURNS + 1
