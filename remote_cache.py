"""A feature cache in a store: worked on as a copy on this disk, and put back after extraction.

    URL/manifests/00000007.json   which objects make up which file; the highest number counts
    URL/data/<commit>/<number>    parts of files, written once under names of their own
    URL/lock.json                 who is writing, and that they still are

What is in the cache's folder is of no concern here: it is copied file by file, in parts, of which
those that are the same stay as they are. The manifest is the last that is written, in one request,
under a number that must not be taken: an upload that is cut off leaves the cache as it was, and of
two that began from the same manifest one is refused. The lock only saves both the work.
"""

import contextlib
import hashlib
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from durable_files import failing_as, read_json, replace_file, write_json
from errors import RunError, UserError, end_if_told
from folder_lock import locked
from remote_storage import RemoteStore, is_of_store, reason_of
from run_log import log

PART = 32 * 2**20  # bytes: one request, and what is sent again of a file that grew
AT_ONCE = 8  # parts on their way; memory holds one each
LOOK_EVERY = 5.0  # seconds, while another run has the cache
RENEW_EVERY = 60.0  # seconds between signs of life of who has it
LOCK_AGE = 300.0  # seconds without one, as seen here, after which its owner is taken for dead

LOCK, MANIFESTS, DATA = "lock.json", "manifests", "data"
BASE, STAMPS, OWNER, FILES = "base.json", "stamps.json", "owner", "cache"  # here, beside the files

Files = dict[str, list[dict[str, Any]]]  # a file's parts, in order: object, size, checksum
_NOTHING: dict[str, Any] = {"version": 0, "files": {}}


class CacheCopy:
    """The copy of a cache that a URL names, this process's own until the block ends.

    The cache itself is this run's from the beginning of the block to `put_back`.

    Args:
        spool_dir: where the copy is; it stays there, so that the next run fetches what is new.
        flag: that named the cache, for messages.
        write: whether it will be put back; else nothing is written to the store.

    Raises:
        UserError: the copy is in use; the store refuses; the URL is no cache's.
        RunError: the store does not answer; this disk is full.
    """

    def __init__(self, url: str, spool_dir: Path, flag: str = "--cache-dir", write: bool = True):
        self.store, self.write = RemoteStore(url, flag), write
        name = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
        self.folder = spool_dir.expanduser().absolute() / name
        self.path = self.folder / FILES
        self._next = 1  # number of a manifest
        self._held = contextlib.ExitStack()
        self._remote = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(locked(self.folder, self._refuse))
        except OSError as error:
            raise UserError(f"--spool-dir {self.folder} cannot be written: {error}") from error
        with self._held.pop_all() as held, self._telling("read"):
            self._require_ours()
            if self.write:
                with self._telling("written"):
                    lock = _Lock(self.store, self._identity())
                    self._remote.enter_context(lock)
            with contextlib.ExitStack() as undo:
                undo.callback(self._remote.close)
                self._fetch()
                undo.pop_all()
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._remote.close()
        self._held.close()

    def _refuse(self, holder: str) -> NoReturn:
        raise UserError(
            f"{self.store.flag} {self.store.url}: the copy of it in {self.folder} is in use by "
            f"{holder}: wait for its end, or give another --spool-dir"
        )

    @contextlib.contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_of_store(error):
                raise
            raise self.store.explained(error, done) from error

    def _identity(self) -> str:
        """Return a name for this folder: whoever holds its lock is the only one with that name."""
        path = self.folder / OWNER
        if not path.exists():
            replace_file(path, lambda partial: partial.write_text(uuid.uuid4().hex))
        return path.read_text()

    def _require_ours(self) -> None:
        try:
            found = self.store.ask(self.store.files.ls, self.store.root, detail=False)
        except FileNotFoundError:
            bucket = self.store.root.partition("/")[0]  # HDFS has none
            try:
                if bucket:
                    self.store.ask(self.store.files.info, bucket)
            except FileNotFoundError as error:
                raise UserError(
                    f"{self.store.flag} {self.store.url}: there is no bucket {bucket}: make it"
                ) from error
            return
        names = {path.rstrip("/").rpartition("/")[2] for path in found}
        names.discard(self.store.root.rpartition("/")[2])  # the mark of an empty folder
        if foreign := sorted(names - {LOCK, MANIFESTS, DATA}):
            raise UserError(
                f"{self.store.flag} {self.store.url} is not empty and no cache of this program's "
                f"making ({foreign[0]} is in it): name another folder"
            )

    # What the store has: manifests.

    def _manifests(self) -> list[str]:
        """Return the names of the manifests, the newest first."""
        return sorted(self.store.find(MANIFESTS), reverse=True)

    def _newest(self) -> dict[str, Any]:
        """Return the newest manifest that is whole, and keep which number is free after all."""
        names = self._manifests()
        self._next = 1 + max((int(Path(name).stem) for name in names), default=0)
        for name in names:
            manifest = self._read_manifest(name)
            if manifest is not None:
                return manifest
        return _NOTHING

    def _read_manifest(self, name: str) -> dict[str, Any] | None:
        """Return a manifest; None if its upload was cut off, which some stores let be seen."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / "manifest.json"
            path.write_bytes(self.store.read(name))
            try:
                return read_json(path)
            except UserError:
                log.warning("%s/%s is damaged: the one before it counts", self.store.url, name)
                return None

    def _base(self) -> dict[str, Any]:
        """Return the manifest that the copy was made from, or put back as."""
        path = self.folder / BASE
        try:
            return read_json(path) if path.exists() else _NOTHING
        except UserError:
            return _NOTHING

    # From the store to here.

    def _fetch(self) -> None:
        """Make the copy what the cache is; what it has beyond its own base stays, if it may."""
        newest, base = self._newest(), self._base()
        if newest["version"] == 0:
            if base["version"]:
                log.warning("%s is empty: the copy of it here is put there again", self.store.url)
                self._keep_as_base(_NOTHING)
            return
        unchanged = self._unchanged(base["files"])
        if newest["version"] == base["version"] and newest["commit"] == base["commit"]:
            # A run that was killed may have added to it: it goes on from there.
            missing = [name for name in newest["files"] if not (self.path / name).exists()]
            if not missing:
                return
        elif base["files"] and set(unchanged) != set(self._files()):
            log.warning(
                "features that an earlier run computed here were not put back to %s, and another "
                "run has changed it since: they are computed anew",
                self.store.url,
            )
        try:
            self._fetch_files(newest, base, unchanged)
        except FileNotFoundError:  # superseded while it was read, twice
            raise RunError(
                f"{self.store.url} has lost a part of its data, or is being changed: start again; "
                "if that does not help, name another --cache-dir"
            ) from None

    def _fetch_files(
        self, newest: dict[str, Any], base: dict[str, Any], unchanged: dict[str, Any]
    ) -> None:
        (self.folder / BASE).unlink(missing_ok=True)  # until all of it is here
        started, fetched = time.perf_counter(), 0
        for name in self._files():
            if name not in newest["files"]:
                (self.path / name).unlink()
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as threads:
            for name, parts in newest["files"].items():
                if name in unchanged and base["files"][name] == parts:
                    continue
                path = self.path / name
                with failing_as(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                    os.truncate(path, sum(part["size"] for part in parts))

                def fetch(place: int, part: dict[str, Any], path: Path = path) -> int:
                    with failing_as(path), path.open("rb") as file:
                        file.seek(place * PART)
                        if _checksum(file.read(part["size"])) == part["checksum"]:
                            return 0
                    data = self._read_part(part)
                    with failing_as(path), path.open("r+b") as file:
                        file.seek(place * PART)
                        file.write(data)
                        os.fsync(file.fileno())
                    return len(data)

                for done in threads.map(fetch, range(len(parts)), parts):
                    end_if_told()
                    fetched += done
        self._keep_as_base(newest)
        seconds = time.perf_counter() - started
        log.info("%.1f MB of %s fetched in %.1f s", fetched / 1e6, self.store.url, seconds)

    def _read_part(self, part: dict[str, Any]) -> bytes:
        for _ in range(2):
            data = self.store.read(part["object"])
            if _checksum(data) == part["checksum"]:
                return data
        raise RunError(
            f"{self.store.url}/{part['object']} is damaged (its checksum differs): name another "
            "--cache-dir, or remove this one"
        )

    # From here to the store.

    def put_back(self) -> None:
        """Put what has changed into the store, and let go of the cache there; the copy is kept.

        Nobody may be writing to the copy.

        Raises:
            UserError: it may not be written there.
            RunError: the store does not answer. The copy keeps what it has.
        """
        with self._telling("written"):
            self._put_back()
        self._remote.close()

    def _put_back(self) -> None:
        base, commit = self._base(), uuid.uuid4().hex
        unchanged, started = self._unchanged(base["files"]), time.perf_counter()
        files: Files = {}
        sent = 0
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload") as threads:
            for name in self._files():
                before = base["files"].get(name, [])
                if name in unchanged:
                    files[name] = before
                    continue
                path = self.path / name
                count = -(-path.stat().st_size // PART)

                def put(place: int, name: str = name, path: Path = path) -> dict[str, Any]:
                    with failing_as(path, "read"), path.open("rb") as file:
                        file.seek(place * PART)
                        data = file.read(PART)
                    before = base["files"].get(name, [])[place : place + 1]
                    checksum = _checksum(data)
                    if before and before[0]["checksum"] == checksum:
                        return before[0]
                    # In a name of its own: it is in nobody's way, whatever becomes of this upload.
                    part = f"{DATA}/{commit}/{name}/{place:06d}"
                    self.store.ask(self.store.files.pipe_file, self.store.path_of(part), data)
                    return {"object": part, "size": len(data), "checksum": checksum}

                files[name] = []
                for part in threads.map(put, range(count)):
                    end_if_told()
                    files[name].append(part)
                    sent += part["size"] if part["object"].startswith(f"{DATA}/{commit}/") else 0
        if files == base["files"]:
            self._keep_as_base(base)  # touched files are known again
            return
        manifest = {"version": self._next, "commit": commit, "files": files}
        if not self._commit(manifest):
            log.warning(
                "%s was changed by another run meanwhile: the features that were computed here "
                "serve this run, but are not put there",
                self.store.url,
            )
            return
        self._keep_as_base(manifest)
        log.info(
            "%.1f MB put back to %s in %.1f s",
            sent / 1e6,
            self.store.url,
            time.perf_counter() - started,
        )
        with _going_on(self.store, DATA):
            self._remove_superseded(manifest)

    def _commit(self, manifest: dict[str, Any]) -> bool:
        """Put a manifest in its place; False if there is another of its number."""
        name = f"{MANIFESTS}/{manifest['version']:08d}.json"
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / "manifest.json"
            write_json(path, manifest)
            data = path.read_bytes()
        if self._manifests()[:1] > [name]:  # a store that cannot refuse a name that is taken
            return False
        try:
            create(self.store, name, data)
        except FileExistsError:
            # Also if the answer to the first try was lost.
            there = self._read_manifest(name)
            return there is not None and there["commit"] == manifest["commit"]
        return True

    def _remove_superseded(self, manifest: dict[str, Any]) -> None:
        """Remove what neither this manifest nor the one before needs: others may still read that.

        Who puts parts there now has begun with this manifest: their parts are newer than it. All
        others will be refused.
        """
        names = self._manifests()
        kept = names[:2]
        parts: set[str] = set()
        for name in kept:
            of_it = manifest if name == kept[0] else self._read_manifest(name)
            for of_file in (of_it or _NOTHING)["files"].values():
                parts |= {part["object"] for part in of_file}
        since = _changed(self.store.find(MANIFESTS)[kept[0]])
        if since is None:
            return
        old = names[2:]
        old += [
            name
            for name, info in self.store.find(DATA).items()
            if name not in parts and (changed := _changed(info)) and changed < since
        ]
        for name in old:
            self.store.ask(self.store.files.rm_file, self.store.path_of(name))

    # What is here.

    def _files(self) -> list[str]:
        """Return the names of the copy's files, but hidden ones: locks, and what is unfinished."""
        return sorted(
            path.relative_to(self.path).as_posix()
            for path in self.path.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.path).parts)
        )

    def _unchanged(self, files: Files) -> dict[str, Any]:
        """Return which files are as they were when copy and store were last the same."""
        path = self.folder / STAMPS
        try:
            stamps = read_json(path)["files"] if path.exists() else {}
        except UserError:
            stamps = {}
        return {
            name: stamps[name]
            for name in self._files()
            if name in files and name in stamps and self._stamp(name) == stamps[name]
        }

    def _stamp(self, name: str) -> list[int]:
        status = (self.path / name).stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    def _keep_as_base(self, manifest: dict[str, Any]) -> None:
        """Keep that the copy is now what a manifest says."""
        stamps = {name: self._stamp(name) for name in self._files()}
        write_json(self.folder / STAMPS, {"files": stamps})
        write_json(self.folder / BASE, manifest)


class _Lock:
    """The lock object of a cache, renewed until the block ends; waited for.

    Its owner is taken for dead if it is seen to give no sign of life for `LOCK_AGE`, or if it is
    the same copy's folder: of that, this process has the local lock.
    """

    def __init__(self, store: RemoteStore, owner: str):
        self.store = store
        self.owner = owner
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="cache lock", daemon=True)

    def __enter__(self) -> Self:
        seen, seen_at, told = b"", time.monotonic(), False
        while not self._take():
            end_if_told()
            try:
                there = self.store.read(LOCK)
            except FileNotFoundError:
                continue
            if there != seen:
                seen, seen_at = there, time.monotonic()
            owner, _, holder = there.decode(errors="replace").partition("\n")
            if owner == self.owner or time.monotonic() - seen_at > LOCK_AGE:
                log.info("%s was held by %s, which is gone", self.store.url, holder.split("\n")[0])
                with contextlib.suppress(FileNotFoundError):
                    self.store.ask(self.store.files.rm_file, self.store.path_of(LOCK))
                continue
            if not told:
                log.info("%s has %s: waiting for it", holder.split("\n")[0], self.store.url)
                told = True
            time.sleep(min(LOOK_EVERY, LOCK_AGE / 4))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with _going_on(self.store, LOCK):
            if self._is_ours():
                self.store.ask(self.store.files.rm_file, self.store.path_of(LOCK))

    def _content(self) -> bytes:
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        return f"{self.owner}\n{holder}\n{uuid.uuid4().hex}\n".encode()

    def _take(self) -> bool:
        content = self._content()
        try:
            create(self.store, LOCK, content)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return self.store.read(LOCK) == content  # the answer to the first try was lost
            return False
        return True

    def _is_ours(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self.store.read(LOCK).startswith(self.owner.encode())
        return False

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_EVERY):
            with _going_on(self.store, LOCK):
                if not self._is_ours():
                    log.warning("another run has taken %s over", self.store.url)
                    return
                self.store.ask(
                    self.store.files.pipe_file, self.store.path_of(LOCK), self._content()
                )


@contextlib.contextmanager
def _going_on(store: RemoteStore, name: str) -> Iterator[None]:
    """Let the store fail: a lock gets old, what is superseded is removed the next time."""
    try:
        yield
    except Exception as error:
        if not is_of_store(error):
            raise
        log.warning("%s/%s: %s", store.url, name, reason_of(error))


def create(store: RemoteStore, name: str, data: bytes) -> None:
    """Write an object that must not be there yet.

    S3 and Google's store refuse a name that is taken; of others it is asked before.

    Raises:
        FileExistsError: it is there; also if it is this one, and the answer to an earlier try was
            lost.
    """
    store.ask(store.files.pipe_file, store.path_of(name), data, mode="create")


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _changed(info: dict[str, Any]) -> datetime | None:
    """Return when an object was written, by the store's clock."""
    for key in ("LastModified", "mtime", "updated", "created"):
        if isinstance(info.get(key), datetime):
            return info[key]
    return None


@contextlib.contextmanager
def local_cache(
    where: Path | str, spool_dir: Path, write: bool, workers: int = 1
) -> "Iterator[tuple[Path, Callable[[], None]]]":
    """Give the folder of a cache that a setting names, and what puts it back.

    Args:
        where: a local folder, given as it is, or the URL of one, of which a copy is given.
        write: whether it will be put back.
        workers: of the run; a cache in a store is written by one.

    Raises:
        UserError: there are more; else as `CacheCopy`.
    """
    if isinstance(where, Path):
        yield where, lambda: None
        return
    if workers > 1:
        raise UserError(
            f"--cache-dir {where} is written by one process, and there are {workers} workers: give "
            "a folder on a disk that they share"
        )
    with CacheCopy(where, spool_dir, write=write) as copy:
        yield copy.path, copy.put_back
