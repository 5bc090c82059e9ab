"""The files of an export, and the videos that it names."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from violence_detection.clips.folder_names import is_passed_over
from violence_detection.clips.video import UnreadableClip, open_video
from violence_detection.datasets.videos import VideoFolder, video_stem
from violence_detection.errors import UserError
from violence_detection.settings.constants import STORES


def export_files(source: Path, *ends: str) -> list[Path]:
    """Return the files of an export: `source`, or those in it or one folder deeper.

    Args:
        source: a file or a folder.
        ends: with one of which the name of a file in a folder ends, in lower case.
    """
    if not source.is_dir():
        return [source]
    folders = [source, *(path for path in source.iterdir() if path.is_dir())]
    return sorted(
        path
        for folder in folders
        for path in folder.iterdir()
        if path.name.lower().endswith(ends) and path.is_file() and not is_passed_over(path.name)
    )


def read_text(path: Path, *starts: str) -> str | None:
    """Return a file's text in UTF-8; None if it is something else, or starts differently.

    Args:
        path: of the file.
        starts: one of which the text starts with, blanks left out.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(4096).lstrip()
            if not start.startswith(starts):
                return None
            file.seek(0)
            return file.read()
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file contains; None if it is not JSON, or null.

    Raises:
        UserError: the file cannot be read.
    """
    text = read_text(path, "{", "[")
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def as_dict(value: object) -> dict[str, Any]:
    """Return an object of JSON; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return a list of JSON; an empty one for anything else."""
    return value if isinstance(value, list) else []


class NamedVideos:
    """The videos that an export names.

    Args:
        source: the export, a file or a folder.
        videos: the folder in which they are looked for; None: that of the export.
    """

    def __init__(self, source: Path, videos: Path | None) -> None:
        self._folder = videos or (source if source.is_dir() else source.parent)
        self._found: VideoFolder | None = None
        self._rates: dict[Path | str, float] = {}
        self.missing: list[str] = []

    @property
    def _videos(self) -> VideoFolder:
        if self._found is None:
            self._found = VideoFolder(self._folder)
        return self._found

    def find(self, *names: str) -> Path | str | None:
        """Return the video of the first name that is found; None, and note it, if none is.

        Args:
            names: paths or URLs, in the order of preference.

        Returns:
            A file, or the URL of a store if there is no file of its name.

        Raises:
            UserError: several videos that differ have the name.
        """
        names = tuple(name for name in names if name.strip())
        for name in names:
            path = Path(path_in(name))
            if path.is_absolute() and path.is_file():
                return path
            if found := self._videos.find(path_in(name)) or self._renamed(path_in(name)):
                return found
        for name in names:
            if name.partition("://")[0] in STORES:
                return name
        self.missing.append(names[0] if names else "")
        return None

    def frame_rate(self, video: Path | str) -> float:
        """Return the frames per second that a video reports.

        Raises:
            UserError: it reports none, or cannot be opened, or is not on a disk.
        """
        if video not in self._rates:
            self._rates[video] = _frame_rate(video)
        return self._rates[video]

    def _renamed(self, name: str) -> Path | None:
        """Return the video that an upload gave another name; None if there is none or several.

        Label Studio puts eight digits before it; blanks become underscores, and other characters
        than letters, digits, "-", "_" and "." are removed.
        """
        wanted = re.sub(r"^[0-9a-f]{8}-", "", video_stem(name))
        found = [
            each
            for each in self._videos.names
            if re.sub(r"[^-\w.]", "", video_stem(each).replace(" ", "_")) == wanted
        ]
        return self._folder / found[0] if len(found) == 1 else None


def path_in(name: str) -> str:
    """Return the path in a URL or in a tag such as `<video src="...">`; another name as it is."""
    if tagged := re.search(r"<[^>]*\bsrc\s*=\s*[\"']?([^\"'>\s]+)", name):
        name = tagged[1]
    name = name.strip()
    url = urlsplit(name) if re.match(r"[a-z][a-z0-9+.-]+://", name, re.I) else None
    query = parse_qs(name.partition("?")[2])
    if name.partition("?")[0].rstrip("/").endswith("/data/local-files") and "d" in query:
        return query["d"][0]
    if url is None:
        return name
    if url.scheme.lower() in STORES:
        return url.netloc + url.path
    return unquote(url.path)


def _frame_rate(video: Path | str) -> float:
    if isinstance(video, str):
        raise UserError(f"{video}: its frame rate is needed: copy it here, and name its folder")
    try:
        with open_video(video) as opened:
            rate = opened.info.frames_per_second
    except (UnreadableClip, OSError) as error:
        raise UserError(f"{video}: its frame rate is needed, but: {error}") from error
    if rate is None:
        raise UserError(f"{video}: its frame rate is needed, but it reports none: convert it")
    return rate
