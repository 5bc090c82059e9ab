"""Clips in an object store, as paths.

A `RemotePath` takes the place of a clip's `Path`, with as much of its interface as clips need. Its
content is read from a copy on this disk (`local_copy`), which is kept only while it is read.
"""

import contextlib
import errno
import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TextIO, TypeVar

from violence_detection.errors import RESUME, RunError, failing_as
from violence_detection.storage.object_store import RemoteStore, is_store_error, reason_of
from violence_detection.storage.spool import DOWNLOADS, GIGABYTE, Download, Spool

BLOCK = 8 * 2**20  # bytes of a request
PREFETCHED = 2 * DOWNLOADS  # clips whose download may begin before they are read
VERSIONS = ("ETag", "generation", "etag", "mtime", "last_modified", "LastModified", "created")

Item = TypeVar("Item")
Stamp = tuple[int, int, int]  # equal as long as a file's content is


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a store reports of a file without sending it."""

    size: int  # bytes
    version: str  # changes whenever the content does

    @property
    def stamp(self) -> Stamp:
        """The same as three non-negative numbers below 2**63."""
        digest = hashlib.blake2b(self.version.encode(), digest_size=16).digest()
        return self.size, int.from_bytes(digest[:8]) >> 1, int.from_bytes(digest[8:]) >> 1


@dataclass(eq=False)
class ClipStore:
    """A store's folder of clips, and the spool through which they are read."""

    store: RemoteStore
    spool: Spool
    _listing: dict[str, FileInfo] | None = field(default=None, init=False)
    _gone: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def listing(self) -> dict[str, FileInfo]:
        """All files by their names relative to the folder; the store is asked once.

        Raises:
            UserError: the bucket does not exist, or permission is denied.
            RunError: the store does not answer.
        """
        if self._listing is None:
            with self.store.explaining_errors("read"):
                found = self.store.find()
            self._listing = {name: self._as_file_info(info) for name, info in found.items()}
        return self._listing

    @cached_property
    def folders(self) -> dict[str, set[str]]:
        """The names of the sub-folders of each folder, by its relative name ("": the root)."""
        inside: dict[str, set[str]] = {"": set()} if self.listing else {}
        for name in self.listing:
            folder = name.rpartition("/")[0]
            while folder and folder not in inside:
                inside[folder] = set()
                folder = folder.rpartition("/")[0]
        for folder in inside:
            if folder:
                parent, _, own = folder.rpartition("/")
                inside[parent].add(own)
        return inside

    def file_info(self, name: str) -> FileInfo:
        """Return a file's information from the listing; without one, the store is asked.

        Raises:
            OSError: the file does not exist or cannot be read.
            RunError: the store does not answer.
        """
        if self._listing is None:
            with self._explaining_file_errors():
                return self._request_info(name)
        if name not in self._listing:
            raise FileNotFoundError(errno.ENOENT, "not found in the store")
        return self._listing[name]

    def _request_info(self, name: str) -> FileInfo:
        path = self.store.path_of(name)
        return self._as_file_info(self.store.request(self.store.files.info, path))

    def _as_file_info(self, info: dict[str, Any]) -> FileInfo:
        version = next((info[key] for key in VERSIONS if info.get(key)), None)
        if version is None:
            raise RunError(f"{self.store.url}: the store does not report when files change")
        return FileInfo(int(info["size"]), str(version))

    def download(self, name: str) -> Download:
        """Return a file's download, for the spool; raises as `file_info` does."""
        info = self.file_info(name)

        def write(target: Path) -> None:
            self._write_copy(name, info, target)

        return Download(name, info.size, PurePosixPath(name).suffix, write)

    def _write_copy(self, name: str, info: FileInfo, target: Path) -> None:
        """Download a file to `target`.

        Raises:
            OSError: this file cannot be read, or has changed since it was listed.
            RunError: the store does not answer, or this disk is full.
        """
        path = self.store.path_of(name)
        with failing_as(target):
            file = target.open("wb")
        with file:
            for start in range(0, info.size, BLOCK):
                end = min(start + BLOCK, info.size)
                with self._explaining_file_errors():
                    block = self.store.request(
                        self.store.files.cat_file, path, start=start, end=end
                    )
                with failing_as(target):
                    file.write(block[: end - start])
        with self._explaining_file_errors():
            now = self._request_info(name)
        if now != info or target.stat().st_size != info.size:
            raise OSError(errno.EREMOTEIO, "changed since the run began")

    @contextlib.contextmanager
    def _explaining_file_errors(self) -> Iterator[None]:
        """Raise an `OSError` if one file cannot be read, a `RunError` if the store is gone."""
        try:
            if self._gone.is_set():
                raise TimeoutError("the store does not answer")
            yield
        except Exception as error:
            if not is_store_error(error):
                raise
            self._require_reachable(error)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, reason_of(error)) from error
            if isinstance(error, PermissionError):
                raise PermissionError(errno.EREMOTEIO, reason_of(error)) from error
            raise OSError(errno.EREMOTEIO, reason_of(error)) from error

    def _require_reachable(self, error: Exception) -> None:
        """Raise `RunError` if after an error the store does not answer at all."""
        try:
            if self._gone.is_set():
                raise error
            self.store.files.info(self.store.root)
        except Exception as last:
            if not is_store_error(last):
                raise
            self._gone.set()
            raise RunError(
                f"{self.store.url} can no longer be read: {reason_of(last)}. {RESUME}"
            ) from last


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder in a store, read through `local_copy`."""

    clips: ClipStore
    key: str  # relative to the store's folder; "" for that itself

    def __str__(self) -> str:
        return f"{self.clips.store.url}/{self.key}" if self.key else self.clips.store.url

    def __fspath__(self) -> str:
        """Return the URL, which is the file's key in the cache; it cannot be opened."""
        return str(self)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.clips, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The file extension, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder that contains this one."""
        return RemotePath(self.clips, self.key.rpartition("/")[0])

    @property
    def stamp(self) -> Stamp:
        """Changes when the content does; raises `FileNotFoundError` if there is no such file."""
        return self.clips.file_info(self.key).stamp

    def is_dir(self) -> bool:
        """Return whether the listing has files below it."""
        return self.key in self.clips.folders

    def is_file(self) -> bool:
        """Return whether the listing has it as a file."""
        return self.key in self.clips.listing

    def subfolders(self) -> "list[RemotePath]":
        """Return the folders in a folder of the listing."""
        return [self / name for name in self.clips.folders[self.key]]

    def exists(self) -> bool:
        """Return whether it exists now.

        Raises:
            UserError: permission is denied.
            RunError: the store does not answer.
        """
        store = self.clips.store
        with store.explaining_errors("read"):
            try:
                store.request(store.files.info, store.path_of(self.key))
            except FileNotFoundError:
                return False
        return True

    def names_below(self, is_passed_over: Callable[[str], bool]) -> list[str]:
        """Return the files at any depth.

        Args:
            is_passed_over: whether a file or folder of a name is left out.

        Returns:
            Paths relative to this folder, sorted.
        """
        start = f"{self.key}/" if self.key else ""
        names = (name[len(start) :] for name in self.clips.listing if name.startswith(start))
        return sorted(name for name in names if not any(map(is_passed_over, name.split("/"))))

    def open(self, encoding: str, newline: str | None = None) -> TextIO:
        """Return a small text file, opened for reading; raises as `exists` does."""
        store = self.clips.store
        with store.explaining_errors("read"):
            data = store.read(self.key)
        return io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline=newline)


AnyPath = Path | RemotePath


@contextlib.contextmanager
def clips_folder(
    where: Path | str, spool_dir: Path, spool_size: float, flag: str = "--dataset-path"
) -> Iterator[AnyPath]:
    """Yield a folder of clips; one in a store has a spool until the block ends.

    Args:
        where: a local folder, which is yielded as it is, or a URL.
        spool_dir: where copies of remote clips are kept while they are read.
        spool_size: their total size at most, in gigabytes.
        flag: the flag that named the folder, for messages.

    Raises:
        UserError: the store's library is missing, or the spool cannot be written.
        RunError: the store does not answer.
    """
    if isinstance(where, Path):
        yield where
        return
    store = RemoteStore(where, flag)
    with Spool(spool_dir, int(spool_size * GIGABYTE)) as spool:
        yield RemotePath(ClipStore(store, spool), "")


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Yield a file on this disk: a local file itself, or a copy until the block ends.

    Raises:
        OSError: the file cannot be read from the store.
        RunError: the store no longer answers.
    """
    if isinstance(path, Path):
        yield path
        return
    with path.clips.spool.copy_of(path.clips.download(path.key)) as copy:
        yield copy


def prefetched(items: Iterable[Item], path_of: Callable[[Item], AnyPath | None]) -> Iterator[Item]:
    """Yield the items in order, while the remote clips of those that follow are downloaded.

    Args:
        items: taken one by one, up to `PREFETCHED` of them in advance.
        path_of: returns the file that is read for an item, None if it is already requested; local
            ones are not prefetched.
    """
    ahead: list[Item] = []
    for item in items:
        path = path_of(item)
        if isinstance(path, RemotePath):
            with contextlib.suppress(FileNotFoundError):  # raised again by `local_copy`
                path.clips.spool.prefetch(path.clips.download(path.key))
        ahead.append(item)
        if isinstance(path, Path) or len(ahead) > PREFETCHED:
            yield ahead.pop(0)
    yield from ahead
