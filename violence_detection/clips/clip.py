"""One labelled video file of a dataset."""

from dataclasses import dataclass

from violence_detection.storage.remote_paths import AnyPath

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg"),
        *(".ts", ".mts", ".m2ts", ".3gp", ".vob", ".dav"),
    )
)
FILE_TYPES = ", ".join(sorted(VIDEO_SUFFIXES))  # as messages list them


@dataclass(frozen=True, slots=True)
class Clip:
    """A labelled video file.

    Args:
        folder: the dataset folder, absolute. All clips share one object: there may be millions.
        file: the path relative to `folder`, with forward slashes.
        label: 1 is violent, 0 nonviolent.
        split: one of `SPLITS`, or `UNLABELED`.
        group: clips of one group share a source video or a camera; None if it is unknown.
        prefix: of the names of unlabeled clips, so that none equals a labelled clip's.
    """

    folder: AnyPath
    file: str
    label: int
    split: str
    group: str | None = None
    prefix: str = ""

    @property
    def path(self) -> AnyPath:
        """The absolute path."""
        return self.folder / self.file

    @property
    def name(self) -> str:
        """The unique name in lists: the path relative to the dataset folder."""
        return self.prefix + self.file

    @property
    def group_key(self) -> str:
        """What this clip is split and resampled together with, see `group_key`."""
        return group_key(self.name, self.group)


def group_key(name: str, group: str | None) -> str:
    """Return the key of a clip's group; a clip without a group is a group of its own."""
    return f"group {group}" if group else f"clip {name}"
