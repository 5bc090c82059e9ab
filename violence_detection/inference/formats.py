"""Predictions as text: a table for a terminal of 80 columns, CSV and JSON.

Each format is a generator that yields a row as soon as its clip is predicted, so that 100,000
clips need no memory.
"""

import csv
import io
import json
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from violence_detection.clips.clip import Footage
from violence_detection.inference.detector import Detector, Prediction
from violence_detection.inference.events import Timeline, Window
from violence_detection.runtime.logs import CONTROL_CHARACTERS
from violence_detection.runtime.wording import COLUMNS, timestamp
from violence_detection.settings.constants import CLASS_NAMES

NAME_COLUMNS = 36  # at most, for a clip's name
TOP_FRAMES = 3  # frames listed as those with the highest attention
EQUAL = 1e-6  # attention weights that differ by less are the same but for rounding


def top_frames(prediction: Prediction) -> list[int]:
    """Return the indices of the frames with the highest attention, the highest first.

    None if all weights are equal, as those of the head `mean` are.
    """
    attention = prediction.attention or ()
    if not attention or max(attention) - min(attention) < EQUAL:
        return []
    return sorted(range(len(attention)), key=lambda frame: -attention[frame])[:TOP_FRAMES]


def class_of(outcome: Prediction | Timeline) -> str | None:
    """Return the class that was predicted for a clip; None if it could not be read."""
    if outcome.error is not None:
        return None
    if isinstance(outcome, Timeline):
        return CLASS_NAMES[bool(outcome.events)]
    return CLASS_NAMES[bool(outcome.violent)]


def as_table(
    predictions: Iterable[Prediction | Timeline], paths: Sequence[Footage]
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        predictions: one per clip; a timeline for one that is too long for one prediction.
        paths: of all clips to come; they set the width of the first column.
    """
    width = _name_width(paths, "clip")
    yield f"{'clip':<{width}}  {'probability':>11}  {'prediction':<10}  top frames (s)\n"
    for prediction in predictions:
        name = padded(printable(prediction.name), width)
        class_name = class_of(prediction)
        if class_name is None:
            yield from _error_lines(name, prediction.error or "", width)
            continue
        if isinstance(prediction, Timeline):
            frames, probability = _event_times(prediction), highest(prediction).probability
        else:
            frames = " ".join(_frame_time(prediction, frame) for frame in top_frames(prediction))
            probability = prediction.probability or 0.0
        yield f"{name}  {probability:>11.3f}  {class_name:<10}  {frames or 'all equal'}\n"
        yield from _warning_lines(prediction.warnings)


def _name_width(paths: Sequence[Footage], header: str) -> int:
    widths = (display_width(printable_name(path)) for path in paths)
    return min(NAME_COLUMNS, max(widths, default=len(header)))


def highest(timeline: Timeline) -> Window:
    """Return the window of a video with the highest probability."""
    return max(timeline.windows, key=lambda window: window.probability)


def _event_times(timeline: Timeline) -> str:
    """Return when the first event starts, and how many others there are."""
    if not timeline.events:
        return "no event"
    others = f" +{len(timeline.events) - 1}" if len(timeline.events) > 1 else ""
    return f"{timestamp(timeline.events[0].start)}{others}"


def _frame_time(prediction: Prediction, frame: int) -> str:
    """Return a frame's time with three digits, or its number if the times are unknown."""
    if prediction.times is None:
        return f"#{frame + 1}"
    time = prediction.times[frame]
    return f"{time:.{2 if time < 9.995 else 1 if time < 99.95 else 0}f}"


def _error_lines(name: str, reason: str, width: int) -> Iterator[str]:
    """Yield the lines of a clip without a prediction: its name, and the reason, wrapped."""
    text = f"bad: {printable(reason)}"
    lines = textwrap.wrap(text, COLUMNS - width - 2, break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield f"{name if number == 0 else ' ' * width}  {line}\n"


def _warning_lines(warnings: Iterable[str]) -> Iterator[str]:
    for warning in warnings:
        yield from (
            f"{line}\n"
            for line in textwrap.wrap(
                f"WARNING: {warning}", COLUMNS, initial_indent="  ", subsequent_indent="    "
            )
        )


def as_csv(predictions: Iterable[Prediction | Timeline], frames: int) -> Iterator[str]:
    """Yield a CSV file: `clip,probability,verdict,error,attention_1,…,time_1,…,warnings`.

    Args:
        predictions: one per clip; of a timeline, the highest probability.
        frames: per clip, as the detector takes them.
    """
    numbers = range(1, frames + 1)
    frame_columns = [f"{column}_{n}" for column in ("attention", "time") for n in numbers]
    yield csv_line(["clip", "probability", "verdict", "error", *frame_columns, "warnings"])
    empty = [""] * frames
    for prediction in predictions:
        class_name = class_of(prediction)
        if class_name is None:
            row = ["", "", prediction.error, *empty, *empty]
        elif isinstance(prediction, Timeline):
            probability = highest(prediction).probability
            row = [f"{probability:.6f}", class_name, "", *empty, *empty]
        else:
            attention = [f"{weight:.4f}" for weight in prediction.attention or ()]
            times = [f"{time:.3f}" for time in prediction.times] if prediction.times else empty
            row = [f"{prediction.probability:.6f}", class_name, "", *attention, *times]
        yield csv_line([prediction.name, *row, "; ".join(prediction.warnings)])


def csv_line(values: Sequence[Any]) -> str:
    """Return a row of a CSV file with its line ending."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue()


def as_json(detector: Detector, predictions: Iterable[Prediction | Timeline]) -> Iterator[str]:
    """Yield a JSON document: the detector, and under `clips` an object per clip, one per line."""
    yield from _json_document(detector, map(_prediction_object, predictions))


def _json_document(
    detector: Detector,
    clips: Iterable[dict[str, Any]],
    at_end: Callable[[], dict[str, Any]] = dict,
) -> Iterator[str]:
    head = {
        "model": detector.name,
        "threshold": detector.threshold,
        "untrained_vgg19": bool(detector.untrained_backbones),
    }
    yield json.dumps(head)[:-1] + ', "clips": ['
    for number, clip in enumerate(clips):
        yield (",\n" if number else "\n") + json.dumps(clip)
    yield "\n]"
    for key, value in at_end().items():
        yield f",\n{json.dumps(key)}: {json.dumps(value)}"
    yield "}\n"


def _prediction_object(prediction: Prediction | Timeline) -> dict[str, Any]:
    if prediction.error is not None:
        return {"clip": prediction.name, "error": prediction.error}
    if isinstance(prediction, Timeline):
        return {
            "probability": highest(prediction).probability,
            "violent": bool(prediction.events),
            "frames": [],
            **_timeline_object(prediction),
        }
    attention = prediction.attention or ()
    times = prediction.times or (None,) * len(attention)
    return {
        "clip": prediction.name,
        "probability": prediction.probability,
        "violent": prediction.violent,
        "frames": [
            {"time": time, "attention": weight}
            for time, weight in zip(times, attention, strict=True)
        ],
        "weighed_most": [frame + 1 for frame in top_frames(prediction)],
        "warnings": list(prediction.warnings),
    }


def timelines_as_table(timelines: Iterable[Timeline], paths: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of a table: one per event, with times as h:mm:ss.

    Args:
        timelines: one per video.
        paths: of all videos to come; they set the width of the first column.
    """
    width = _name_width(paths, "video")
    yield f"{'video':<{width}}  {'start':>9}  {'end':>9}  {'peak':>9}  {'probability':>11}\n"
    for timeline in timelines:
        name = padded(printable_name(timeline.path), width)
        for event in timeline.events:
            times = "  ".join(f"{timestamp(time):>9}" for time in event[:3])
            yield f"{name}  {times}  {event.probability:>11.3f}\n"
        if timeline.error is not None:
            yield from _error_lines(name, timeline.error, width)
        elif not timeline.events:
            top = highest(timeline)
            peak = timestamp(top.middle)
            yield f"{name}  {'no event':<20}  {peak:>9}  {top.probability:>11.3f}\n"
        yield from _warning_lines(timeline.warnings)


def timelines_as_csv(timelines: Iterable[Timeline]) -> Iterator[str]:
    """Yield the lines of a CSV file: `video,start,end,probability,event,error`, one per window.

    `event` is the number, from 1, of the event that the window is part of.
    """
    yield csv_line(["video", "start", "end", "probability", "event", "error"])
    for timeline in timelines:
        for window in timeline.windows:
            numbers = [
                str(number)
                for number, event in enumerate(timeline.events, start=1)
                if event.start <= window.start and window.end <= event.end
            ]
            times = f"{window.start:.3f}", f"{window.end:.3f}"
            row = [*times, f"{window.probability:.6f}", *(numbers or [""]), ""]
            yield csv_line([timeline.path, *row])
        if timeline.error is not None:
            yield csv_line([timeline.path, "", "", "", "", timeline.error])


def timelines_as_json(
    detector: Detector,
    timelines: Iterable[Timeline],
    at_end: Callable[[], dict[str, Any]] = dict,
) -> Iterator[str]:
    """Yield a JSON document: the detector, and under `clips` the windows and events per video.

    Args:
        detector: made the predictions.
        timelines: one per video.
        at_end: returns what else the document has, once all timelines are there.
    """
    yield from _json_document(detector, map(_timeline_object, timelines), at_end)


def _timeline_object(timeline: Timeline) -> dict[str, Any]:
    return {
        "clip": str(timeline.path),
        "windows": [window._asdict() for window in timeline.windows],
        "events": [event._asdict() for event in timeline.events],
        "warnings": list(timeline.warnings),
        **({} if timeline.error is None else {"error": timeline.error}),
    }


def printable(text: str) -> str:
    """Return a text in one line, with control characters and invalid UTF-8 escaped."""
    one_line = text.replace("\n", "\\n").replace("\t", "\\t").translate(CONTROL_CHARACTERS)
    return one_line.encode(errors="backslashreplace").decode()


def printable_name(path: Footage) -> str:
    """Return the name of a file or segment, escaped as in `printable`."""
    return printable(str(path))


def display_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    """Return a text of `width` columns: padded with blanks, or with its middle left out."""
    if display_width(text) > width:
        before, after = (width - 1) // 2, width - 1 - (width - 1) // 2
        text = _start_of(text, before) + "…" + _start_of(text[::-1], after)[::-1]
    return text + " " * (width - display_width(text))


def _start_of(text: str, width: int) -> str:
    start = ""
    for character in text:
        if display_width(start + character) > width:
            break
        start += character
    return start
