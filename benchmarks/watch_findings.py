"""What a soak of the watcher has shown: fights, events, lines at the receiver, clips."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import av

from benchmarks.played_cameras import PART, PERIOD, fights_between, fights_in

SETTLE = 30.0  # seconds after an outage until a camera counts as watched again
WATCHED_FROM = 60.0  # seconds after the scenes' beginning: all cameras are connected
MARGIN = 6.0  # seconds around a fight in which its alarm may begin


class Outage(NamedTuple):
    """Something that was killed or stopped for a while; times are seconds since 1970."""

    what: str
    start: float
    end: float
    camera: int | None  # None: it concerns all

    def concerns(self, camera: int, start: float, end: float) -> bool:
        """Return whether a camera could not be watched for a part of a span of time."""
        if self.what == "broker" or self.camera not in (None, camera):
            return False
        return start < self.end + SETTLE and end > self.start


def findings(
    events: Path,
    received: Sequence[Mapping[str, Any]],
    began: Sequence[float],
    ended: float,
    outages: Sequence[Outage],
) -> dict[str, Any]:
    """Compare what was played, what was noted, what was delivered, and what the clips show.

    Args:
        events: folder of the watcher's events.
        received: the lines that the receiver was given.
        began: when each camera's scene begins, in seconds since 1970.
        ended: when the watching ends.
        outages: what was killed or stopped.
    """
    lines = [json.loads(line) for line in (events / "events.jsonl").read_text().splitlines()]
    alarms = [line for line in lines if line["kind"] == "alarm" and line["state"] == "ended"]
    undisturbed, disturbed = _fights_with_alarms(alarms, began, ended, outages)
    noted = Counter(_key(line) for line in lines)
    delivered = Counter(_key(line) for line in received)
    clips = [_clip_shows(events, line, began) for line in alarms if line["clip"]]
    return {
        "fights": {
            "undisturbed": len(undisturbed),
            "with_one_alarm": sum(count == 1 for count in undisturbed),
            "with_none": sum(count == 0 for count in undisturbed),
            "with_several": sum(count > 1 for count in undisturbed),
            "in_an_outage": len(disturbed),
            "of_these_with_an_alarm": sum(count > 0 for count in disturbed),
        },
        "alarms": {
            "started": sum(line.get("state") == "started" for line in lines),
            "ended": len(alarms),
            "of_no_fight": sum(_fight_of(line, began) is None for line in alarms),
            "interrupted": sum(bool(line.get("interrupted")) for line in alarms),
        },
        "lines": {
            "noted": sum(noted.values()),
            "noted_twice": sum(count > 1 for count in noted.values()),
            "delivered": sum(delivered.values()),
            "lost": len(set(noted) - set(delivered)),
            "doubled": sum(count > 1 for count in delivered.values()),
        },
        "clips": {
            "written": len(clips),
            "missing": sum(line["clip"] is None for line in alarms),
            "that_play": sum(shown is not None for shown in clips),
            "that_show_their_fight": sum(bool(shown) for shown in clips),
        },
        "outages": [(outage.what, round(outage.end - outage.start, 1)) for outage in outages],
    }


def _key(line: Mapping[str, Any]) -> tuple[str, ...]:
    if line["kind"] == "alarm":
        return (line["event"], line["state"])
    return (line["camera"], line["kind"], line["time"])


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _fight_of(line: Mapping[str, Any], began: Sequence[float]) -> int | None:
    """Return the number of the fight that an alarm overlaps, None if there is none."""
    scene = began[int(line["camera"].removeprefix("camera"))]
    start, end = _time(line["start"]), _time(line["end"])
    for begins, number in fights_between(scene, start - 2 * PERIOD, end + PERIOD):
        if start < begins + PART + MARGIN and end > begins:
            return number
    return None


def _fights_with_alarms(
    alarms: Sequence[Mapping[str, Any]],
    began: Sequence[float],
    ended: float,
    outages: Sequence[Outage],
) -> tuple[list[int], list[int]]:
    """Return how many alarms each fight has: of those that were watched, and of the others."""
    undisturbed: list[int] = []
    disturbed: list[int] = []
    first = max(began) + WATCHED_FROM
    for camera, scene in enumerate(began):
        own = [line for line in alarms if line["camera"] == f"camera{camera}"]
        spans = [(_time(line["start"]), _time(line["end"])) for line in own]
        for begins, _ in fights_between(scene, first, ended - MARGIN):
            over = begins + PART
            count = sum(start < over + MARGIN and end > begins for start, end in spans)
            was_out = any(o.concerns(camera, begins - MARGIN, over + MARGIN) for o in outages)
            (disturbed if was_out else undisturbed).append(count)
    return undisturbed, disturbed


def _clip_shows(events: Path, line: Mapping[str, Any], began: Sequence[float]) -> bool | None:
    """Return whether an alarm's clip shows its fight; None: it does not play."""
    try:
        shown = fights_in(events / line["clip"])
    except av.FFmpegError:
        return None
    fight = _fight_of(line, began)
    return fight in shown if fight is not None else True


def table(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    rows = ["| what | count |", "| --- | ---: |"]
    for name in ("windows", "fights", "alarms", "lines", "clips"):
        for key, value in report[name].items():
            rows.append(f"| {name}: {key.replace('_', ' ')} | {value} |")
    outages = ", ".join(f"{what} {seconds:g} s" for what, seconds in report["outages"])
    rows.append(f"| outages | {outages or 'none'} |")
    memory = report["memory_mb"]
    if memory:
        span = f"{memory['first']:g} and {memory['last']:g}, {memory['minutes']:g} min apart"
        rows.append(f"| MB of the watcher and its decoders, first and last | {span} |")
    rows.append(f"| page: looks without an answer | {report['page_failures']} |")
    return "\n".join(rows)
