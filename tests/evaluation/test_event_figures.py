"""Event figures against values that were worked out by hand, in the comments."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from violence_detection.evaluation.event_figures import (
    ComparedVideo,
    ScoredSpan,
    average_precision,
    event_figures,
    figures_lines,
    found_events,
    frame_roc_auc,
    is_false_alarm,
    temporal_iou,
)

THRESHOLD = 0.5
Spans = list[tuple[float, float]]


def windows(*probabilities: float, length: float = 2.0, stride: float = 2.0) -> list[ScoredSpan]:
    """Return windows from 0 s on."""
    return [
        ScoredSpan(stride * number, stride * number + length, probability)
        for number, probability in enumerate(probabilities)
    ]


def video(
    seconds: float,
    annotated: Spans,
    detected: list[tuple[float, float, float]] = [],  # noqa: B006
    scores: list[ScoredSpan] | None = None,
) -> ComparedVideo:
    spans = [ScoredSpan(*event) for event in detected]
    return ComparedVideo(seconds, scores or windows(0.0, length=seconds), spans, annotated)


# Windows 0-2: 0.1, 2-4: 0.8, 4-6: 0.9, 6-8: 0.2, 8-10: 0.7. At 0.5 two events are detected, 2-6
# and 8-10. One is annotated, 3-7.
TEN_SECONDS = video(
    10.0, [(3.0, 7.0)], [(2.0, 6.0, 0.9), (8.0, 10.0, 0.7)], windows(0.1, 0.8, 0.9, 0.2, 0.7)
)


def test_figures_of_one_video() -> None:
    assert event_figures([TEN_SECONDS], THRESHOLD) == {
        "videos": 1,
        "seconds": 10.0,
        "events": 1,
        "events_found": 1,  # 2-6 overlaps 3-7
        "detected_events": 2,
        "false_alarms": 1,  # 8-10
        "false_alarms_per_hour": 360.0,  # ten seconds are a 360th of an hour
        "delay_median": 1.0,  # the window 2-4 ends a second after 3
        "delay_mean": 1.0,
        "delay_longest": 1.0,
        # Violent: 3-4 at 0.8, 4-6 at 0.9, 6-7 at 0.2. Nonviolent: 0-2 at 0.1, 2-3 at 0.8, 7-8 at
        # 0.2, 8-10 at 0.7. Of the 4 x 6 pairs of seconds, the violent one is higher (a tie is half)
        # in 5.5 for 0.8, in 2 x 6 for 0.9, in 2.5 for 0.2: 20 of 24.
        "frame_roc_auc": pytest.approx(20 / 24),
        # The intersection 3-6 is 3 of the union 2-7, 0.6: the event with 0.9 is right, and all
        # events are found with it.
        "ap_at_0.3": 1.0,
        "ap_at_0.5": 1.0,
    }


def test_figures_of_several_videos_are_pooled() -> None:
    # An hour without events, but with a false alarm in its last two seconds.
    quiet = video(
        3590.0,
        [],
        [(3588.0, 3590.0, 0.6)],
        [ScoredSpan(0.0, 3588.0, 0.0), ScoredSpan(3588.0, 3590.0, 0.6)],
    )
    # Missed: no window reaches the threshold. Found 2 s and 6 s after their starts, 8 and 12.
    scores = windows(0.1, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.6)
    annotated = [(0.0, 4.0), (8.0, 9.0), (12.0, 17.0)]
    several = video(18.0, annotated, [(8.0, 10.0, 0.6), (16.0, 18.0, 0.6)], scores)
    figures = event_figures([TEN_SECONDS, quiet, several], THRESHOLD)
    assert (figures["events"], figures["events_found"]) == (4, 3)
    assert (figures["detected_events"], figures["false_alarms"]) == (5, 2)
    assert figures["false_alarms_per_hour"] == pytest.approx(2 / (3618 / 3600))
    assert figures["delay_median"] == 2.0  # of 1, 2 and 6
    assert figures["delay_mean"] == 3.0
    assert figures["delay_longest"] == 6.0


def test_spans_that_only_touch_do_not_overlap() -> None:
    touching = video(10.0, [(2.0, 4.0)], [(0.0, 2.0, 0.9), (4.0, 6.0, 0.9)])
    assert is_false_alarm(touching) == [True, True]
    assert not found_events(touching, THRESHOLD)[0].found
    assert found_events(touching, THRESHOLD)[0].delay is None


def test_delay_ends_with_a_window_after_the_start_even_of_an_alarm_before_it() -> None:
    # Alarm from 0 s on. The event starts at 5 s: the window 4-6 is the first to end after that.
    alarm = video(8.0, [(5.0, 8.0)], [(0.0, 8.0, 0.9)], windows(0.9, 0.9, 0.9, 0.9))
    assert found_events(alarm, THRESHOLD)[0].delay == 1.0


def test_event_between_two_windows_of_a_detected_event_is_known_with_the_second() -> None:
    # The detected event 0-6 bridges the window 2-4, in which the annotated event lies.
    bridged = video(6.0, [(2.5, 3.0)], [(0.0, 6.0, 0.9)], windows(0.9, 0.1, 0.8))
    (event,) = found_events(bridged, THRESHOLD)
    assert event.found
    assert event.delay == 3.5


def test_event_is_cut_at_the_videos_end_and_missed_after_it() -> None:
    cut = video(10.0, [(6.0, math.inf), (12.0, math.inf)], [(6.0, 10.0, 0.9)])
    assert [event[:3] for event in found_events(cut, THRESHOLD)] == [
        (6.0, 10.0, True),
        (12.0, 12.0, False),
    ]
    # The union with 6-10 is 6-10: an overlap of 1, for one of two events.
    assert average_precision([cut], 0.5) == 0.5


def test_score_of_a_moment_is_the_mean_of_the_windows_over_it() -> None:
    # 0-1: 0.2; 1-2: (0.2 + 0.6) / 2 = 0.4; 2-3: (0.6 + 1) / 2 = 0.8; 3-4: 1. The violent second
    # 1-2 is higher than one of the three others.
    overlapping = windows(0.2, 0.6, 1.0, stride=1.0)
    assert frame_roc_auc([video(4.0, [(1.0, 2.0)], scores=overlapping)]) == pytest.approx(1 / 3)


def test_score_lasts_until_the_next_window_and_to_the_end() -> None:
    # 0.9 from 0 to 2, 0.1 from 2 to 4.
    with_gaps = windows(0.9, 0.1, length=1.0)
    assert frame_roc_auc([video(4.0, [(0.0, 2.0)], scores=with_gaps)]) == 1.0
    assert frame_roc_auc([video(4.0, [(2.0, 4.0)], scores=with_gaps)]) == 0.0


def test_windows_with_the_same_mean_are_ties_whatever_the_rounding() -> None:
    same = windows(*[0.1, 0.7] * 20, stride=1.0)
    (area,) = {frame_roc_auc([video(40.0, [(n, n + 1.0)], scores=same)]) for n in range(3, 30)}
    # The second 0-1 is at 0.1, the 39 others are at 0.4: one is violent, 38 are tied with it.
    assert area == pytest.approx((38 / 2 + 1) / 39)


def test_frame_roc_auc_is_that_of_many_frames() -> None:
    random = np.random.default_rng(0)
    videos, labels, scores = [], [], []
    for _ in range(3):
        probabilities = random.random(30).round(1)
        # Windows of 1 s, 0.5 s apart, and a last one; times are multiples of a tenth of a second.
        spans = windows(*probabilities, length=1.0, stride=0.5)
        start, length = random.integers(0, 100, 2) / 10
        videos.append(video(spans[-1].end, [(start, start + length)], scores=spans))
        for frame in np.arange(0.05, spans[-1].end, 0.1):
            over = [span.probability for span in spans if span.start < frame < span.end]
            labels.append(int(start < frame < start + length))
            scores.append(round(float(np.mean(over)), 9))
    assert frame_roc_auc(videos) == pytest.approx(roc_auc_score(labels, scores))


def test_average_precision_ranks_the_events_of_all_videos_together() -> None:
    # 0.9: 24-34 and 20-30 share 6 of 14 s, 0.43. 0.8 and 0.7: nothing. 0.6: all of 0-10.
    first = video(60.0, [(0.0, 10.0), (20.0, 30.0)], [(0, 10, 0.6), (24, 34, 0.9), (50, 60, 0.8)])
    second = video(60.0, [], [(5, 10, 0.7)])
    # At 0.3: right, wrong, wrong, right: precision 1 and 2/4 at the two events.
    assert average_precision([first, second], 0.3) == pytest.approx((1 + 2 / 4) / 2)
    # At 0.5 only the last is right: precision 1/4 at one of two events.
    assert average_precision([first, second], 0.5) == pytest.approx(1 / 4 / 2)


def test_precision_is_interpolated() -> None:
    # Wrong, right, right: precision 1/2 and 2/3 at the two events; 2/3 from the first one on.
    detected = [(50, 60, 0.9), (0, 10, 0.8), (20, 30, 0.7)]
    assert average_precision(
        [video(60.0, [(0.0, 10.0), (20.0, 30.0)], detected)], 0.5
    ) == pytest.approx(2 / 3)


def test_annotated_event_is_matched_once_and_with_the_most_probable() -> None:
    # 6-10 overlaps 0-10 by 0.4, 0-6 by 0.6.
    twice = video(10.0, [(0.0, 10.0)], [(0, 6, 0.8), (6, 10, 0.9)])
    assert average_precision([twice], 0.3) == 1.0  # 6-10 is right, 0-6 comes too late
    assert average_precision([twice], 0.5) == 0.5  # 6-10 is wrong, then 0-6 is right: 1 of 2


def test_detected_event_takes_the_one_that_it_overlaps_most_and_is_free() -> None:
    # 0-10 overlaps 0-6 by 0.6 and 6-10 by 0.4. With 0.9 it takes 0-6; so 0-9, which overlaps 0-6
    # by 6/9 and 6-10 by 3/10, is left with 6-10.
    twice = video(10.0, [(0.0, 6.0), (6.0, 10.0)], [(0, 10, 0.9), (0, 9, 0.8)])
    assert average_precision([twice], 0.3) == 1.0
    assert average_precision([twice], 0.31) == 0.5


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ((0, 2), (1, 3), 1 / 3),
        ((0, 4), (1, 2), 1 / 4),
        ((0, 1), (1, 2), 0),
        ((0, 1), (5, 6), 0),
        ((3, 3), (3, 3), 0),
    ],
)
def test_intersection_over_union(
    first: tuple[float, float], second: tuple[float, float], share: float
) -> None:
    assert temporal_iou(first, second) == temporal_iou(second, first) == pytest.approx(share)


UNDEFINED_WITHOUT = {
    "events": {"delay_median", "delay_mean", "delay_longest", "frame_roc_auc"}
    | {"ap_at_0.3", "ap_at_0.5"},
    "detected": {"delay_median", "delay_mean", "delay_longest"},
    "quiet": {"frame_roc_auc"},
    "videos": {"false_alarms_per_hour", "delay_median", "delay_mean", "delay_longest"}
    | {"frame_roc_auc", "ap_at_0.3", "ap_at_0.5"},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("videos", "lacking"),
    [
        ([video(10.0, [], [(0, 2, 0.9)], windows(0.9, 0.1, 0.1, 0.1, 0.1))], "events"),
        ([video(10.0, [(1.0, 2.0)])], "detected"),
        ([video(10.0, [(0.0, 10.0)], [(0, 10, 0.9)], windows(0.9, length=10.0))], "quiet"),
        ([], "videos"),
    ],
    ids=["no event", "nothing detected", "violent throughout", "no video"],
)
def test_undefined_figures_are_none(videos: list[ComparedVideo], lacking: str) -> None:
    figures = event_figures(videos, THRESHOLD)
    undefined = {name for name, value in figures.items() if value is None}
    assert undefined == UNDEFINED_WITHOUT[lacking]
    assert "undefined" in " ".join(text for _, text in figures_lines(figures))


@pytest.mark.filterwarnings("error")
def test_video_of_a_single_frame_has_no_moments() -> None:
    instant = video(0.0, [(0.0, math.inf)], scores=[ScoredSpan(0.0, 0.0, 0.9)])
    assert event_figures([instant], THRESHOLD)["frame_roc_auc"] is None
    assert event_figures([instant], THRESHOLD)["false_alarms_per_hour"] is None


def test_nothing_detected_has_no_precision() -> None:
    assert event_figures([video(10.0, [(1.0, 2.0)])], THRESHOLD)["ap_at_0.3"] == 0.0


def test_figures_as_text() -> None:
    lines = dict(figures_lines(event_figures([TEN_SECONDS], THRESHOLD)))
    assert lines["compared"] == "1 video, 10.0 s"
    assert lines["events found"] == "1 of 1"
    assert lines["false alarms"] == "1 of 2 (360 per hour)"
    assert lines["delay until found (s)"] == "median 1.0, mean 1.0, longest 1.0"
    assert lines["frame-level ROC-AUC"] == "0.833"
