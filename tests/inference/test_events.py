import pytest

from violence_detection.inference.events import Event, Window, find_events


def windows(*probabilities: float) -> list[Window]:
    """Return windows of two seconds, one starting each second."""
    return [Window(float(n), n + 2.0, p) for n, p in enumerate(probabilities)]


@pytest.mark.parametrize(
    ("probabilities", "events"),
    [
        ([0.1, 0.2], []),
        ([], []),
        ([0.5], [Event(0, 2, 1, 0.5)]),
        ([0.1, 0.6, 0.9, 0.7, 0.1], [Event(1, 5, 3, 0.9)]),
        ([0.6, 0.1, 0.1, 0.8], [Event(0, 5, 4, 0.8)]),  # doubtful ones, less than a gap apart
        ([0.6, 0.1, 0.1, 0.1, 0.8], [Event(0, 2, 1, 0.6), Event(4, 6, 5, 0.8)]),
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.5], [Event(0, 2, 1, 0.9), Event(5, 7, 6, 0.5)]),
    ],
)
def test_events_are_windows_that_follow_each_other(
    probabilities: list[float], events: list[Event]
) -> None:
    assert list(find_events(windows(*probabilities), 0.5, gap=1.0)) == events


def test_event_is_yielded_when_it_is_over_not_at_the_end_of_the_video() -> None:
    def coming():
        yield from windows(0.1, 0.9, 0.1, 0.1, 0.1)
        pytest.fail("the event was over")

    assert next(find_events(coming(), 0.5, gap=0.5)) == Event(1, 3, 2, 0.9)
