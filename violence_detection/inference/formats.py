"""Verdicts as text: a table for a terminal of 80 columns, CSV, JSON; a row as soon as it is known.

Each format is a generator of pieces of text, so that the rows of 100,000 clips need no memory.
"""

import csv
import io
import json
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from violence_detection.inference.detector import Detector, Prediction
from violence_detection.inference.events import Timeline, timestamp
from violence_detection.runtime.logs import CONTROL_CHARACTERS
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.object_store import AnyPath

COLUMNS = 80  # of the table
NAME_COLUMNS = 36  # of them, for a clip's name, at most
MOST = 3  # frames that are named as those that weighed most
ALIKE = 1e-6  # weights that differ by less are the same but for rounding


def most_attended(verdict: Prediction) -> list[int]:
    """Return the numbers, from 0, of the frames that weighed most, the heaviest first.

    There are none where all weigh the same, as the head `mean` has it.
    """
    attention = verdict.attention or ()
    if not attention or max(attention) - min(attention) < ALIKE:
        return []
    return sorted(range(len(attention)), key=lambda frame: -attention[frame])[:MOST]


def as_table(
    detector: Detector, verdicts: Iterable[Prediction], paths: Sequence[AnyPath]
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        paths: of all clips that there will be verdicts on: the first column fits their names.
    """
    width = min(
        NAME_COLUMNS, max((display_width(printable_name(path)) for path in paths), default=4)
    )
    yield f"{'clip':<{width}}  {'probability':>11}  {'verdict':<10}  weighed most (s)\n"
    for verdict in verdicts:
        name = padded(printable_name(verdict.path), width)
        if verdict.probability is None:
            yield from with_reason(name, verdict.error or "", width)
            continue
        heaviest = " ".join(_in_words(verdict, frame) for frame in most_attended(verdict))
        yield (
            f"{name}  {verdict.probability:>11.3f}  {CLASS_NAMES[bool(verdict.violent)]:<10}  "
            f"{heaviest or 'all alike'}\n"
        )


def _in_words(verdict: Prediction, frame: int) -> str:
    """Return a frame's time with three digits; where that is not known, its number from 1."""
    if verdict.times is None:
        return f"#{frame + 1}"
    time = verdict.times[frame]
    return f"{time:.{2 if time < 9.995 else 1 if time < 99.95 else 0}f}"


def with_reason(name: str, reason: str, width: int) -> Iterator[str]:
    """Yield a bad clip's lines: its name, and why, in as many lines as that takes."""
    text = f"bad: {printable(reason)}"
    lines = textwrap.wrap(text, COLUMNS - width - 2, break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield f"{name if number == 0 else ' ' * width}  {line}\n"


def as_csv(detector: Detector, verdicts: Iterable[Prediction]) -> Iterator[str]:
    """Yield the lines of a CSV file: `clip,probability,verdict,error,attention_1,…,time_1,…`."""
    numbers = range(1, detector.frames + 1)
    columns_of_frames = [f"{what}_{n}" for what in ("attention", "time") for n in numbers]
    yield csv_line(["clip", "probability", "verdict", "error", *columns_of_frames])
    nothing = [""] * detector.frames
    for verdict in verdicts:
        if verdict.probability is None:
            row = ["", "", verdict.error, *nothing, *nothing]
        else:
            attention = [f"{weight:.4f}" for weight in verdict.attention or ()]
            times = [f"{time:.3f}" for time in verdict.times] if verdict.times else nothing
            row = [
                *(f"{verdict.probability:.6f}", CLASS_NAMES[bool(verdict.violent)], ""),
                *attention,
                *times,
            ]
        yield csv_line([verdict.path, *row])


def csv_line(values: Sequence[Any]) -> str:
    """Return a row of a CSV file with its end of line."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue()


def as_json(detector: Detector, verdicts: Iterable[Prediction]) -> Iterator[str]:
    """Yield a JSON document: the detector, and under `clips` an object per clip, a line each."""
    yield from json_document(detector, (_as_object(verdict) for verdict in verdicts))


def json_document(detector: Detector, clips: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the pieces of a JSON document of the detector and its findings on clips."""
    head = {
        "model": detector.name,
        "threshold": detector.threshold,
        "untrained_vgg19": detector.untrained_vgg19,
    }
    yield json.dumps(head)[:-1] + ', "clips": ['
    for number, of_clip in enumerate(clips):
        yield (",\n" if number else "\n") + json.dumps(of_clip)
    yield "\n]}\n"


def _as_object(verdict: Prediction) -> dict[str, Any]:
    if verdict.probability is None:
        return {"clip": str(verdict.path), "error": verdict.error}
    attention = verdict.attention or ()
    times = verdict.times or (None,) * len(attention)
    return {
        "clip": str(verdict.path),
        "probability": verdict.probability,
        "violent": verdict.violent,
        "frames": [
            {"time": time, "attention": weight}
            for time, weight in zip(times, attention, strict=True)
        ],
        "weighed_most": [frame + 1 for frame in most_attended(verdict)],
    }


def timelines_as_table(timelines: Iterable[Timeline], paths: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of a table: a line for each event of each video; times are h:mm:ss.

    Args:
        paths: of all videos that there will be timelines of.
    """
    width = min(
        NAME_COLUMNS, max((display_width(printable_name(path)) for path in paths), default=5)
    )
    yield f"{'video':<{width}}  {'start':>9}  {'end':>9}  {'peak':>9}  {'probability':>11}\n"
    for timeline in timelines:
        name = padded(printable_name(timeline.path), width)
        for event in timeline.events:
            times = "  ".join(f"{timestamp(time):>9}" for time in event[:3])
            yield f"{name}  {times}  {event.probability:>11.3f}\n"
        if timeline.error is not None:
            yield from with_reason(name, timeline.error, width)
        elif not timeline.events:
            highest = max(timeline.windows, key=lambda window: window.probability)
            peak = timestamp(highest.middle)
            yield f"{name}  {'no event':<20}  {peak:>9}  {highest.probability:>11.3f}\n"


def timelines_as_csv(timelines: Iterable[Timeline]) -> Iterator[str]:
    """Yield the lines of a CSV file: `video,start,end,probability,event,error`, one per window.

    `event` is the number, from 1, of the video's event that the window is part of.
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


def timelines_as_json(detector: Detector, timelines: Iterable[Timeline]) -> Iterator[str]:
    """Yield a JSON document: the detector, and under `clips` a video's windows and events."""
    yield from json_document(
        detector,
        (
            {
                "clip": str(timeline.path),
                "windows": [window._asdict() for window in timeline.windows],
                "events": [event._asdict() for event in timeline.events],
                **({} if timeline.error is None else {"error": timeline.error}),
            }
            for timeline in timelines
        ),
    )


def printable(text: str) -> str:
    """Return a text without what a terminal would obey, and without bytes that are no text."""
    one_line = text.replace("\n", "\\n").replace("\t", "\\t").translate(CONTROL_CHARACTERS)
    return one_line.encode(errors="backslashreplace").decode()


def printable_name(path: AnyPath) -> str:
    """Return a clip's name, fit to be printed in one line."""
    return printable(str(path))


def display_width(text: str) -> int:
    """Return how many columns a terminal takes for a text."""
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    """Return a text of `width` columns: blanks behind it, or its middle left out."""
    if display_width(text) > width:
        text = _start_of(text, (width - 1) // 2) + "…" + _end_of(text, width - 1 - (width - 1) // 2)
    return text + " " * (width - display_width(text))


def _start_of(text: str, width: int) -> str:
    start = ""
    for character in text:
        if display_width(start + character) > width:
            break
        start += character
    return start


def _end_of(text: str, width: int) -> str:
    return _start_of(text[::-1], width)[::-1]
