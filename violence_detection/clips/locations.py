"""Where the videos of a dataset are: below its folder, anywhere on this machine, or in a store."""

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from violence_detection.clips.manifest import is_manifest
from violence_detection.storage.remote_paths import AnyPath, clips_folder

Spooled = tuple[Path, float]  # folder for copies of remote clips, and its size in GB


class Locations:
    """Where the videos of a dataset are.

    Args:
        folder: of the dataset, or of its manifest.
        manifest: that lists the clips; None: they lie in folders.
        spooled: for videos at a URL that a manifest lists.
        stack: on its end, copies of these are removed.
    """

    def __init__(
        self, folder: AnyPath, spooled: Spooled, stack: ExitStack, manifest: AnyPath | None = None
    ):
        self.folder = folder
        self.manifest = manifest
        self._spooled = spooled
        self._stack = stack
        self._buckets: dict[str, AnyPath] = {}

    def locate(self, video: str) -> tuple[AnyPath, str, str]:
        """Return the folder of a video, its path below that, and what its name begins with.

        Args:
            video: a path relative to the dataset's folder, an absolute one, or a URL.

        Raises:
            UserError: the store's library is missing, or the spool cannot be written.
        """
        scheme, is_url, rest = video.partition("://")
        if not is_url:
            return self.folder, video, ""
        bucket, _, key = rest.partition("/")
        root = f"{scheme}://{bucket}"
        if root not in self._buckets:
            self._buckets[root] = self._stack.enter_context(clips_folder(root, *self._spooled))
        return self._buckets[root], key, f"{root}/"

    def path(self, video: str) -> AnyPath:
        """Return the path of a video; raises as `locate` does."""
        folder, file, _ = self.locate(video)
        return folder / file


@contextlib.contextmanager
def dataset_locations(
    where: Path | str, spool_dir: Path, spool_size: float, flag: str = "--dataset-path"
) -> Iterator[Locations]:
    """Yield where the videos of a dataset are; see `remote_paths.clips_folder`.

    Args:
        where: a folder or a manifest, or the URL of one.
        spool_dir: where copies of remote clips are kept while they are read.
        spool_size: their total size at most, in gigabytes.
        flag: the flag that named the dataset, for messages.
    """
    name = None
    if is_manifest(where) and not (isinstance(where, Path) and where.is_dir()):
        name = str(where).rpartition("/")[2]
        where = where.parent if isinstance(where, Path) else where.rpartition("/")[0]
    with ExitStack() as stack:
        folder = stack.enter_context(clips_folder(where, spool_dir, spool_size, flag))
        if isinstance(folder, Path):
            folder = folder.expanduser().resolve()
        manifest = folder / name if name else None
        yield Locations(folder, (spool_dir, spool_size), stack, manifest)
