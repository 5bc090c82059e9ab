"""Clips as they are reviewed, at 10 frames a second."""

from pathlib import Path

from violence_detection.inference.events import Event
from violence_detection.inference.reviewed_clips import ReviewedClip, certainty_of


def reviewed(
    path: Path,
    probability: float,
    events: tuple[Event, ...] | None = None,
    known_label: int | None = None,
) -> ReviewedClip:
    """Return a clip that was predicted at the threshold 0.5."""
    violent, certainty = probability >= 0.5, certainty_of(probability, 0.5)
    return ReviewedClip(
        path, probability, violent, certainty, events, known_label, 10.0, None, None
    )
