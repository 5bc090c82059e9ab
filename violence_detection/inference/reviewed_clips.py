"""Predictions as people review them in an annotation tool: the most doubtful first."""

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from violence_detection.clips.folder_names import class_of
from violence_detection.clips.video import UnreadableClip, open_video
from violence_detection.inference.detector import Prediction
from violence_detection.inference.events import Event, Timeline
from violence_detection.storage.remote_paths import AnyPath

FRAME_RATE = 25.0  # frames per second, where a file reports none


@dataclass(frozen=True)
class ReviewedClip:
    """A clip with its prediction.

    Args:
        path: its file.
        probability: of violence, calibrated; of a video in windows, the highest.
        violent: whether it is predicted violent.
        certainty: how far the probability is from the threshold, 0 at it, 1 at 0 or 1.
        events: of a video that was predicted in windows; None: one prediction for all of it.
        known_label: 1 violent, 0 nonviolent, None unknown.
        frame_rate: frames per second.
        frames: how many it has; None: unknown.
        seconds: how long it lasts; None: unknown.
    """

    path: AnyPath
    probability: float
    violent: bool
    certainty: float
    events: tuple[Event, ...] | None
    known_label: int | None
    frame_rate: float
    frames: int | None
    seconds: float | None

    @property
    def contradicts_label(self) -> bool:
        """Whether the label is known and the prediction is the other class."""
        return self.known_label is not None and self.known_label != self.violent

    @property
    def location(self) -> str:
        """The absolute path, or the URL."""
        return os.path.abspath(self.path) if isinstance(self.path, Path) else str(self.path)  # noqa: PTH100

    def frames_of(self, event: Event) -> tuple[int, int]:
        """Return the first and the last frame of an event, counted from 1."""
        # Frame n, from 1, is shown from (n - 1) / rate on; an event ends with its last frame.
        first, last = (round(time * self.frame_rate) + 1 for time in (event.start, event.end))
        last = max(first, last)
        return (
            (first, last)
            if self.frames is None
            else (min(first, self.frames), min(last, self.frames))
        )

    def identifier(self, *parts: object) -> str:
        """Return 24 hexadecimal digits that are this clip's, or of a part of it, each time."""
        text = "\0".join([self.location, *map(str, parts)])
        return hashlib.blake2b(os.fsencode(text), digest_size=12).hexdigest()


def reviewed_clip(
    outcome: Prediction | Timeline, threshold: float, known_label: int | None
) -> ReviewedClip | None:
    """Return a clip with its prediction; None if it could not be read.

    Args:
        outcome: the prediction, or those of its windows.
        threshold: of the detector.
        known_label: as of `ReviewedClip`.
    """
    rate, frames, seconds = FRAME_RATE, None, None
    if isinstance(outcome, Timeline):
        if not outcome.windows:
            return None
        probability = max(window.probability for window in outcome.windows)
        events: tuple[Event, ...] | None = outcome.events
        rate, frames, seconds = _reported(outcome.path)
    else:
        if outcome.probability is None:
            return None
        probability, events = outcome.probability, None
        if outcome.info is not None:
            frames, seconds = outcome.info.frames, outcome.info.seconds
            rate = frames / seconds if seconds > 0 else rate
    violent = probability >= threshold
    certainty = certainty_of(probability, threshold)
    return ReviewedClip(
        outcome.path, probability, violent, certainty, events, known_label, rate, frames, seconds
    )


def _reported(path: AnyPath) -> tuple[float, int | None, float | None]:
    """Return the frame rate, the number of frames and the seconds that a file reports."""
    if isinstance(path, Path):
        try:
            with open_video(path) as video:
                rate, seconds = video.info
                if rate is not None:
                    frames = None if seconds is None else math.ceil(seconds * rate - 1e-6)
                    return rate, frames, seconds
        except (UnreadableClip, OSError):
            pass  # it could be read a moment ago; the windows have their times
    return FRAME_RATE, None, None


def certainty_of(probability: float, threshold: float) -> float:
    """Return how far a probability is from the threshold: 0 at it, 1 at 0 or 1."""
    room = 1 - threshold if probability >= threshold else threshold
    return abs(probability - threshold) / room if room > 0 else 0.0


def most_doubtful_first(clips: Iterable[ReviewedClip]) -> list[ReviewedClip]:
    """Return clips in the order of review.

    First those whose known label the prediction contradicts, the most certain first: their labels
    are the likeliest to be wrong. Then the others, the least certain first.
    """
    return sorted(
        clips,
        key=lambda clip: (
            not clip.contradicts_label,
            -clip.certainty if clip.contradicts_label else clip.certainty,
        ),
    )


def known_labels(paths: Iterable[AnyPath]) -> Mapping[AnyPath, int]:
    """Return the labels of clips in violent and nonviolent folders that lie side by side.

    A single folder such as "fight_detector" does not say what its clips show.
    """
    by_folder: defaultdict[str, dict[AnyPath, int]] = defaultdict(dict)
    for path in paths:
        folder = Path(os.path.abspath(path)).parent if isinstance(path, Path) else path.parent  # noqa: PTH100
        label = class_of(folder.name)
        if label is not None:
            by_folder[str(folder.parent)][path] = label
    return {
        path: label
        for labels in by_folder.values()
        if len(set(labels.values())) > 1
        for path, label in labels.items()
    }
