"""The events that a manifest annotates in long videos."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from violence_detection.clips.clip import as_time
from violence_detection.clips.manifest import ManifestRow
from violence_detection.clips.spans import Span, merged_spans
from violence_detection.errors import UserError


@dataclass
class Annotated:
    """What a manifest says of a video.

    Args:
        name: of the video, as the manifest has it.
        events: from start to end in seconds, in the order of time, without overlap; the end is
            infinite if it is the video's own.
        splits: that its rows name.
    """

    name: str
    events: list[Span] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)


def annotated_events(rows: Iterable[ManifestRow], manifest: Path) -> dict[str, Annotated]:
    """Return the events of each video in a manifest, by `video_key`.

    A violent row is an event; without times, the whole video is one. Events that overlap or touch
    are one event. A nonviolent row without times is a video without events; one with times only
    says that its video has been annotated.

    Args:
        rows: of the manifest.
        manifest: its file, to whose folder the videos' paths are relative.

    Raises:
        UserError: a video has events, but is nonviolent as a whole.
    """
    videos: dict[str, Annotated] = {}
    nonviolent: set[str] = set()  # as a whole
    for row in rows:
        key = video_key(row.video, manifest.parent)
        video = videos.setdefault(key, Annotated(row.video))
        video.splits |= {row.split} if row.split else set()
        if row.label == 1:
            video.events.append((row.start or 0.0, math.inf if row.end is None else row.end))
        elif row.start is None and row.end is None:
            nonviolent.add(key)
    for key, video in videos.items():
        video.events = merged_spans(video.events)
        if video.events and key in nonviolent:
            raise UserError(
                f"{manifest}: {video.name} is nonviolent as a whole, but violent at "
                f"{as_time(video.events[0][0])} s: remove one of the rows"
            )
    return videos


def video_key(video: str | Path, folder: Path) -> str:
    """Return what is equal for all paths to one video: its real path, or its URL.

    Args:
        video: a path, or the URL of a store.
        folder: that a relative path is relative to.
    """
    return str(video) if "://" in str(video) else os.path.realpath(folder / video)
