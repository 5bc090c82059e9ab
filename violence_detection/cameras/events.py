"""What happens at a camera, as lines of JSON; of an alarm a clip of the source's own packets."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from violence_detection.cameras.alarms import Alarm
from violence_detection.cameras.store import (
    EVENTS,
    EventStore,
    WrittenClip,
    iso_of,
    seconds_of,
)
from violence_detection.clips.recorder import LONGEST_SEGMENT, PARTIAL, Segment, segments_in

RECENT = ".recent"  # folder of the packets of the last minute, by camera
MARGIN = 10.0  # seconds that packets are kept beyond what an event may need
STARTED, ENDED = "started", "ended"
Notify = Callable[[dict[str, Any]], None]


@dataclass
class _Recorded:
    """An alarm whose clip is not written yet; times are seconds since 1970."""

    name: str
    alarm: Alarm
    offset: float  # what is added to the alarm's times
    is_over: bool = False

    @property
    def start(self) -> float:
        return self.alarm.start + self.offset

    @property
    def end(self) -> float:
        return self.alarm.end + self.offset

    @property
    def peak(self) -> float:
        return self.alarm.peak + self.offset


class CameraEvents:
    """The events of one camera.

    Args:
        camera: its name.
        store: where events are kept.
        notify: called with each line of JSON, too.
        window: seconds of a camera's windows: an alarm begins that long before it is known.
    """

    def __init__(self, camera: str, store: EventStore, notify: Notify, window: float):
        self.camera = camera
        self.store = store
        self.recordings = store.folder / RECENT / camera
        self._notify = notify
        self._window = window
        self._alarms: list[_Recorded] = []

    def note(self, kind: str, moment: float, **facts: Any) -> None:
        """Write a line on the camera itself: lost, back, frozen, moving."""
        self._write({"camera": self.camera, "kind": kind, "time": iso_of(moment), **facts})

    def start(self, alarm: Alarm, offset: float) -> str:
        """Note that an alarm has begun; return the event's name.

        Args:
            alarm: in seconds of a clock.
            offset: what is added to them for seconds since 1970.
        """
        name = f"{self.camera}-{int((alarm.start + offset) * 1000)}"
        recorded = _Recorded(name, alarm, offset)
        self._alarms.append(recorded)
        self._write({**self._facts(recorded), "state": STARTED})
        return name

    def end(self) -> None:
        """Note that the alarm in progress is over; its clip follows when it is complete."""
        for recorded in self._alarms:
            recorded.is_over = True

    def tick(self, now: float, last_call: bool = False) -> None:
        """Write the clips that are complete, and forget packets that no clip needs.

        Args:
            now: seconds since 1970.
            last_call: nothing more will be recorded.
        """
        rule = self.store.rule
        recorded = segments_in(self.recordings)
        recorded_to = max((segment.end for segment in recorded), default=0.0)
        for alarm in list(self._alarms):
            until = alarm.end + rule.after
            waited = now - until > LONGEST_SEGMENT + MARGIN
            if last_call or (alarm.is_over and (recorded_to >= until or waited)):
                self._alarms.remove(alarm)
                self._finish(alarm, recorded)
        needed = min((alarm.start for alarm in self._alarms), default=now - self._window)
        oldest = min(needed - rule.before - self._window - MARGIN, now - rule.recent)
        for segment in recorded:
            if segment.end < oldest:
                with contextlib.suppress(OSError):
                    segment.path.unlink()

    def _finish(self, alarm: _Recorded, recorded: Sequence[Segment], **more: Any) -> None:
        rule = self.store.rule
        folder = self.store.new_folder(self.camera, alarm.start)
        segments = _between(recorded, alarm.start - rule.before, alarm.end + rule.after)
        written = self.store.write_clip(folder, segments, alarm.peak)
        facts = {
            **self._facts(alarm),
            "state": ENDED,
            "end": iso_of(alarm.end),
            "peak": iso_of(alarm.peak),
            **clip_facts(folder.relative_to(self.store.folder), written),
            **more,
        }
        self.store.write_facts(folder, facts)
        self._notify(facts)

    def has_recorded(self, until: float) -> bool:
        """Return whether the packets up to a time, in seconds since 1970, are there."""
        return any(segment.end >= until for segment in segments_in(self.recordings))

    def keep_missed(self, start: float, end: float) -> dict[str, Any] | None:
        """Make an event of something that was no alarm, from the packets that are still there.

        Args:
            start, end: seconds since 1970.

        Returns:
            Its facts; None: nothing of it was recorded.
        """
        segments = _between(segments_in(self.recordings), start, end)
        folder = self.store.new_folder(self.camera, start)
        written = self.store.write_clip(folder, segments, (start + end) / 2)
        if written is None:
            return None
        facts = {
            "event": f"{self.camera}-{int(start * 1000)}",
            "camera": self.camera,
            "kind": "missed",
            "start": iso_of(start),
            "end": iso_of(end),
            **clip_facts(folder.relative_to(self.store.folder), written),
        }
        self.store.write_facts(folder, facts)
        return facts

    def _facts(self, alarm: _Recorded) -> dict[str, Any]:
        return {
            "event": alarm.name,
            "camera": self.camera,
            "kind": "alarm",
            "start": iso_of(alarm.start),
            "probability": round(alarm.alarm.probability, 4),
        }

    def _write(self, facts: dict[str, Any]) -> None:
        self.store.write_line(facts)
        self._notify(facts)

    def recover(self) -> None:
        """Finish the alarms that an earlier process was killed in."""
        recorded = segments_in(self.recordings)
        for facts in _unfinished(self.store.folder / EVENTS, self.camera):
            start = seconds_of(facts["start"])
            last = max((segment.end for segment in recorded), default=start)
            alarm = Alarm(start, max(start, last), facts["probability"], start + self._window)
            self._finish(_Recorded(facts["event"], alarm, 0.0), recorded, interrupted=True)
        for unfinished in self.recordings.glob(f"*{PARTIAL}"):
            unfinished.unlink(missing_ok=True)


def _between(segments: Sequence[Segment], start: float, end: float) -> list[Segment]:
    return [each for each in segments if each.end >= start and each.start <= end]


def _unfinished(path: Path, camera: str) -> list[dict[str, Any]]:
    """Return the facts of alarms that have started and not ended."""
    started: dict[str, dict[str, Any]] = {}
    for facts in _lines(path):
        if facts.get("camera") == camera and facts.get("kind") == "alarm":
            if facts["state"] == STARTED:
                started[facts["event"]] = facts
            else:
                started.pop(facts["event"], None)
    return list(started.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # cut off when a process was killed
                yield json.loads(line)


def clip_facts(folder: Path, written: WrittenClip | None) -> dict[str, Any]:
    """Return what a line says of a clip, with paths relative to the folder of all events."""
    if written is None:
        return {"clip": None, "snapshot": None}
    return {
        "clip": str(folder / written.clip),
        "snapshot": written.snapshot and str(folder / written.snapshot),
        "clip_start": iso_of(written.start),
        "clip_seconds": round(written.seconds, 3),
    }
