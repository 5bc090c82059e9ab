"""A manifest: a file that lists clips, each a video or a segment of one.

`video,start,end,label,split,group`, of which only `video` and `label` are needed; as CSV, TSV or
one JSON object a line. See docs/datasets.md.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import write_csv

COLUMNS = ("video", "start", "end", "label", "split", "group")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A clip in a manifest.

    Args:
        video: a path relative to the manifest's folder, with forward slashes; an absolute path;
            or the URL of a store.
        label: 1 is violent, 0 nonviolent.
        start, end: of the segment, in seconds from the video's first frame; None: the video's own.
        split: one of `SPLITS`; None: unknown.
        group: clips of one group share a source video or a camera; None: unknown.
    """

    video: str
    label: int
    start: float | None = None
    end: float | None = None
    split: str | None = None
    group: str | None = None


def parse_time(text: str) -> float:
    """Return seconds from "12.5", "mm:ss.mmm" or "h:mm:ss.mmm".

    Raises:
        ValueError: it is none of these, or negative.
    """
    if not re.fullmatch(r"(\d+:)?(\d+:)?\d+(\.\d*)?|\.\d+", text.strip()):
        raise ValueError(text)
    seconds = 0.0
    for part in text.strip().split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def as_time(seconds: float) -> str:
    """Return seconds as a manifest and a clip's name have them: "12", "12.5", "0.033"."""
    if not math.isfinite(seconds):
        raise ValueError(seconds)
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def write_manifest(rows: Iterable[ManifestRow], path: Path) -> None:
    """Write a manifest as CSV.

    Raises:
        RunError: the disk is full, gone or read-only.
    """

    def time(seconds: float | None) -> str:
        return "" if seconds is None else as_time(seconds)

    cells = (
        (
            *(row.video, time(row.start), time(row.end), CLASS_NAMES[row.label]),
            *(row.split or "", row.group or ""),
        )
        for row in rows
    )
    write_csv(path, COLUMNS, cells)
