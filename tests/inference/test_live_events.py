import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from violence_detection.inference.events import Window
from violence_detection.inference.live_events import LiveEvents


def notices_of(windows: Sequence[Window], gap: float = 1.0) -> list[dict[str, Any]]:
    notices: list[dict[str, Any]] = []
    events = LiveEvents("camera 0", 0.5, notices.append)
    for window in windows:
        events.add(window, gap, datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=window.start))
    events.close()
    return notices


def windows(*probabilities: float) -> list[Window]:
    """Return windows of two seconds, one starting each second."""
    return [Window(float(n), n + 2.0, p) for n, p in enumerate(probabilities)]


def test_notices_are_sent_when_an_event_starts_and_when_it_ends() -> None:
    notices = notices_of(windows(0.1, 0.6, 0.9, 0.2, 0.1, 0.1, 0.1, 0.7))
    of_both = {"source": "camera 0", "event": 1, "time": "2030-01-01T00:00:01.000+00:00"}
    assert notices[:2] == [
        of_both | {"ongoing": True, "start": 1, "end": None, "peak": 2, "probability": 0.6},
        of_both | {"ongoing": False, "start": 1, "end": 4, "peak": 3, "probability": 0.9},
    ]
    assert [(n["event"], n["ongoing"], n["start"]) for n in notices[2:]] == [
        (2, True, 7),
        (2, False, 7),  # when the source ends
    ]
    assert json.loads(json.dumps(notices)) == notices


@pytest.mark.parametrize(("gap", "events"), [(1.0, 2), (4.0, 1)])
def test_skipped_windows_do_not_end_an_event(gap: float, events: int) -> None:
    apart = [Window(0.0, 2.0, 0.9), Window(5.0, 7.0, 0.9)]
    assert notices_of(apart, gap)[-1]["event"] == events


def test_no_violence_no_notice() -> None:
    assert notices_of(windows(0.1, 0.2, float("nan"))) == []
