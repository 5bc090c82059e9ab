"""One labelled clip of a dataset: a video file, or a segment of one."""

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from violence_detection.storage.remote_paths import AnyPath

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg"),
        *(".ts", ".mts", ".m2ts", ".3gp", ".vob", ".dav"),
    )
)
FILE_TYPES = ", ".join(sorted(VIDEO_SUFFIXES))  # as messages list them
# As media fragments, https://www.w3.org/TR/media-frags/: "video.mp4#t=12,15.5".
FRAGMENT = re.compile(r"(.*)#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)?", re.DOTALL)

ROUNDING = 0.0005  # seconds: the times of segments are written with three decimals


def as_time(seconds: float) -> str:
    """Return seconds as a manifest and a clip's name have them: "12", "12.5", "0.033"."""
    if not math.isfinite(seconds):
        raise ValueError(seconds)
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


class Segment(NamedTuple):
    """A part of a video: the frames from `start` on that are shown before `end`."""

    start: float = 0.0  # seconds from the video's first frame
    end: float | None = None  # None: the video's own

    def has(self, time: float) -> bool:
        """Return whether the frame of a time is in the segment, whose times may be rounded."""
        return self.start <= time + ROUNDING and (self.end is None or time + ROUNDING < self.end)

    def __str__(self) -> str:
        return f"#t={as_time(self.start)},{'' if self.end is None else as_time(self.end)}"

    def content(self, video: bytes) -> bytes:
        """Return the 16-byte key of what is in this segment of a video, whose key is given."""
        return hashlib.blake2b(video + str(self).encode(), digest_size=16).digest()


def file_and_segment(name: str) -> tuple[str, Segment | None]:
    """Return the file in a clip's name, and its segment; None if it is the whole video."""
    found = FRAGMENT.fullmatch(name)
    if found is None:
        return name, None
    file, start, end = found.groups()
    return file, Segment(float(start), None if end is None else float(end))


@dataclass(frozen=True)
class VideoSegment:
    """A segment of a video without a label, to be predicted."""

    path: AnyPath  # of the video
    segment: Segment

    def __str__(self) -> str:
        return f"{self.path}{self.segment}"


Footage = AnyPath | VideoSegment  # what is predicted: a whole video, or a segment of one


@dataclass(frozen=True, slots=True)
class Clip:
    """A labelled video file, or a segment of one.

    Args:
        folder: the dataset folder, absolute. All clips share one object: there may be millions.
        file: the path relative to `folder`, with forward slashes.
        label: 1 is violent, 0 nonviolent.
        split: one of `SPLITS`, or `UNLABELED`.
        group: clips of one group share a source video or a camera; None if it is unknown.
        prefix: of the names of unlabeled clips, so that none equals a labelled clip's.
        segment: of the video; None: all of it.
        subgroups: its values in the columns of --subgroup, in their order; "" where it has none.
    """

    folder: AnyPath
    file: str
    label: int
    split: str
    group: str | None = None
    prefix: str = ""
    segment: Segment | None = None
    subgroups: tuple[str, ...] = field(default=(), compare=False)

    @property
    def path(self) -> AnyPath:
        """The absolute path of the video."""
        return self.folder / self.file

    @property
    def name(self) -> str:
        """The unique name in lists: the path relative to the dataset folder, and the segment."""
        return f"{self.prefix}{self.file}{self.segment or ''}"

    @property
    def order(self) -> tuple[str, float, float]:
        """What clips are sorted by: their names, and the segments of a video by time."""
        start, end = self.segment or (0.0, 0.0)
        return self.prefix + self.file, start, math.inf if end is None else end

    def in_split(self, split: str) -> "Clip":
        """Return this clip in a split. Much faster than `replace`: there may be millions."""
        if split == self.split:
            return self
        return Clip(
            *(self.folder, self.file, self.label, split),
            *(self.group, self.prefix, self.segment, self.subgroups),
        )

    def content(self, video: bytes) -> bytes:
        """Return the 16-byte key of the clip's content, given that of its video."""
        return self.segment.content(video) if self.segment else video

    @property
    def group_key(self) -> str:
        """What this clip is split and resampled together with, see `group_key`."""
        return group_key("" if self.group else self.name, self.group)  # names take time to make


def group_key(name: str, group: str | None) -> str:
    """Return the key of a clip's group; a clip without a group is a group of its own."""
    return f"group {group}" if group else f"clip {name}"
