import pytest

from violence_detection.cameras.settings import Camera
from violence_detection.cameras.view import CameraView
from violence_detection.inference.live_source import parse_source


def test_scores_are_of_the_last_hour_and_the_highest_of_a_span_stands_for_it() -> None:
    view = CameraView(Camera("yard", parse_source("0")), 0.5)
    for second in range(2 * 3600):
        view.add_score(float(second), second % 10 / 10)
    scores = view.scores(10.0)
    assert len(scores) == pytest.approx(360, abs=1)
    assert all(score == 0.9 for _, score in scores)
    assert scores[0][0] >= 3600 - 1
    assert scores[-1][0] == 7199
