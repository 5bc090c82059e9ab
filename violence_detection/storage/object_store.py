"""Files in a store that a URL names (s3://, gs://, hdfs://): what is there, and how it is had.

A `RemotePath` stands where a `Path` of a clip would, with as much of its interface as clips need.
fsspec and the store's own library do the talking, and find the credentials in their own ways; they
are imported here only, when there is a URL.
"""

import contextlib
import copy
import errno
import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TextIO, TypeVar

from violence_detection.errors import RESUME, RunError, UserError, failing_as
from violence_detection.settings.constants import STORES
from violence_detection.storage.spool import DOWNLOADS, GIGABYTE, Spool, Wanted

log = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 16.0)  # seconds before a request is tried again, beside the library's own tries
BLOCK = 8 * 2**20  # bytes of a request
ANNOUNCED = 2 * DOWNLOADS  # clips whose download may begin before they are asked for
VERSIONS = ("ETag", "generation", "etag", "mtime", "last_modified", "LastModified", "created")
LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "requests", "gcsfs", "google", "pyarrow")
FINAL = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG)  # asked again, still so

Made = TypeVar("Made")
Item = TypeVar("Item")
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Listed:
    """What a store tells of a file without handing it out."""

    size: int  # bytes
    version: str  # changes whenever the file does

    @property
    def stamp(self) -> Stamp:
        """The same as three numbers: if they stay, so does the content."""
        digest = hashlib.blake2b(self.version.encode(), digest_size=16).digest()
        # Halves of 63 bits: SQLite's numbers have a sign.
        return self.size, int.from_bytes(digest[:8]) >> 1, int.from_bytes(digest[8:]) >> 1


class RemoteStore:
    """A folder in a store.

    Args:
        url: as `config.folder_or_url` returns it.
        flag: that named it, for messages.

    Raises:
        UserError: the library for it is not installed, or the store refuses what was asked.
        RunError: the store does not answer.
    """

    def __init__(self, url: str, flag: str):
        self.url, self.flag = url, flag
        scheme = url.partition("://")[0]
        try:
            import fsspec

            with self.telling("read"):
                # Nothing is remembered: another process may change what is there.
                self.files = fsspec.filesystem(
                    scheme, **_options(url), use_listings_cache=False, skip_instance_cache=True
                )
        except ImportError as error:
            raise UserError(
                f"{flag} {url} needs a library that is not installed: "
                f"pip install fsspec {STORES[scheme]}"
            ) from error
        if scheme == "s3":  # its five tries around botocore's five make a store's end take minutes
            self.files.retries = 1
        self.root = self.files._strip_protocol(url).rstrip("/")

    def below(self, name: str) -> "RemoteStore":
        """Return a folder in this one, over the same connections."""
        store = copy.copy(self)
        store.url, store.root = f"{self.url}/{name}", self.path_of(name)
        return store

    def path_of(self, name: str) -> str:
        """Return a file's full name in the store, from its name below the folder."""
        return f"{self.root}/{name}" if name else self.root

    def ask(self, function: Callable[..., Made], *arguments: Any, **options: Any) -> Made:
        """Return what a function of `files` returns; a store that is busy or away is asked again.

        Raises:
            Exception: the last one, of fsspec or the store's library (`is_of_store`).
        """
        for wait in WAITS:
            try:
                return function(*arguments, **options)
            except Exception as error:
                if not is_of_store(error) or not is_passing(error):
                    raise
                log.debug("%s: %s; again in %g s", self.url, reason_of(error), wait)
            time.sleep(wait)
        return function(*arguments, **options)

    def find(self, name: str = "") -> dict[str, dict[str, Any]]:
        """Return what the store tells of each file below a folder, by its name below this one.

        Raises: as `ask` does; a folder that is not there is empty, but its bucket must be there.
        """
        try:
            found = self.ask(self.files.find, self.path_of(name), detail=True)
        except FileNotFoundError:
            if not name:
                raise
            return {}
        below = len(self.root) + 1
        return {
            path[below:]: info
            for path, info in found.items()
            if info["type"] == "file" and len(path) > below and not path.endswith("/")
        }

    def read(self, name: str) -> bytes:
        """Return a small file's content; raises as `ask` does."""
        return self.ask(self.files.cat_file, self.path_of(name))

    @contextlib.contextmanager
    def telling(self, done: str) -> Iterator[None]:
        """Raise what the user is to be told of an error of the store in the block.

        Args:
            done: what could not be, "read" or "written".

        Raises:
            UserError: the store refuses, or has no such thing.
            RunError: it does not answer.
        """
        try:
            yield
        except Exception as error:
            if not is_of_store(error):
                raise
            raise self._explained(error, done) from error

    def _explained(self, error: Exception, done: str) -> UserError | RunError:
        """Return what to raise for an error of the store: the user's fault, or the store's."""
        if is_passing(error):
            return RunError(
                f"{self.flag} {self.url} cannot be {done}: {reason_of(error)}. Nothing that "
                f"was finished is lost. {RESUME}"
            )
        return UserError(f"{self.flag} {self.url} cannot be {done}: {reason_of(error)}")


def _options(url: str) -> dict[str, Any]:
    """Return the options of a URL's filesystem: connections enough, and HDFS's server."""
    from fsspec.config import conf
    from fsspec.utils import get_protocol, infer_storage_options

    scheme = get_protocol(url)
    if scheme == "s3":  # ten connections would be the library's; what the user configured counts
        connections = {"max_pool_connections": 2 * DOWNLOADS}
        return {"config_kwargs": connections | conf.get("s3", {}).get("config_kwargs", {})}
    if scheme != "hdfs":
        return {}
    said = infer_storage_options(url)
    names = {"host": "host", "port": "port", "username": "user"}
    return {option: said[name] for name, option in names.items() if said.get(name)}


def is_of_store(error: Exception) -> bool:
    """Return whether fsspec or a store's library raises such errors, rather than a mistake here."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in LIBRARIES


def is_passing(error: Exception) -> bool:
    """Return whether the same request may be answered later."""
    if "Credential" in type(error).__name__ or "Profile" in type(error).__name__:
        return False
    return not (
        isinstance(error, FileNotFoundError | PermissionError | FileExistsError)
        or (isinstance(error, OSError) and error.errno in FINAL)
        or _is_forbidden(error)
    )


def _is_forbidden(error: Exception) -> bool:
    # gcsfs has no type for it.
    return isinstance(error, PermissionError) or (
        isinstance(error, OSError) and str(error).startswith("Forbidden")
    )


def reason_of(error: Exception) -> str:
    """Return one line that says what a store has answered."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"it is not there ({said})"
    if _is_forbidden(error):
        return f"no permission ({said})"
    if "Credential" in type(error).__name__:
        return f"no credentials are found ({said}); they are looked for where its library does"
    return said


@dataclass(eq=False)
class ClipStore:
    """A store's folder of clips, and the spool that they are read from."""

    store: RemoteStore
    spool: Spool
    _gone: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def listing(self) -> dict[str, Listed]:
        """What is there, by its name below the folder; asked for once.

        Raises:
            UserError: there is no such bucket, or no permission.
            RunError: the store does not answer.
        """
        with self.store.telling("read"):
            found = self.store.find()
        return {name: self._as_listed(info) for name, info in found.items()}

    @cached_property
    def folders(self) -> dict[str, set[str]]:
        """The names of the folders in each folder, by the folder's name ("" is the whole)."""
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

    def listed(self, name: str) -> Listed:
        """Return what was told of a file in the listing; it is asked for if there was none."""
        if "listing" in self.__dict__:
            if name not in self.listing:
                raise FileNotFoundError(errno.ENOENT, "it is not there")
            return self.listing[name]
        with self._telling_one_file():
            return self._ask_for(name)

    def _ask_for(self, name: str) -> Listed:
        return self._as_listed(self.store.ask(self.store.files.info, self.store.path_of(name)))

    def _as_listed(self, info: dict[str, Any]) -> Listed:
        version = next((info[key] for key in VERSIONS if info.get(key)), None)
        if version is None:
            raise RunError(f"{self.store.url}: the store does not tell when its files change")
        return Listed(int(info["size"]), str(version))

    def wanted(self, name: str) -> Wanted:
        """Return a file as the spool is asked for it."""
        listed = self.listed(name)

        def download(target: Path) -> None:
            self._download(name, listed, target)

        return Wanted(name, listed.size, PurePosixPath(name).suffix, download)

    def _download(self, name: str, listed: Listed, target: Path) -> None:
        """Write a file to `target`.

        Raises:
            OSError: this file cannot be had.
            RunError: none can, or this disk is full.
        """
        path = self.store.path_of(name)
        with failing_as(target):
            sink = target.open("wb")
        with sink:
            for start in range(0, listed.size, BLOCK):
                end = min(start + BLOCK, listed.size)
                with self._telling_one_file():
                    block = self.store.ask(self.store.files.cat_file, path, start=start, end=end)
                with failing_as(target):
                    sink.write(block[: end - start])
        with self._telling_one_file():
            now = self._ask_for(name)
        if now != listed or target.stat().st_size != listed.size:
            raise OSError(errno.EREMOTEIO, "it was changed since the run began")

    @contextlib.contextmanager
    def _telling_one_file(self) -> Iterator[None]:
        """Raise an `OSError` if a file cannot be had, and a `RunError` if the store is gone."""
        try:
            if self._gone.is_set():
                raise TimeoutError("the store does not answer")
            yield
        except Exception as error:
            if not is_of_store(error):
                raise
            kind = next(
                (k for k in (FileNotFoundError, PermissionError) if isinstance(error, k)), OSError
            )
            try:
                if self._gone.is_set():
                    raise
                self.store.files.info(self.store.root)
            except Exception as of_store:
                if not is_of_store(of_store):
                    raise
                self._gone.set()
                raise RunError(
                    f"{self.store.url} cannot be read any more: {reason_of(of_store)}. {RESUME}"
                ) from of_store
            number = errno.ENOENT if kind is FileNotFoundError else errno.EREMOTEIO
            raise kind(number, reason_of(error)) from error


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder of a store. Its content is had by `local_copy`."""

    clips: ClipStore
    key: str  # its name below the store's folder, "" for that itself

    def __str__(self) -> str:
        return f"{self.clips.store.url}/{self.key}" if self.key else self.clips.store.url

    def __fspath__(self) -> str:
        """Return the URL, by which the cache's index knows it; nothing here opens that."""
        return str(self)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.clips, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the name."""
        return str(self).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot on."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder that it is in."""
        return RemotePath(self.clips, self.key.rpartition("/")[0])

    @property
    def stamp(self) -> Stamp:
        """What tells that a file has changed; raises `FileNotFoundError` if it is not there."""
        return self.clips.listed(self.key).stamp

    def is_dir(self) -> bool:
        """Return whether there is anything below it, as it was listed."""
        return self.key in self.clips.folders

    def is_file(self) -> bool:
        """Return whether it is a file, as it was listed."""
        return self.key in self.clips.listing

    def subfolders(self) -> "list[RemotePath]":
        """Return the folders in a folder, as it was listed."""
        return [self / name for name in self.clips.folders[self.key]]

    def exists(self) -> bool:
        """Return whether it is there now.

        Raises:
            RunError: the store does not answer.
        """
        store = self.clips.store
        with store.telling("read"):
            try:
                store.ask(store.files.info, store.path_of(self.key))
            except FileNotFoundError:
                return False
        return True

    def names_below(self, suffixes: Iterable[str]) -> list[str]:
        """Return the names below it of the files with one of the suffixes, but hidden ones."""
        wanted, start = frozenset(suffixes), f"{self.key}/" if self.key else ""
        names = (name[len(start) :] for name in self.clips.listing if name.startswith(start))
        return sorted(
            name
            for name in names
            if PurePosixPath(name).suffix.lower() in wanted
            and not any(part.startswith(".") for part in name.split("/"))
        )

    def open(self, encoding: str, newline: str | None = None) -> TextIO:
        """Return a small text file's content, to be read."""
        store = self.clips.store
        with store.telling("read"):
            data = store.read(self.key)
        return io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline=newline)


AnyPath = Path | RemotePath


@contextlib.contextmanager
def clips_folder(
    where: Path | str, spool_dir: Path, spool_size: float, flag: str = "--dataset-path"
) -> Iterator[AnyPath]:
    """Give the folder of clips that a setting names; a store's has a spool until the block ends.

    Args:
        where: a local folder, which is given as it is, or a URL.
        spool_size: gigabytes.
    """
    if isinstance(where, Path):
        yield where
        return
    store = RemoteStore(where, flag)
    with Spool(spool_dir, int(spool_size * GIGABYTE)) as spool:
        yield RemotePath(ClipStore(store, spool), "")


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Give a file on this disk: itself, or a copy in the spool until the block ends.

    Raises:
        OSError: it cannot be had from the store.
        RunError: nothing can be had from the store any more.
    """
    if isinstance(path, Path):
        yield path
        return
    with path.clips.spool.copy_of(path.clips.wanted(path.key)) as copy:
        yield copy


def announced(items: Iterable[Item], path_of: Callable[[Item], AnyPath]) -> Iterator[Item]:
    """Yield the items in their order; the copies of those that follow are on their way.

    Of local files nothing is done ahead.
    """
    ahead: list[Item] = []
    for item in items:
        path = path_of(item)
        if isinstance(path, RemotePath):
            with contextlib.suppress(FileNotFoundError):  # told to who asks for it
                path.clips.spool.announce(path.clips.wanted(path.key))
        ahead.append(item)
        if isinstance(path, Path) or len(ahead) > ANNOUNCED:
            yield ahead.pop(0)
    yield from ahead
