"""The JSON objects that the service returns, with descriptions and examples for OpenAPI."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from violence_detection.clips.pictures import as_jpeg, shrink
from violence_detection.clips.sampling import Sampling
from violence_detection.inference.detector import Detector, PredictedClip
from violence_detection.inference.events import Window, find_events
from violence_detection.inference.windows import video_warnings
from violence_detection.models import random_weights_warning
from violence_detection.serving.problems import ProblemDetails

PICTURE_SIDE = 176  # pixels of the longer side
JPEG_QUALITY = 75
EXAMPLE_MODEL = "best_model.keras 3b59cc62"


def example(value: dict[str, Any]) -> ConfigDict:
    """Return a model's configuration with an example for its schema."""
    return ConfigDict(json_schema_extra={"examples": [value]})


class Frame(BaseModel):
    """A frame that the prediction is based on."""

    time: float | None = Field(description="seconds from the start; null: not known from the file")
    attention: float = Field(ge=0, description="attention weight; sums to 1 over the frames")
    image: str | None = Field(
        default=None, description="with images=true: a small JPEG as a data: URL"
    )


class ClipAnswer(BaseModel):
    """The prediction for a clip."""

    model_config = example(
        {
            "violent": True,
            "probability": 0.93,
            "threshold": 0.43,
            "frames": [{"time": 0.0, "attention": 0.38}, {"time": 1.92, "attention": 0.62}],
            "model": EXAMPLE_MODEL,
            "warning": None,
            "warnings": [],
            "seconds": 0.71,
        }
    )

    violent: bool = Field(description="whether the probability reaches the threshold")
    probability: float = Field(ge=0, le=1, description="calibrated probability of violence")
    threshold: float = Field(description="as chosen in training, or --threshold")
    frames: list[Frame] = Field(description="in time order")
    model: str = Field(description="its file name and the first digits of its checksum")
    warning: str | None = Field(description="why the prediction is unreliable; usually null")
    warnings: list[str] = Field(description="the reasons in `warning`, each by itself")
    seconds: float = Field(ge=0, description="processing time in seconds, without the upload")


class WindowAnswer(BaseModel):
    """A part of a video with the prediction for it."""

    start: float = Field(description="seconds from the start of the video")
    end: float = Field(description="seconds from the start of the video")
    probability: float = Field(ge=0, le=1, description="calibrated probability of violence")
    still: bool = Field(description="whether nothing moves in it")


class EventAnswer(BaseModel):
    """Consecutive windows whose probability reaches the threshold."""

    start: float = Field(description="start of the first window, in seconds")
    end: float = Field(description="end of the last window, in seconds")
    peak: float = Field(description="middle of the window of highest probability, in seconds")
    probability: float = Field(ge=0, le=1, description="highest probability of a window")
    still: bool = Field(description="whether nothing moves in it")


class TimelineAnswer(BaseModel):
    """The predictions over the course of a video."""

    violent: bool = Field(description="whether there is any event")
    threshold: float = Field(description="as chosen in training, or --threshold")
    duration: float = Field(description="of the video, in seconds")
    windows: list[WindowAnswer] = Field(description="in time order; they may overlap")
    events: list[EventAnswer] = Field(description="in time order")
    model: str = Field(description="its file name and the first digits of its checksum")
    warning: str | None = Field(description="why the prediction is unreliable; usually null")
    warnings: list[str] = Field(description="the reasons in `warning`, each by itself")
    seconds: float = Field(ge=0, description="processing time in seconds, without the upload")


EXAMPLE_WINDOW: dict[str, Any] = {"start": 0.0, "end": 1.96, "probability": 0.97, "still": False}


class TimelineLine(BaseModel):
    """A line of the response for a video: its progress, and at last the result or a problem."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"progress": 0.25, "windows": [EXAMPLE_WINDOW]},
                {
                    "result": {
                        "violent": True,
                        "threshold": 0.43,
                        "duration": 8.0,
                        "windows": [EXAMPLE_WINDOW],
                        "events": [{**EXAMPLE_WINDOW, "peak": 0.98}],
                        "model": EXAMPLE_MODEL,
                        "warning": None,
                        "warnings": [],
                        "seconds": 3.1,
                    }
                },
            ]
        }
    )

    progress: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="fraction of the video; null: its duration is not known",
    )
    windows: list[WindowAnswer] | None = Field(
        default=None, description="new since the previous line"
    )
    result: TimelineAnswer | None = None
    problem: ProblemDetails | None = Field(default=None, description="why there is no result")


class Health(BaseModel):
    """The service can make predictions."""

    model_config = example({"status": "alive", "model_sha256": "9f86d081884c7d65…"})

    status: str
    model_sha256: str


class Readiness(BaseModel):
    """The service accepts clips."""

    model_config = example(
        {"status": "ready", "model": EXAMPLE_MODEL, "threshold": 0.43, "warning": None}
    )

    status: str
    model: str
    threshold: float
    warning: str | None


class ReloadAnswer(BaseModel):
    """The model that is in use from now on."""

    model_config = example(
        {
            "model": EXAMPLE_MODEL,
            "model_sha256": "9f86d081884c7d65…",
            "trial_clips": 3,
            "predicted_otherwise": 1,
        }
    )

    model: str
    model_sha256: str
    trial_clips: int = Field(description="clips that it was tried on")
    predicted_otherwise: int = Field(description="of these, otherwise than by the model before")


def warning_of(detector: Detector) -> str | None:
    """Return why a detector's predictions are unreliable, if they are."""
    untrained = detector.untrained_backbones
    return random_weights_warning(untrained) if untrained else None


def _all_warnings(detector: Detector, warnings: Sequence[str]) -> dict[str, Any]:
    """Return the fields on what makes an answer unreliable: the detector, or its clip."""
    general = warning_of(detector)
    listed = [*([general] if general else []), *warnings]
    return {"warning": "\n".join(listed) or None, "warnings": listed}


def clip_answer(detector: Detector, predicted: PredictedClip, seconds: float) -> ClipAnswer:
    """Return the response for a clip, with pictures if it was decoded with them.

    Args:
        detector: made the prediction.
        predicted: has a prediction, not an error.
        seconds: processing time.
    """
    prediction, clip = predicted.prediction, predicted.clip
    assert prediction.violent is not None
    assert prediction.probability is not None
    attention = prediction.attention or ()
    times: Sequence[float | None] = prediction.times or [None] * len(attention)
    frames = [
        Frame(time=time, attention=weight) for time, weight in zip(times, attention, strict=True)
    ]
    if clip is not None and clip.pictures is not None:
        for frame, picture in zip(frames, clip.pictures, strict=True):
            frame.image = as_data_url(picture, clip.info.aspect_ratio)
    return ClipAnswer(
        violent=prediction.violent,
        probability=prediction.probability,
        threshold=detector.threshold,
        frames=frames,
        model=detector.name,
        seconds=seconds,
        **_all_warnings(detector, prediction.warnings),
    )


def timeline_answer(
    detector: Detector,
    sampling: Sampling,
    windows: Sequence[Window],
    duration: float | None,
    share: float,
    seconds: float,
) -> TimelineAnswer:
    """Return the response for a video.

    Args:
        detector: made the predictions.
        sampling: of the windows.
        windows: in time order; at least one.
        duration: seconds, from the file; None: not known.
        share: of the video that could be read, 0 to 1.
        seconds: processing time.
    """
    events = list(find_events(windows, detector.threshold, sampling.stride))
    warnings = video_warnings(detector, sampling, windows, events, share)
    return TimelineAnswer(
        violent=bool(events),
        threshold=detector.threshold,
        duration=max(duration or 0.0, windows[-1].end),
        windows=window_answers(windows),
        events=[EventAnswer(**event._asdict()) for event in events],
        model=detector.name,
        seconds=seconds,
        **_all_warnings(detector, warnings),
    )


def window_answers(windows: Sequence[Window]) -> list[WindowAnswer]:
    """Return windows as JSON objects."""
    return [WindowAnswer(**window._asdict()) for window in windows]


def as_data_url(picture: np.ndarray, aspect_ratio: float) -> str:
    """Return a frame as a small JPEG in a data: URL.

    Args:
        picture: `(224, 224, 3)` uint8 RGB.
        aspect_ratio: of the clip, width over height; the JPEG has it again.
    """
    jpeg = as_jpeg(shrink(picture, aspect_ratio, PICTURE_SIDE), JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
