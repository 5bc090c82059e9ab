"""How well the predictions over long videos find the events that a person has annotated.

All times are seconds from a video's first frame. Two spans overlap if they share more than one
moment. The definitions, also in docs/datasets.md:

- An annotated event is *found* if a detected event overlaps it.
- A *false alarm* is a detected event that overlaps no annotated one; their rate is per hour of all
  videos, with and without events.
- The *delay* is the time from an annotated event's start to the earliest moment at which it could
  be known: the end of the first window after that start that reaches the threshold and belongs to a
  detected event that overlaps the annotated one.
- The *frame-level ROC-AUC* is that of Sultani et al., CVPR 2018, https://arxiv.org/abs/1801.04264:
  each moment of all videos together is one item, violent if it lies in an annotated event. Its
  score is the mean probability of the windows over it; behind the last window, and between windows
  that leave a gap, the last score applies. Scores are constant between the ends of windows and
  events, so the area is exact: each such interval is an item that counts as its length.
- *Average precision* is that of ActivityNet (Caba Heilbron et al., CVPR 2015,
  https://doi.org/10.1109/CVPR.2015.7298698): of all videos, the detected event with the highest
  probability first, each is matched with the annotated event that it overlaps most, of those with
  an intersection over union of at least the limit that no event before it was matched with. The
  rest count as wrong. Precision is interpolated, as in PASCAL VOC since 2010. Only events that
  reach the threshold are detected, which limits the recall.

A figure that is undefined is None.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from violence_detection.clips.spans import Span
from violence_detection.evaluation.metrics import classification_figures
from violence_detection.runtime.wording import count_of

IOU_LIMITS = (0.3, 0.5)  # of average precision
HOUR = 3600.0  # seconds
ANY = 0.5  # a threshold, on which an area does not depend
DIGITS = 9  # of a score: sums that differ by rounding only are equal


class ScoredSpan(NamedTuple):
    """A window or a detected event."""

    start: float  # seconds
    end: float  # seconds
    probability: float


@dataclass(frozen=True)
class ComparedVideo:
    """The predictions for a video, and its annotated events.

    Args:
        seconds: its length.
        windows: at least one; sorted by start and by end.
        detected: the detected events, in the order of time.
        annotated: the annotated events; they do not overlap.
    """

    seconds: float
    windows: Sequence[ScoredSpan]
    detected: Sequence[ScoredSpan]
    annotated: Sequence[Span]


class FoundEvent(NamedTuple):
    """What became of an annotated event."""

    start: float  # seconds
    end: float  # seconds, of the video at most
    found: bool
    delay: float | None  # seconds; None if it was not found


def event_figures(videos: Sequence[ComparedVideo], threshold: float) -> dict[str, Any]:
    """Return the figures of all videos together, ready for JSON; None where undefined.

    Args:
        videos: that were compared.
        threshold: a window of at least this probability is violent.

    Returns:
        `videos`, `seconds`; `events` (annotated), `events_found`, `detected_events`,
        `false_alarms`, `false_alarms_per_hour`; `delay_median`, `delay_mean`, `delay_longest` in
        seconds; `frame_roc_auc`; `ap_at_0.3` and so on by `IOU_LIMITS`.
    """
    events = [event for video in videos for event in found_events(video, threshold)]
    delays = [event.delay for event in events if event.delay is not None]
    alarms = sum(sum(is_false_alarm(video)) for video in videos)
    seconds = sum(video.seconds for video in videos)
    return {
        "videos": len(videos),
        "seconds": seconds,
        "events": len(events),
        "events_found": sum(event.found for event in events),
        "detected_events": sum(len(video.detected) for video in videos),
        "false_alarms": alarms,
        "false_alarms_per_hour": alarms / seconds * HOUR if seconds else None,
        "delay_median": statistics.median(delays) if delays else None,
        "delay_mean": statistics.fmean(delays) if delays else None,
        "delay_longest": max(delays, default=None),
        "frame_roc_auc": frame_roc_auc(videos),
        **{f"ap_at_{limit}": average_precision(videos, limit) for limit in IOU_LIMITS},
    }


def found_events(video: ComparedVideo, threshold: float) -> list[FoundEvent]:
    """Return what became of each annotated event of a video.

    Args:
        video: its predictions and events.
        threshold: a window of at least this probability is violent.
    """
    violent = [window for window in video.windows if window.probability >= threshold]
    events = []
    for start, end in _annotated(video):
        overlapping = [event for event in video.detected if _overlap((start, end), event)]
        known = (
            window.end
            for window in violent
            if window.end > start
            and any(
                event.start <= window.start and window.end <= event.end for event in overlapping
            )
        )
        first = next(known, None)
        delay = None if first is None else first - start
        events.append(FoundEvent(start, end, bool(overlapping), delay))
    return events


def is_false_alarm(video: ComparedVideo) -> list[bool]:
    """Return of each detected event of a video whether it overlaps no annotated one."""
    annotated = _annotated(video)
    return [not any(_overlap(span, event) for span in annotated) for event in video.detected]


def frame_roc_auc(videos: Sequence[ComparedVideo]) -> float | None:
    """Return the frame-level ROC-AUC; None unless there are moments of both classes."""
    parts = [_moments(video) for video in videos if video.seconds > 0]
    if not parts:
        return None
    lengths, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    figures = classification_figures(labels, scores, ANY, lengths[np.newaxis])
    area = figures["roc_auc"][0]
    return None if np.isnan(area) else float(area)


def _moments(video: ComparedVideo) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a video in intervals of constant score and label.

    Returns:
        `(intervals,)` each: lengths in seconds, scores float64, labels 0 or 1.
    """
    annotated = _annotated(video)
    starts = np.array([window.start for window in video.windows])
    ends = np.array([window.end for window in video.windows])
    sums = np.cumsum([0.0, *(window.probability for window in video.windows)])
    edges = np.concatenate([[0.0, video.seconds], starts, ends, np.ravel(annotated)])
    edges = np.unique(np.clip(edges, 0.0, video.seconds))
    middles = (edges[:-1] + edges[1:]) / 2
    # The windows over a moment are those from `first` to before `past`.
    first, past = np.searchsorted(ends, middles), np.searchsorted(starts, middles)
    past = np.maximum(past, 1)  # before the first window, its score applies
    first = np.minimum(first, past - 1)  # where no window is, that of the one before
    scores = np.round((sums[past] - sums[first]) / (past - first), DIGITS)
    labels = np.zeros(len(middles), int)
    for start, end in annotated:
        labels[(middles > start) & (middles < end)] = 1
    return np.diff(edges), scores, labels


def average_precision(videos: Sequence[ComparedVideo], limit: float) -> float | None:
    """Return the average precision of the detected events; None if no event is annotated.

    Args:
        videos: that were compared.
        limit: the least intersection over union of a detected and an annotated event that match.
    """
    annotated = [_annotated(video) for video in videos]
    count = sum(map(len, annotated))
    if count == 0:
        return None
    detected = [(event, number) for number, video in enumerate(videos) for event in video.detected]
    detected.sort(key=lambda item: -item[0].probability)
    matched: set[tuple[int, int]] = set()  # by number of the video, and of the event in it
    is_right = []
    for event, number in detected:
        candidates = [
            (overlap, (number, index))
            for index, span in enumerate(annotated[number])
            if (overlap := temporal_iou(event[:2], span)) >= limit
            and (number, index) not in matched
        ]
        is_right.append(bool(candidates))
        if candidates:
            matched.add(max(candidates, key=lambda candidate: candidate[0])[1])
    right = np.cumsum(is_right)
    precision = right / np.arange(1, len(right) + 1)
    # Interpolated: the highest precision at the same or a higher recall.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[np.array(is_right, bool)].sum() / count)


def temporal_iou(first: Span, second: Span) -> float:
    """Return the intersection over union of two spans of time, 0 to 1."""
    intersection = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    union = (first[1] - first[0]) + (second[1] - second[0]) - intersection
    return intersection / union if union > 0 else 0.0


def within(events: Sequence[Span], seconds: float) -> list[Span]:
    """Return events, cut at the end of a video of that length.

    Of those that start after it, only the start is left: nothing can find them.
    """
    return [(start, max(start, min(end, seconds))) for start, end in events]


def _annotated(video: ComparedVideo) -> list[Span]:
    return within(video.annotated, video.seconds)


def _overlap(span: Span, event: ScoredSpan) -> bool:
    return event.start < span[1] and event.end > span[0]


def figures_lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the figures with their names, as texts: `("events found", "3 of 4")`.

    Args:
        figures: as `event_figures` returns them.
    """
    hours = figures["seconds"] / HOUR
    length = f"{hours:.2f} h" if hours >= 0.1 else f"{figures['seconds']:.1f} s"
    rate = _text(figures["false_alarms_per_hour"], ".3g", " per hour")
    delays = [
        f"{name} {figures[f'delay_{name}']:.1f}"
        for name in ("median", "mean", "longest")
        if figures[f"delay_{name}"] is not None
    ]
    return [
        ("compared", f"{count_of(figures['videos'], 'video')}, {length}"),
        ("events found", f"{figures['events_found']} of {figures['events']}"),
        ("false alarms", f"{figures['false_alarms']} of {figures['detected_events']} ({rate})"),
        ("delay until found (s)", ", ".join(delays) or "undefined"),
        ("frame-level ROC-AUC", _text(figures["frame_roc_auc"], ".3f")),
        *(
            (f"average precision at IoU {limit}", _text(figures[f"ap_at_{limit}"], ".3f"))
            for limit in IOU_LIMITS
        ),
    ]


def _text(value: float | None, form: str, unit: str = "") -> str:
    return "undefined" if value is None else format(value, form) + unit
