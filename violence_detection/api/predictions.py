"""What the API returns of clips, videos and live sources: flat dataclasses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from violence_detection.inference import detector, events


@dataclass(frozen=True)
class Prediction:
    """The prediction for a clip; without one, `error` gives the reason."""

    clip: str | None  # as predict.py names it; None: its frames were given
    probability: float | None  # of violence, calibrated; in windows: that of the highest
    violent: bool | None  # whether the probability reaches the threshold
    error: str | None  # why the clip could not be read
    attention: tuple[float, ...]  # the frames' weights, which sum to 1; in windows: none
    times: tuple[float, ...]  # of these frames, in seconds; none if unknown
    warnings: tuple[str, ...]  # why the prediction is unreliable; mostly none


@dataclass(frozen=True)
class Window:
    """A part of a video, or of a live source."""

    clip: str  # the video's path, or the source's name without secrets
    start: float  # seconds, the time of its first frame
    end: float  # seconds, the time of its last frame
    probability: float  # of violence, calibrated; nan: the window cannot be predicted
    violent: bool  # whether the probability reaches the threshold
    still: bool  # nothing moves in it


@dataclass(frozen=True)
class Event:
    """Violence in a video, or at a live source: a sequence of windows that are violent."""

    clip: str  # as of its windows
    number: int  # from 1
    start: float  # seconds
    end: float | None  # seconds; None while it goes on
    peak: float  # seconds, the middle of its window with the highest probability
    probability: float  # of that window
    still: bool  # nothing moves in any of its windows
    ongoing: bool = False  # live: it has begun; a second event of its number says that it is over
    time: str | None = None  # live: when it began, ISO 8601 in UTC


@dataclass(frozen=True)
class Timeline:
    """The predictions for a video over time."""

    clip: str  # the video's path
    windows: tuple[Window, ...]
    events: tuple[Event, ...]
    error: str | None  # why the video could not be read, or not to its end
    warnings: tuple[str, ...]  # why the predictions are unreliable; mostly none


def prediction_of(outcome: "detector.Prediction | events.Timeline") -> Prediction:
    """Return what was predicted for a clip, in one piece or in windows."""
    from violence_detection.inference.detector import Prediction as ClipPrediction
    from violence_detection.inference.formats import highest

    clip, error, notes = outcome.name, outcome.error, outcome.warnings
    if isinstance(outcome, ClipPrediction):
        return Prediction(
            *(clip, outcome.probability, outcome.violent, error),
            *(outcome.attention or (), outcome.times or (), notes),
        )
    if error is not None:
        return Prediction(clip, None, None, error, (), (), notes)
    probability = highest(outcome).probability
    return Prediction(clip, probability, bool(outcome.events), None, (), (), notes)


def window_of(clip: str, window: "events.Window", threshold: float) -> Window:
    """Return a window of a video or source that is named."""
    start, end, probability, still = window
    return Window(clip, start, end, probability, bool(probability >= threshold), still)


def timeline_of(timeline: "events.Timeline", threshold: float) -> Timeline:
    """Return a video's windows and events."""
    name = timeline.name
    return Timeline(
        name,
        tuple(window_of(name, window, threshold) for window in timeline.windows),
        tuple(
            Event(name, number, **event._asdict())
            for number, event in enumerate(timeline.events, start=1)
        ),
        timeline.error,
        timeline.warnings,
    )


def live_event_of(notice: dict[str, Any]) -> Event:
    """Return the event that a notice of `LiveEvents` is about."""
    names = ("start", "end", "peak", "probability", "ongoing", "time")
    return Event(
        *(notice["source"], notice["event"]),
        **{name: notice[name] for name in names},
        still="warnings" in notice,
    )
