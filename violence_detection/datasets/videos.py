"""Videos found by their names below a folder, and their paths as a manifest has them."""

import filecmp
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from violence_detection.clips.clip import VIDEO_SUFFIXES
from violence_detection.clips.dataset import video_names
from violence_detection.errors import UserError


class VideoFolder:
    """The videos at any depth below a folder.

    Args:
        folder: is read once, here. Hidden files are skipped, links are followed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in video_names(folder):
            self._by_stem[PurePosixPath(name).stem.lower()].append(name)

    @property
    def names(self) -> list[str]:
        """The paths relative to the folder, with forward slashes, sorted."""
        return sorted(name for names in self._by_stem.values() for name in names)

    def find(self, name: str) -> Path | None:
        """Return the video that an annotation names; None if there is none.

        Args:
            name: with or without folders and suffix, in upper or lower case. If several videos
                have it, those in the folders named, then those of the suffix named come first.

        Raises:
            UserError: several videos that differ have the name.
        """
        wanted = name.strip().replace("\\", "/").lower()
        stem = video_stem(wanted)
        found = self._by_stem.get(stem, [])
        folders = wanted.removesuffix(PurePosixPath(wanted).name)
        for end in (f"/{folders}{stem}.", wanted.removeprefix(f"{folders}{stem}")):
            matching = [each for each in found if end in f"/{each}".lower()]
            found = matching or found
        if not found:
            return None
        first, *others = (self.folder / each for each in found)
        for other in others:
            if not filecmp.cmp(first, other, shallow=False):
                raise UserError(
                    f"{name}: {first} and {other} have this name but differ: "
                    "keep one, or name the folder of the videos"
                )
        return first


def video_stem(name: str) -> str:
    """Return a video's name without folders and suffix; dots that begin no suffix stay."""
    file = PurePosixPath(name.strip().replace("\\", "/")).name
    stem, suffix = os.path.splitext(file)  # noqa: PTH122, "__#1.label" has none
    return stem if suffix.lower() in VIDEO_SUFFIXES else file


def manifest_path(video: Path, manifest_folder: Path) -> str:
    """Return a video's path for a manifest: relative if it is below its folder, else absolute."""
    path = Path(os.path.abspath(video))  # noqa: PTH100, links stay as they are
    folder = Path(os.path.abspath(manifest_folder))  # noqa: PTH100
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
