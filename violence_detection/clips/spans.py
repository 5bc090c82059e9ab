"""Spans of time in a video."""

from collections.abc import Iterable

Span = tuple[float, float]  # start and end in seconds


def merged_spans(spans: Iterable[Span]) -> list[Span]:
    """Return spans in time order, those that overlap or touch as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged
