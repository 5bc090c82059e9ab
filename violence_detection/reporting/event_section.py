"""The part of a report about long videos: predictions compared with annotated events."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError
from violence_detection.evaluation.event_figures import figures_lines
from violence_detection.reporting.plots import as_png
from violence_detection.reporting.rendering import png_url
from violence_detection.reporting.timeline_figure import NARROW, timeline_figure
from violence_detection.runs.files import EVENT_FIGURES, EVENT_FIGURES_FILE
from violence_detection.runtime.wording import count_of
from violence_detection.storage.files import read_json

DRAWN = 12  # videos whose timelines are shown
LISTED = 200  # videos in a table that may have thousands


def event_section(run: Path, path: Path | None, threshold: float) -> dict[str, Any] | None:
    """Return what the page shows of `predict.py --compare-with`; None: it has not been run.

    Args:
        run: the checkpoint directory, where the figures are by default.
        path: of the figures elsewhere; None: those of the run, if there are any.
        threshold: of the detector now; the figures may be of another.

    Raises:
        UserError: the figures are missing or damaged.
    """
    if path is None:
        path = run / EVENT_FIGURES / EVENT_FIGURES_FILE
        if not path.exists():
            return None
    compared = _read(path)
    own, names = compared["threshold"], _short_names(compared["videos"])
    return {
        "annotations": Path(compared["annotations"]).name,
        "model": compared["model"],
        "windows": f"{compared['window']:g} s, {compared['stride']:g} s apart",
        "threshold": f"{own:.3f}",
        "threshold_now": f"{threshold:.3f}" if abs(threshold - own) >= 0.0005 else None,
        "figures": figures_lines(compared["figures"]),
        "warnings": compared["warnings"],
        "videos": [_video(video, names) for video in compared["videos"][:LISTED]],
        "more_videos": max(0, len(compared["videos"]) - LISTED),
        "not_compared": compared["not_compared"][:LISTED],
        "not_compared_count": len(compared["not_compared"]),
        "plots": [_plot(video, own, names) for video in _most_telling(compared["videos"])],
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        compared = read_json(path)
        if "figures" not in compared or "annotations" not in compared:
            raise UserError(f"{path}: not a file of event figures")
    except UserError as error:
        raise UserError(
            f"{path}: missing, damaged or not event figures: run predict.py --compare-with again"
        ) from error
    return compared


def _short_names(videos: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the videos' names below the deepest folder that contains all of them, by path."""
    paths = [video["video"] for video in videos]
    try:
        common = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # none, or relative ones among absolute ones
        return {path: path for path in paths}
    return {path: os.path.relpath(path, common or ".") for path in paths}


def _video(video: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    delays = [event["delay"] for event in video["events"] if event["delay"] is not None]
    return {
        "name": names[video["video"]],
        "found": f"{video['events_found']} of {len(video['events'])}",
        "false_alarms": video["false_alarms"],
        "delay": f"{max(delays):.1f}" if delays else None,
    }


def _most_telling(videos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the videos with the most mistakes, then those with the most events."""

    def key(video: Mapping[str, Any]) -> tuple[int, int]:
        missed = len(video["events"]) - video["events_found"]
        return -(missed + video["false_alarms"]), -len(video["events"])

    return sorted(videos, key=key)[:DRAWN]


def _plot(video: Mapping[str, Any], threshold: float, names: Mapping[str, str]) -> dict[str, str]:
    windows = [
        (window["start"], window["end"], window["probability"]) for window in video["windows"]
    ]
    detected = [
        (event["start"], event["end"], event["peak"], event["probability"])
        for event in video["detected_events"]
    ]
    annotated = [(event["start"], event["end"]) for event in video["events"]]
    figure = timeline_figure(windows, detected, threshold, annotated, NARROW)
    title = (
        f"Probability of violence over time: {count_of(len(detected), 'detected event')}, "
        f"{count_of(len(annotated), 'annotated event')}"
    )
    return {
        "picture": png_url(as_png(figure)),
        "title": title,
        "caption": names[video["video"]],
    }
