"""Events on disk: a folder each with clip, snapshot and facts, and a line each in events.jsonl."""

import contextlib
import errno
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av

from violence_detection.cameras.settings import ClipRule
from violence_detection.clips.pictures import as_jpeg
from violence_detection.clips.recorder import Segment, join
from violence_detection.errors import RunError
from violence_detection.storage.files import replace_file, write_bytes, write_text

log = logging.getLogger(__name__)

EVENTS = "events.jsonl"
FACTS, SNAPSHOT = "event.json", "snapshot.jpg"
IN_MP4 = ("h264", "hevc", "mpeg4", "av1")  # what browsers and players expect in .mp4; others: .mkv
GIGABYTE = 1e9
QUALITY = 90  # of a snapshot, from 0 to 100
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # other errors are not mended by removing events


@dataclass(frozen=True)
class WrittenClip:
    """An event's clip, and its snapshot, by their names in the event's folder."""

    clip: str
    snapshot: str | None
    start: float  # when its first packet arrived, in seconds since 1970
    seconds: float  # how long it is


class EventStore:
    """The folder of a watcher's events.

    What is too old or too much is removed, the oldest first; so it is when the disk is full.

    Args:
        folder: created.
        rule: how long events are kept, and how much of them.
    """

    def __init__(self, folder: Path, rule: ClipRule):
        self.folder = folder
        self.rule = rule
        folder.mkdir(parents=True, exist_ok=True)

    def write_line(self, facts: Mapping[str, Any]) -> None:
        """Add a line to events.jsonl."""
        line = json.dumps(facts) + "\n"

        def write() -> None:
            with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
                file.write(line)

        self._with_room(write)

    def new_folder(self, camera: str, started: float) -> Path:
        """Return the folder of a new event; it is made when something is written into it."""
        moment = datetime.fromtimestamp(started)
        day = self.folder / moment.strftime("%Y-%m-%d")
        return day / f"{moment.strftime('%H%M%S')}-{camera}"

    def write_clip(self, folder: Path, segments: list[Segment], peak: float) -> WrittenClip | None:
        """Write an event's clip and snapshot; return None if there is no clip.

        Args:
            folder: of the event.
            segments: that the clip is made of.
            peak: when the picture was taken that is kept, in seconds since 1970.
        """
        if not segments:
            return None
        try:
            clip = folder / f"clip{_suffix_for(segments[0].path)}"
            folder.mkdir(parents=True, exist_ok=True)
            self._with_room(lambda: replace_file(clip, partial(join, segments)))
            start = segments[0].start
            picture, seconds = _frame_at(clip, peak - start)
        except (OSError, RunError, av.FFmpegError) as error:
            log.error("%s: the clip cannot be written: %s", folder, error)
            return None
        is_written = picture is not None and self._with_room(
            lambda: write_bytes(folder / SNAPSHOT, as_jpeg(picture, QUALITY))
        )
        return WrittenClip(clip.name, SNAPSHOT if is_written else None, start, seconds)

    def write_facts(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write what is known of an event beside its clip, and its line."""

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")

        self._with_room(write)
        self.write_line(facts)

    def newest(self, count: int, before: str | None = None) -> list[dict[str, Any]]:
        """Return the facts of the newest events, the newest first.

        Args:
            count: how many, at most.
            before: the `folder` of an event; those that are not older are left out.
        """
        # Day by day: a page that looks often reads no more of many events than it shows.
        days = sorted(self.folder.glob("[0-9]*"), reverse=True)
        names = (
            f"{day.name}/{event.name}"
            for day in days
            for event in sorted(day.glob("[0-9]*"), reverse=True)
        )
        older = (name for name in names if before is None or name < before)
        return list(islice(filter(None, map(self.find, older)), count))

    def find(self, folder: str) -> dict[str, Any] | None:
        """Return the facts of the event in a folder of `newest`, with it; None: there is none."""
        if not re.fullmatch(r"\d{4}-\d\d-\d\d/\d{6}-[^/]+", folder):
            return None
        with contextlib.suppress(OSError, ValueError):  # removed just now; damaged
            facts = json.loads((self.folder / folder / FACTS).read_text(encoding="utf-8"))
            return {**facts, "folder": folder}
        return None

    def prune(self) -> None:
        """Remove the events that are older or more than is kept."""
        events = self._events()
        total = sum(size for _, _, size in events)
        oldest_kept = time.time() - self.rule.keep_days * 86400
        for folder, modified, size in events:
            if modified >= oldest_kept and total <= self.rule.keep_gb * GIGABYTE:
                break
            self._remove(folder)
            total -= size

    def _events(self) -> list[tuple[Path, float, int]]:
        """Return the folders of events, when they were made, and their sizes; the oldest first."""
        found = []
        for facts in self.folder.glob(f"*/*/{FACTS}"):
            with contextlib.suppress(OSError):
                size = sum(path.stat().st_size for path in facts.parent.iterdir())
                found.append((facts.parent, facts.stat().st_mtime, size))
        return sorted(found, key=lambda event: event[1])

    def _remove(self, folder: Path) -> None:
        log.info("removing %s", folder)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other events are of that day
            folder.parent.rmdir()

    def _with_room(self, write: Callable[[], object]) -> bool:
        """Write; as long as the disk is full, remove the oldest event. The watching goes on.

        Returns:
            Whether it is written.
        """
        events = self._events()
        while True:
            try:
                write()
                return True
            except (OSError, RunError) as error:
                if not events or _errno_of(error) not in NO_ROOM:
                    log.error("cannot write an event: %s", error)
                    return False
                log.warning("the disk is full")
                self._remove(events.pop(0)[0])


def _errno_of(error: BaseException) -> int | None:
    """Return the number of the disk's error, which a `RunError` is caused by."""
    cause = error.__cause__ if isinstance(error, RunError) else error
    return getattr(cause, "errno", None)


def _suffix_for(path: Path) -> str:
    with av.open(str(path)) as container:
        name = container.streams.video[0].codec_context.name
    return ".mp4" if name in IN_MP4 else ".mkv"


def _frame_at(path: Path, seconds: float) -> tuple[Any, float]:
    """Return the frame nearest to a time as RGB, None if none can be decoded, and the length."""
    with av.open(str(path)) as container:
        length = (container.duration or 0) / av.time_base
        frames: Iterator[Any] = container.decode(video=0)
        found = None
        for frame in frames:
            found = frame
            if frame.time is not None and frame.time >= seconds:
                break
        return None if found is None else found.to_ndarray(format="rgb24"), length


def iso_of(seconds: float) -> str:
    """Return a time, in seconds since 1970, as it is written into lines: local, with its offset."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def seconds_of(text: str) -> float:
    """Return the seconds since 1970 of a time in a line."""
    return datetime.fromisoformat(text).timestamp()
