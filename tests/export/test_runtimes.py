import math

import numpy as np
import pytest

from violence_detection.export.inputs import Inputs
from violence_detection.export.runtimes import (
    MOST_ROUNDS,
    Predictor,
    compare,
    measure_speeds,
    predict_clips,
)
from violence_detection.inference.detector import ClassifierOutput


def first_feature(batch: int | None, calls: list[int]) -> Predictor:
    """Return a predictor of a clip's first feature that records the clips of each call."""

    def predict(clips: Inputs) -> ClassifierOutput:
        features = clips["features"]
        calls.append(len(features))
        assert batch in (None, len(features))
        return ClassifierOutput(features[:, 0, 0], features[:, :, 0])

    return Predictor(predict, batch)


def clips_of(values: np.ndarray) -> list[Inputs]:
    return [{"features": np.full((1, 2, 3), value)} for value in values]


@pytest.mark.parametrize(
    ("batch", "expected"), [(None, [3, 3, 1]), (3, [3, 3, 3]), (1, [1] * 7), (16, [16])]
)
def test_clips_are_predicted_in_batches_and_a_fixed_one_is_padded(
    batch: int | None, expected: list[int]
) -> None:
    calls: list[int] = []
    values = np.arange(7.0)
    probabilities, attention = predict_clips(
        first_feature(batch, calls), clips_of(values), batch_size=3
    )
    np.testing.assert_array_equal(probabilities, values)
    np.testing.assert_array_equal(attention, np.stack([values, values], axis=1))
    assert calls == expected


def test_comparison_has_differences_changed_predictions_and_accuracy() -> None:
    labels = np.array([0, 0, 1, 1])
    original = ClassifierOutput(np.array([0.1, 0.49, 0.6, 0.9]), np.full((4, 2), 0.5))
    found = ClassifierOutput(
        np.array([0.1, 0.5, 0.6, 0.8]), np.array([[0.5, 0.5]] * 3 + [[0.7, 0.3]])
    )
    comparison = compare(found, original, labels, threshold=0.5)
    assert comparison.clips == 4
    assert comparison.largest_difference == pytest.approx(0.1)
    assert comparison.largest_attention_difference == pytest.approx(0.2)
    assert comparison.changed_predictions == 1
    assert comparison.accuracy == 0.75
    assert compare(original, original, labels, threshold=0.5).accuracy == 1


def test_nan_is_within_no_tolerance() -> None:
    attention = np.ones((2, 1))
    found = ClassifierOutput(np.array([0.5, np.nan]), attention)
    original = ClassifierOutput(np.array([0.5, 0.5]), attention)
    difference = compare(found, original, np.array([0, 1]), 0.5).largest_difference
    assert math.isnan(difference)
    assert not difference <= 1.0


def test_predictors_are_timed_in_turns_and_equally_often() -> None:
    turns: list[str] = []

    def named(name: str, batch: int | None) -> Predictor:
        inner = first_feature(batch, [])

        def predict(clips: Inputs) -> ClassifierOutput:
            turns.append(name)
            return inner.predict(clips)

        return Predictor(predict, batch)

    predictors = {"a": named("a", None), "b": named("b", 4)}
    speeds = measure_speeds(predictors, clips_of(np.arange(3.0)), batch_size=2)
    assert list(speeds) == ["a", "b"]
    assert all(speed.latency_ms > 0 for speed in speeds.values())
    assert all(speed.clips_per_second > 0 for speed in speeds.values())
    assert turns == ["a", "a", "b", "b"] * (len(turns) // 4)
    assert len(turns) // 4 <= MOST_ROUNDS + 1
