"""The timelines of long videos, compared with the events that a manifest annotates in them."""

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from violence_detection.clips.spans import Span
from violence_detection.evaluation.annotated_events import Annotated, video_key
from violence_detection.evaluation.event_figures import (
    ComparedVideo,
    ScoredSpan,
    event_figures,
    figures_lines,
    found_events,
    is_false_alarm,
    within,
)
from violence_detection.inference.events import Timeline
from violence_detection.inference.formats import NAME_COLUMNS, padded, printable
from violence_detection.inference.timeline_plot import write_timeline_plot
from violence_detection.runs.files import EVENT_FIGURES_FILE
from violence_detection.runtime.wording import COLUMNS, count_of, timestamp
from violence_detection.storage.files import write_json

NAME_BYTES = 150  # of a video's name in that of its plot
NAMED = 10  # videos that were not compared, in the table
SEEN = ("train", "val")  # splits on which a detector is better than on new videos


class EventComparison:
    """Takes the timelines of videos and compares those that a manifest annotates.

    Args:
        manifest: its path, for messages.
        annotated: what it says of each video, by `video_key`.
        threshold: of the detector.
        folder: exists; receives a plot per video, and at the end `event_figures.json`.
    """

    def __init__(
        self,
        manifest: Path,
        annotated: Mapping[str, Annotated],
        threshold: float,
        folder: Path,
    ):
        self.manifest = manifest
        self.folder = folder
        self._annotated = dict(annotated)
        self._threshold = threshold
        self._videos: list[ComparedVideo] = []
        self._described: list[dict[str, Any]] = []  # of each of these, ready for JSON
        self._plots: set[str] = set()
        self._not_compared: list[tuple[str, str]] = []  # names and reasons
        self._warnings: list[str] = []
        self._predicted: set[str] = set()
        self._seen: list[str] = []  # videos of a split in `SEEN`

    def events_of(self, timeline: Timeline) -> Sequence[Span] | None:
        """Return the annotated events of a video, cut at its end; None if it is not annotated."""
        annotated = self._annotated.get(_key(timeline))
        if annotated is None or not timeline.windows:
            return None
        return within(annotated.events, timeline.windows[-1].end)

    def add(self, timeline: Timeline) -> None:
        """Take the next video's timeline, and write its plot if it is compared.

        Raises:
            RunError: the plot cannot be written.
        """
        name = str(timeline.path)
        self._predicted.add(_key(timeline))
        annotated = self._annotated.get(_key(timeline))
        if annotated is None:
            self._not_compared.append((name, f"not in {self.manifest.name}"))
            return
        if timeline.error is not None:
            self._not_compared.append((name, timeline.error))
            return
        seconds = timeline.windows[-1].end
        late = [start for start, _ in annotated.events if start >= seconds > 0]
        if late:
            self._warnings.append(
                f"{name}: {count_of(len(late), 'event')} annotated after its end "
                f"({timestamp(seconds)}), the first at {timestamp(late[0])}: are times in seconds?"
            )
        if annotated.splits & {*SEEN}:
            self._seen.append(name)
        video = ComparedVideo(
            seconds,
            [ScoredSpan(*window[:3]) for window in timeline.windows],
            [ScoredSpan(event.start, event.end, event.probability) for event in timeline.events],
            annotated.events,
        )
        self._videos.append(video)
        plot = self._plot_name(Path(name).stem)
        self._described.append(self._describe(timeline, video, plot))
        events = self.events_of(timeline)
        write_timeline_plot(timeline, self._threshold, self.folder / plot, events)

    def _plot_name(self, stem: str) -> str:
        """Return the file name of a video's plot; videos in several folders may share a name."""
        stem = os.fsdecode(os.fsencode(stem)[:NAME_BYTES])
        name, number = f"{stem}.png", 1
        while name in self._plots:
            number += 1
            name = f"{stem}_{number}.png"
        self._plots.add(name)
        return name

    def _describe(self, timeline: Timeline, video: ComparedVideo, plot: str) -> dict[str, Any]:
        events = found_events(video, self._threshold)
        alarms = is_false_alarm(video)
        return {
            "video": str(timeline.path),
            "seconds": video.seconds,
            "events_found": sum(event.found for event in events),
            "false_alarms": sum(alarms),
            "events": [event._asdict() for event in events],
            "detected_events": [
                {
                    "start": event.start,
                    "end": event.end,
                    "peak": event.peak,
                    "probability": event.probability,
                    "false_alarm": is_alarm,
                }
                for event, is_alarm in zip(timeline.events, alarms, strict=True)
            ],
            "plot": plot,
        }

    def result(self) -> dict[str, Any]:
        """Return the figures, and what became of each video, ready for JSON."""
        absent = [
            (annotated.name, "not among the videos given")
            for key, annotated in self._annotated.items()
            if key not in self._predicted
        ]
        seen = (
            [
                f"{count_of(len(self._seen), 'video')} in the train or val split of "
                f"{self.manifest.name}: figures are better than on new videos"
            ]
            if self._seen
            else []
        )
        return {
            "annotations": str(self.manifest),
            "figures": event_figures(self._videos, self._threshold),
            "warnings": [*self._warnings, *seen],
            "not_compared": [
                {"video": video, "reason": reason}
                for video, reason in (*self._not_compared, *absent)
            ],
            "videos": self._described,
        }

    def write(self, result: Mapping[str, Any], **made_by: Any) -> None:
        """Write `event_figures.json`.

        Args:
            result: of `result`; the windows of each video are added.
            made_by: what else the file says of the predictions: the model, and so on.

        Raises:
            RunError: the file cannot be written.
        """
        videos = [
            described | {"windows": [window._asdict() for window in video.windows]}
            for described, video in zip(self._described, self._videos, strict=True)
        ]
        made_by = made_by | {"threshold": self._threshold}
        write_json(self.folder / EVENT_FIGURES_FILE, {**made_by, **result, "videos": videos})


def _key(timeline: Timeline) -> str:
    return video_key(str(timeline.path), Path())


def comparison_table(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of the figures.

    Args:
        result: of `EventComparison.result`.
    """
    yield f"\ncompared with {printable(result['annotations'])}\n"
    for name, text in figures_lines(result["figures"]):
        yield f"  {name:<29}{text}\n"
    left_out = result["not_compared"]
    notes = [
        f"not compared: {padded(printable(item['video']), NAME_COLUMNS).rstrip()}: {item['reason']}"
        for item in left_out[:NAMED]
    ]
    if len(left_out) > NAMED:
        notes.append(f"not compared: {count_of(len(left_out) - NAMED, 'other video')}")
    for note in (*notes, *(f"WARNING: {warning}" for warning in result["warnings"])):
        for line in textwrap.wrap(
            printable(note), COLUMNS, initial_indent="  ", subsequent_indent="    "
        ):
            yield f"{line}\n"
