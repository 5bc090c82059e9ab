"""From the arguments of a command line to the clips that they name."""

import argparse
import contextlib
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from violence_detection.errors import UserError
from violence_detection.settings.constants import CLIP_TIMEOUT
from violence_detection.settings.schema import Settings
from violence_detection.settings.values import folder_or_url

if TYPE_CHECKING:
    from violence_detection.clips.clip import Footage
    from violence_detection.storage.remote_paths import AnyPath


def find_local_clips(names: Sequence[str]) -> list[Path]:
    """Return the files that are named, each once.

    Args:
        names: files, folders, whose video files are found at any depth, and patterns.

    Returns:
        The files in the order of `names`, those of a folder or pattern sorted.

    Raises:
        UserError: a file does not exist, or a folder or pattern has no clips.
    """
    from violence_detection.clips.dataset import video_files

    files: dict[tuple[str, str], Path] = {}  # by name and real folder: links may form circles
    for name in names:
        path = Path(name)
        matches = [path] if os.path.lexists(path) else _matches(name)
        if not matches:
            raise UserError(f"{name}: no such file or folder, and no file matches it")
        found = [
            file
            for match in matches
            for file in (video_files(match) if match.is_dir() else [match])
        ]
        if not found:
            raise _no_clips_in(name)
        for file in found:
            files.setdefault((file.name, os.path.realpath(file.parent)), file)
    return list(files.values())


def find_clips(
    names: Sequence[str], spool_dir: Path, stack: contextlib.ExitStack
) -> "Sequence[Footage]":
    """Return what `find_local_clips` does, clips in object stores, and segments of videos.

    Args:
        names: as of `find_local_clips`; also URLs of files and folders, manifests, and segments
            as the names in `predictions.csv` have them: `video.mp4#t=12,15.5`.
        spool_dir: where clips from URLs are kept while they are read.
        stack: closes the spool folder.

    Raises:
        UserError: as of `find_local_clips`; a URL cannot be used; a line of a manifest is wrong.
    """
    special = [name for name in names if _is_special(name)]
    if not special:
        return find_local_clips(names)
    found: list[Footage] = []
    for name in names:
        found += _footage(name, spool_dir, stack) if name in special else find_local_clips([name])
    return list(dict.fromkeys(found))


def _is_special(name: str) -> bool:
    """Return whether a name is a URL, a manifest or a segment: no file or folder of clips."""
    from violence_detection.clips.clip import file_and_segment
    from violence_detection.clips.manifest import is_manifest

    if os.path.lexists(name):
        return is_manifest(name) and not Path(name).is_dir()
    return "://" in name or is_manifest(name) or file_and_segment(name)[1] is not None


def _footage(name: str, spool_dir: Path, stack: contextlib.ExitStack) -> "Sequence[Footage]":
    from violence_detection.clips.clip import VideoSegment, file_and_segment
    from violence_detection.clips.manifest import is_manifest

    if is_manifest(name):
        return _listed(name, spool_dir, stack)
    file, segment = file_and_segment(name)
    if segment and segment.end is not None and segment.end <= segment.start:
        raise UserError(f"{name}: the segment ends before it starts: give #t=START,END in seconds")
    is_url = "://" in name
    videos = _clips_at_url(file, spool_dir, stack) if is_url else find_local_clips([file])
    return [VideoSegment(video, segment) for video in videos] if segment else videos


def _listed(name: str, spool_dir: Path, stack: contextlib.ExitStack) -> "Sequence[Footage]":
    from violence_detection.clips.listed import listed_footage
    from violence_detection.clips.locations import dataset_locations

    where = name if "://" in name else Path(name)
    if isinstance(where, Path) and not where.is_file():
        raise UserError(f"{name}: no such file")
    spool_size = Settings().data.spool_size
    locations = stack.enter_context(dataset_locations(where, spool_dir, spool_size, flag="clips"))
    assert locations.manifest is not None
    return listed_footage(locations.manifest, locations, CLIP_TIMEOUT)


def require_whole(flag: str, clips: "Sequence[Footage]") -> "list[AnyPath]":
    """Return the clips as files; raise `UserError` if one is a segment, where `flag` is no use."""
    from violence_detection.clips.clip import VideoSegment

    for clip in clips:
        if isinstance(clip, VideoSegment):
            raise UserError(f"{clip}: {flag} takes whole videos: name {clip.path}, or drop {flag}")
    return [clip for clip in clips if not isinstance(clip, VideoSegment)]


def require_local(flag: str, clips: "Sequence[Footage]") -> list[Path]:
    """Return the clips as paths; raise `UserError` if one is a segment or at a URL."""
    local = [clip for clip in require_whole(flag, clips) if isinstance(clip, Path)]
    if len(local) < len(clips):
        url = next(clip for clip in clips if not isinstance(clip, Path))
        raise UserError(f"{url}: {flag} needs local files: copy the clip here, or drop {flag}")
    return local


def _clips_at_url(name: str, spool_dir: Path, stack: contextlib.ExitStack) -> "list[AnyPath]":
    from violence_detection.clips.clip import VIDEO_SUFFIXES
    from violence_detection.clips.dataset import video_files
    from violence_detection.storage.remote_paths import clips_folder

    parent, _, last = name.rpartition("/")
    is_file = any(name.lower().endswith(suffix) for suffix in VIDEO_SUFFIXES)
    try:
        url = folder_or_url(parent if is_file else name)
    except argparse.ArgumentTypeError as error:
        raise UserError(str(error)) from error
    spool_size = Settings().data.spool_size
    folder = stack.enter_context(clips_folder(url, spool_dir, spool_size, flag="clips"))
    clips = [folder / last] if is_file else video_files(folder)
    if not clips:
        raise _no_clips_in(name)
    return clips


def _matches(pattern: str) -> list[Path]:
    # Shallow paths come first: of two paths to one file, the shorter one is kept.
    if not glob.has_magic(pattern):
        return []
    # Path.glob takes no absolute pattern.
    matches = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207
    return sorted(matches, key=lambda path: (len(path.parts), path))


def _no_clips_in(name: str) -> UserError:
    from violence_detection.clips.clip import FILE_TYPES

    return UserError(f"{name} contains no clips (file types: {FILE_TYPES})")
