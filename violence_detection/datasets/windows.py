"""Training clips from long videos with annotated events."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from violence_detection.clips.manifest import ManifestRow
from violence_detection.clips.spans import Span, merged_spans
from violence_detection.errors import UserError

SHARE = 0.5  # of a violent window that lies in an event, at least


@dataclass(frozen=True)
class Windowing:
    """How windows lie over long videos.

    Args:
        window: the length of a clip in seconds.
        margin: seconds around an event that are neither violent nor nonviolent clips: annotated
            times are rough.
        per_hour: nonviolent clips per hour of video, at most.
    """

    window: float
    margin: float
    per_hour: float


@dataclass(frozen=True)
class Windows:
    """Clips made of long videos.

    Args:
        rows: of a manifest.
        too_short: events of which no window would hold enough.
    """

    rows: list[ManifestRow]
    too_short: int


def make_windows(
    events: Sequence[ManifestRow], lengths: Mapping[str, float], windowing: Windowing
) -> Windows:
    """Return clips of the videos, those of one video in one group.

    Violent clips lie in an event by at least half; they follow each other from its start, and an
    event shorter than a window is in the middle of its only one. Nonviolent clips lie outside all
    events and their margins, evenly spread over what is left of the video.

    Args:
        events: violent rows are events, whose missing times are those of the video; a nonviolent
            row without times is a video without events, one with times a part without.
        lengths: of each video in seconds.
        windowing: see there.

    Raises:
        UserError: a row's times are after the end of its video.
    """
    by_video: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in events:
        by_video[row.video].append(row)
    found: list[ManifestRow] = []
    too_short = 0
    for video, rows in by_video.items():
        length = lengths[video]
        spans = merged_spans(_span(row, length) for row in rows if row.label == 1)
        violent, lost = _violent(spans, length, windowing.window)
        too_short += lost
        calm = _nonviolent(_outside(rows, spans, length, windowing.margin), windowing, length)
        group, split = rows[0].group or video, rows[0].split
        found += [
            ManifestRow(video, label, start, end, split, group)
            for start, end, label in sorted(
                [(*span, 1) for span in violent] + [(*span, 0) for span in calm]
            )
        ]
    return Windows(found, too_short)


def _span(row: ManifestRow, length: float) -> Span:
    start, end = row.start or 0.0, length if row.end is None else min(row.end, length)
    if start >= length:
        raise UserError(f"{row.video}: start {start:g} is after its end, at {length:g} s")
    return start, end


def _violent(events: Sequence[Span], length: float, window: float) -> tuple[list[Span], int]:
    """Return windows that lie in an event by at least half, and how many events have none."""
    window = min(window, length)
    windows: list[Span] = []
    without = 0
    for start, end in events:
        duration = end - start
        if duration < SHARE * window:
            without += 1
            continue
        first, count = start, max(1, math.floor(duration / window + SHARE))
        if duration < window:
            first = (start + end - window) / 2
        first = max(0.0, min(first, length - count * window))
        for number in range(count):
            at = first + number * window
            if at >= 0 and (not windows or at >= windows[-1][1] - 1e-9):
                windows.append((at, at + window))
    return windows, without


def _outside(
    rows: Sequence[ManifestRow], events: Sequence[Span], length: float, margin: float
) -> list[Span]:
    """Return the parts of a video without events, their margins left out."""
    stated = [_span(row, length) for row in rows if row.label == 0]
    parts = merged_spans(stated) or [(0.0, length)]
    for event_start, event_end in events:
        parts = [
            part
            for start, end in parts
            for part in (
                (start, min(end, event_start - margin)),
                (max(start, event_end + margin), end),
            )
            if part[1] > part[0]
        ]
    return parts


def _nonviolent(parts: Sequence[Span], windowing: Windowing, length: float) -> list[Span]:
    """Return windows in these parts, evenly chosen if there are more than wanted."""
    window = min(windowing.window, length)
    possible = [
        (start + number * window, start + (number + 1) * window)
        for start, end in parts
        for number in range(math.floor((end - start) / window + 1e-9))
    ]
    wanted = min(len(possible), math.ceil(windowing.per_hour * length / 3600))
    return [possible[(2 * n + 1) * len(possible) // (2 * wanted)] for n in range(wanted)]
