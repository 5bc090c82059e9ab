"""The videos of clips that are decoded: each is fetched and hashed once for all its segments."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from violence_detection.clips.clip import Clip
from violence_detection.clips.decoders import DecoderProcesses
from violence_detection.features.cache.folder import CacheFolder, Stamp, file_stamp
from violence_detection.storage.remote_paths import AnyPath, RemotePath, local_copy, prefetched

Item = TypeVar("Item")


class OpenVideo:
    """A video on this disk, while clips of it are decoded.

    Args:
        path: of the file, or of the copy of one in a store.
        stamp: which the file had before.
    """

    def __init__(self, path: Path, stamp: Stamp):
        self.path = path
        self._stamp = stamp
        self._content: bytes | None = None
        self._remembered = False
        self._hashing = threading.Lock()

    def content(self, decoders: DecoderProcesses) -> bytes:
        """Return the file's checksum, computed once; raises as `DecoderProcesses.checksum` does."""
        with self._hashing:
            self._content = self._content or decoders.checksum(self.path)
            return self._content

    def remember(self, path: AnyPath, folder: CacheFolder) -> None:
        """Record the file's content in the cache folder under its path, once it was hashed."""
        if self._content and not self._remembered:
            folder.remember_file(path, self._stamp, self._content)
            self._remembered = True


class Videos:
    """The videos of clips that will be decoded, each clip once. Thread-safe."""

    def __init__(self, clips: Sequence[Clip]):
        self._lock = threading.Lock()
        self._left = Counter(clip.path for clip in clips if clip.segment)  # of each video
        self._locks = {path: threading.Lock() for path in self._left}
        self._open: dict[AnyPath, tuple[OpenVideo, contextlib.ExitStack]] = {}

    @contextlib.contextmanager
    def opened(self, clip: Clip) -> Iterator[OpenVideo]:
        """Yield a clip's video; a copy is kept until the last segment of it has been decoded.

        Raises:
            OSError: the file cannot be read.
            RunError: its store does not answer.
        """
        path = clip.path
        if clip.segment is None:
            stamp = file_stamp(path)
            with local_copy(path) as copy:
                yield OpenVideo(copy, stamp)
            return
        try:
            with self._locks[path]:
                if path not in self._open:
                    stamp = file_stamp(path)
                    with contextlib.ExitStack() as stack:
                        video = OpenVideo(stack.enter_context(local_copy(path)), stamp)
                        self._open[path] = video, stack.pop_all()
            yield self._open[path][0]
        finally:
            with self._lock:
                self._left[path] -= 1
                is_last = not self._left[path]
            if is_last and path in self._open:
                self._open.pop(path)[1].close()

    def prefetched(self, items: Iterable[Item], clip_of: Callable[[Item], Clip]) -> Iterator[Item]:
        """Yield items in order, while the videos of those that follow are downloaded, each once."""
        seen: set[AnyPath] = set()

        def path_of(item: Item) -> AnyPath | None:
            clip = clip_of(item)
            if clip.segment is None or not isinstance(clip.path, RemotePath):
                return clip.path
            if clip.path in seen:
                return None
            seen.add(clip.path)
            return clip.path

        return prefetched(items, path_of)
