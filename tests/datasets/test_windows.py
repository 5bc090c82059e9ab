"""Training clips from long videos with annotated events."""

from itertools import pairwise

import pytest

from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.windows import Windowing, make_windows
from violence_detection.errors import UserError


def spans(
    events: list[ManifestRow], length: float, label: int, windowing: Windowing
) -> list[tuple[float | None, float | None]]:
    rows = make_windows(events, {"a.mp4": length}, windowing).rows
    return [(row.start, row.end) for row in rows if row.label == label]


def event(start: float | None, end: float | None) -> ManifestRow:
    return ManifestRow("a.mp4", 1, start, end)


TWO_SECONDS = Windowing(window=2, margin=1, per_hour=3600)


@pytest.mark.parametrize(
    ("start", "end", "violent"),
    [
        (10, 14, [(10, 12), (12, 14)]),
        (10, 15, [(10, 12), (12, 14), (14, 16)]),  # half of the last one
        (10, 14.9, [(10, 12), (12, 14)]),
        (10, 11, [(9.5, 11.5)]),
        (10, 10.9, []),
        (0, 1, [(0, 2)]),
        (98.5, 100, [(98, 100)]),
        (95, None, [(94, 96), (96, 98), (98, 100)]),
    ],
)
def test_violent_clips_lie_in_an_event_by_at_least_half(
    start: float, end: float | None, violent: list[tuple[float, float]]
) -> None:
    assert spans([event(start, end)], 100, 1, TWO_SECONDS) == violent


def test_events_that_overlap_are_one() -> None:
    assert spans([event(12, 14), event(10, 13)], 100, 1, TWO_SECONDS) == [(10, 12), (12, 14)]


def test_events_without_a_clip_are_counted() -> None:
    assert make_windows([event(1, 1.5), event(9, 11)], {"a.mp4": 60}, TWO_SECONDS).too_short == 1


def test_nonviolent_clips_keep_their_distance_and_are_spread_over_the_video() -> None:
    calm = spans([event(40, 60)], 3600, 0, Windowing(window=2, margin=3, per_hour=60))
    assert len(calm) == 60
    assert all(end <= 37 or start >= 63 for start, end in calm if start and end)
    starts = [start or 0.0 for start, _ in calm]
    assert max(b - a for a, b in pairwise(starts)) < 100
    assert min(starts) < 60 and max(starts) > 3500


def test_parts_that_are_stated_to_be_nonviolent_are_the_only_ones() -> None:
    rows = [event(10, 20), ManifestRow("a.mp4", 0, 15, 30)]
    assert spans(rows, 100, 0, TWO_SECONDS) == [(21 + 2 * n, 23 + 2 * n) for n in range(4)]


def test_clips_of_a_video_are_a_group_in_its_split() -> None:
    rows = [ManifestRow("a.mp4", 0, split="val"), ManifestRow("b.mp4", 1, 1, 3, group="cam")]
    made = make_windows(rows, {"a.mp4": 4, "b.mp4": 4}, TWO_SECONDS).rows
    assert {(row.video, row.group, row.split) for row in made} == {
        ("a.mp4", "a.mp4", "val"),
        ("b.mp4", "cam", None),
    }


def test_a_short_video_is_one_clip() -> None:
    assert spans([event(None, None)], 1.6, 1, TWO_SECONDS) == [(0, 1.6)]
    assert spans([ManifestRow("a.mp4", 0)], 1.6, 0, TWO_SECONDS) == [(0, 1.6)]


def test_an_event_after_the_end_is_named() -> None:
    with pytest.raises(UserError, match=r"a\.mp4: start 101 is after its end, at 100 s"):
        spans([event(101, 102)], 100, 1, TWO_SECONDS)
