"""What the readers of annotation files share: finding the file, events checked, rows gathered."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from violence_detection.clips.dataset import file_names
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.videos import VideoFolder, manifest_path, video_stem
from violence_detection.errors import UserError

LARGEST_FILE = 100_000_000  # bytes; an annotation file is smaller

Event = tuple[float, float]  # start and end in seconds


def text_of(path: Path) -> str | None:
    """Return a text file's content; None for a folder, another kind of file or a huge one."""
    try:
        if path.is_dir() or path.stat().st_size > LARGEST_FILE:
            return None
        with path.open("rb") as file:
            if b"\0" in file.read(4096):
                return None
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def as_number(value: object) -> float | None:
    """Return a number, or one written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def find_annotations(
    source: Path, suffix: str, is_format: Callable[[str], bool]
) -> tuple[Path, str] | None:
    """Return the annotation file of a format and its text; None if there is none.

    Args:
        source: the file, or a folder that has it at any depth.
        suffix: of the files that are looked at in a folder, in lower case.
        is_format: whether a text is of the format.

    Raises:
        UserError: the folder has two that differ.
    """
    files = [source]
    if source.is_dir():
        files = [source / name for name in file_names(source) if name.lower().endswith(suffix)]
    texts = ((path, text_of(path)) for path in files)
    found = [(path, text) for path, text in texts if text is not None and is_format(text)]
    if len({text for _, text in found}) > 1:
        names = " and ".join(str(path) for path, _ in found[:2])
        raise UserError(f"{source} has different annotations, {names}: name the file to import")
    return found[0] if found else None


def folder_of_videos(source: Path, videos: Path | None) -> VideoFolder:
    """Return where annotated videos are looked for, see `formats.Reader`."""
    return VideoFolder(videos or (source if source.is_dir() else source.parent))


def checked_event(start: float, end: float, place: str, unit: float = 1.0) -> Event:
    """Return an event in seconds.

    Args:
        start, end: as the file has them.
        place: file and line or item, for the message.
        unit: how many of the file's units a second has: 1, or frames.

    Raises:
        UserError: it is negative, not finite or has no length.
    """
    if not (math.isfinite(start) and math.isfinite(end)) or start < 0:
        raise UserError(f"{place}: an event from {start:g} to {end:g} is impossible: correct it")
    if end <= start:
        raise UserError(f"{place}: an event ends at {end:g}, not after its start {start:g}")
    return start / unit, end / unit


class EventRows:
    """The rows of long videos and their events, in the order in which they are added.

    Args:
        videos: where they are looked for.
        manifest_folder: see `formats.Reader`.
    """

    def __init__(self, videos: VideoFolder, manifest_folder: Path) -> None:
        self.videos = videos
        self.rows: list[ManifestRow] = []
        self.missing: list[str] = []
        self._manifest_folder = manifest_folder
        self._places: dict[str, str] = {}

    def add(
        self,
        name: str,
        events: Iterable[Event],
        place: str,
        split: str | None = None,
        group: str | None = None,
    ) -> None:
        """Add a video.

        Args:
            name: as the annotation has it.
            events: in which it is violent, each counted once; none: it is nonviolent.
            place: file and line or item, for the message.
            group: None: the video is a group of its own.

        Raises:
            UserError: it has been added already, or several videos have the name.
        """
        stem = video_stem(name)
        if (before := self._places.setdefault(stem.lower(), place)) != place:
            raise UserError(f"{place}: {name} is listed twice, before in {before}: remove one")
        video = self.videos.find(name)
        if video is None:
            self.missing.append(name)
            return
        path, group = manifest_path(video, self._manifest_folder), group or stem
        found = [
            ManifestRow(path, 1, start, end, split, group) for start, end in sorted(set(events))
        ]
        self.rows += found or [ManifestRow(path, 0, split=split, group=group)]

    def imported(self, format_name: str, notes: Sequence[str] = ()) -> Imported:
        """Return what was added as an importer's result."""
        return Imported(format_name, self.rows, True, self.missing, list(notes))
