from pathlib import Path

import pytest

from violence_detection.inference.detector import Detector, PredictedClip, Prediction
from violence_detection.inference.events import Window
from violence_detection.inference.windows import window_sampling
from violence_detection.serving.schemas import clip_answer, timeline_answer


def test_frames_of_a_file_without_timestamps_have_no_time(detector: Detector) -> None:
    prediction = Prediction(Path("clip"), probability=0.9, violent=True, attention=(0.25, 0.75))
    answer = clip_answer(detector, PredictedClip(prediction), seconds=0.5)
    assert [(frame.time, frame.attention) for frame in answer.frames] == [
        (None, 0.25),
        (None, 0.75),
    ]
    assert answer.violent
    assert answer.model == detector.name


@pytest.mark.parametrize(("duration", "expected"), [(None, 3.0), (2.5, 3.0), (4.0, 4.0)])
def test_timeline_lasts_at_least_until_its_last_window(
    detector: Detector, duration: float | None, expected: float
) -> None:
    windows = [Window(0.0, 2.0, 0.0), Window(1.0, 3.0, 0.0)]
    sampling = window_sampling(detector, 2.0, 1.0)
    answer = timeline_answer(detector, sampling, windows, duration, share=1.0, seconds=0.5)
    assert answer.duration == expected
    assert not answer.violent
    assert answer.events == []
