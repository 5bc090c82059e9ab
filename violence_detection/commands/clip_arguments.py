"""From the arguments of a command line to the clips that they name."""

import argparse
import contextlib
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from violence_detection.errors import UserError
from violence_detection.settings.schema import Settings
from violence_detection.settings.values import folder_or_url

if TYPE_CHECKING:
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
) -> "Sequence[AnyPath]":
    """Return what `find_local_clips` does, and clips in object stores that URLs name.

    Args:
        names: as of `find_local_clips`; also URLs of files and folders.
        spool_dir: where clips from URLs are kept while they are read.
        stack: closes the spool folder.

    Raises:
        UserError: as of `find_local_clips`; or a URL cannot be used.
    """
    if not any("://" in name for name in names):
        return find_local_clips(names)
    found: list[AnyPath] = []
    for name in names:
        if "://" in name:
            found += _clips_at_url(name, spool_dir, stack)
        else:
            found += find_local_clips([name])
    return list(dict.fromkeys(found))


def require_local(flag: str, clips: "Sequence[AnyPath]") -> list[Path]:
    """Return the clips as paths; raise `UserError` if one is at a URL, where `flag` is no use."""
    local = [clip for clip in clips if isinstance(clip, Path)]
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
