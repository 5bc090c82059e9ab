"""A folder of a feature cache in a store: its copy on this disk, and how that is put back.

    URL/manifests/00000007.json   which objects make up which file; the highest number counts
    URL/data/<commit>/<number>    parts of files, written once under names of their own
    URL/lock.json                 who is writing, and that they still are
    URL/shard_2/…                 the same again: a worker's own folder, see `local_cache`

The folder is copied file by file, in parts, of which those that are the same stay as they are. The
manifest is the last that is written, in one request, under a number that must not be taken: an
upload that is cut off leaves the cache as it was, and of two that began from the same manifest one
is refused. The lock only saves both the work.
"""

import contextlib
import hashlib
import logging
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
from typing import Any, Self

from violence_detection.errors import RunError, UserError, failing_as
from violence_detection.features.cache.folder import LOG, shard_number
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.storage.files import read_json, write_json
from violence_detection.storage.object_store import RemoteStore, is_store_error, reason_of

log = logging.getLogger(__name__)

PART = 32 * 2**20  # bytes: one request, and what is sent again of a file that grew
TRIES = 3  # to read what others are changing
AT_ONCE = 8  # parts on their way; memory holds one each
LOOK_EVERY = 5.0  # seconds, while another run has the cache
RENEW_EVERY = 60.0  # seconds between signs of life of who has it
LOCK_AGE = 300.0  # seconds without one, as seen here, after which its owner is taken for dead

LOCK, MANIFESTS, DATA = "lock.json", "manifests", "data"
BASE, STAMPS = "base.json", "stamps.json"  # here, of a copy
ROWS = ".features"  # ends the names of the files that are large

Files = dict[str, list[dict[str, Any]]]  # a file's parts, in order: object, size, checksum
_NOTHING: dict[str, Any] = {"version": 0, "files": {}}


class CacheCopy:
    """A folder of a cache in a store, and its copy. This process must be the only one at that.

    Args:
        path: where the copy is; folders of shards in it are others' concern.
        notes: a folder for what is known of it. Both stay: the next run fetches what is new.
        own: whether what is computed here goes into it; else it is what the store has, no more.
        rows: whether the features themselves are wanted; else their files are holes of that size,
            by which it is known that they are there. An own copy must have them.
    """

    def __init__(
        self, store: RemoteStore, path: Path, notes: Path, own: bool = True, rows: bool = True
    ):
        self.store, self.path, self.folder = store, path, notes
        self.own, self.rows = own, rows
        self._next = 1  # number of a manifest
        self._checked = False  # for what an earlier process has changed in it

    def require_ours(self) -> None:
        """Raise `UserError` if there are files of another program in the folder of the store.

        Raises:
            UserError: also if there is no such bucket, or it may not be read.
            RunError: the store does not answer.
        """
        names = names_in(self.store) - {LOCK, MANIFESTS, DATA}
        if foreign := sorted(name for name in names if shard_number(name) is None):
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

    def fetch(self) -> None:
        """Make the copy what the store has; what an own one has beyond its base stays, if it may.

        Raises:
            UserError: it may not be read, or is no cache.
            RunError: the store does not answer, or is damaged; this disk is full.
        """
        self.require_ours()
        with failing_as(self.folder):
            for folder in (self.path, self.folder):
                folder.mkdir(parents=True, exist_ok=True)
        with self.store.explaining_errors("read"):
            for _ in range(TRIES):
                with contextlib.suppress(FileNotFoundError):  # superseded while it was read, twice
                    self._fetch()
                    return
        raise RunError(
            f"{self.store.url} has lost a part of its data, or is being changed: start again; "
            "if that does not help, name another --cache-dir"
        )

    def _fetch(self) -> None:
        newest, base = self._newest(), self._base()
        if newest["version"] == 0:
            if self.own and base["version"]:
                log.warning("%s is empty: the copy of it here counts", self.store.url)
                self._keep_as_base(_NOTHING)
            elif not self.own:
                self._remove_all_but({})
                self._keep_as_base(_NOTHING)
            return
        wanted = {n: p for n, p in newest["files"].items() if self.rows or not n.endswith(ROWS)}
        unchanged = self._unchanged(base["files"])
        changed = base["files"].keys() & set(self._files()) - unchanged.keys()
        if changed and not self.own and not self._checked:
            # Damaged rows were struck out: here, or in the store? All parts are looked at.
            base, unchanged = _NOTHING, {}
        self._checked = True
        if newest["version"] == base["version"] and newest["commit"] == base["commit"]:
            # A run that was killed may have added to it: it goes on from there.
            there = all((self.path / name).exists() for name in newest["files"])
            if there and wanted.keys() <= base["files"].keys():
                return
        elif self.own and base["files"] and set(unchanged) != set(self._files()):
            log.warning(
                "features that an earlier run computed here were not put back to %s, and another "
                "run has changed it since: they are computed anew",
                self.store.url,
            )
        self._fetch_files(newest, wanted, base["files"], unchanged)

    def _remove_all_but(self, files: Files) -> None:
        for name in self._files():
            if name not in files:
                (self.path / name).unlink()

    def _fetch_files(
        self, newest: dict[str, Any], wanted: Files, base: Files, unchanged: dict[str, Any]
    ) -> None:
        (self.folder / BASE).unlink(missing_ok=True)  # until all of it is here
        started, fetched = time.perf_counter(), 0
        self._remove_all_but(newest["files"])
        here: Files = {}
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as threads:
            for name, parts in newest["files"].items():
                if name in unchanged and base[name] == parts:
                    here[name] = parts
                    continue
                path = self.path / name
                with failing_as(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                    os.truncate(path, sum(part["size"] for part in parts))
                if name not in wanted:
                    continue
                here[name] = parts

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
                    raise_if_interrupted()
                    fetched += done
        self._keep_as_base({**newest, "files": here})
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

    def upload(self) -> bool:
        """Put what has changed into the store; the copy is kept.

        Nobody may be writing to the copy.

        Returns:
            Whether the store has it now: not if another run has changed it since it was fetched.

        Raises:
            UserError: it may not be written there.
            RunError: the store does not answer. The copy keeps what it has.
        """
        with self.store.explaining_errors("written"):
            return self._upload()

    def _upload(self) -> bool:
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
                    self.store.request(self.store.files.pipe_file, self.store.path_of(part), data)
                    return {"object": part, "size": len(data), "checksum": checksum}

                files[name] = []
                for part in threads.map(put, range(count)):
                    raise_if_interrupted()
                    files[name].append(part)
                    sent += part["size"] if part["object"].startswith(f"{DATA}/{commit}/") else 0
        if files == base["files"]:
            self._keep_as_base(base)  # touched files are known again
            return True
        manifest = {"version": self._next, "commit": commit, "files": files}
        if not self._commit(manifest):
            return False
        self._next += 1
        self._keep_as_base(manifest)
        log.info(
            "%.1f MB put back to %s in %.1f s",
            sent / 1e6,
            self.store.url,
            time.perf_counter() - started,
        )
        with _going_on(self.store, DATA):
            self._remove_superseded(manifest)
        return True

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
            self.store.request(self.store.files.rm_file, self.store.path_of(name))

    # What is here.

    def _files(self) -> list[str]:
        """Return the names of the copy's files.

        Not hidden ones (locks, and what is unfinished), those of shards, and this machine's log.
        """
        files = [path for path in self.path.rglob("*") if path.is_file()]
        names = [path.relative_to(self.path) for path in files]
        return sorted(
            name.as_posix()
            for name in names
            if not any(part.startswith(".") for part in name.parts)
            and shard_number(name.parts[0]) is None
            and name != Path(LOG)
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


class CacheLock:
    """The lock object of a folder of a cache, renewed until the block ends; waited for.

    Its owner is taken for dead if it is seen to give no sign of life for `LOCK_AGE`, or if it has
    the same name.

    Args:
        owner: a name that no other process has now.
        busy: called once, with "process 123 on HOST", if another one has it.
    """

    def __init__(self, store: RemoteStore, owner: str, busy: Callable[[str], None]):
        self.store = store
        self.owner = owner
        self.busy = busy
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="cache lock", daemon=True)

    def __enter__(self) -> Self:
        seen, seen_at, told = b"", time.monotonic(), False
        while not self._take():
            raise_if_interrupted()
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
                    self.store.request(self.store.files.rm_file, self.store.path_of(LOCK))
                continue
            if not told:
                self.busy(holder.split("\n")[0])
                told = True
            time.sleep(min(LOOK_EVERY, LOCK_AGE / 4))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with _going_on(self.store, LOCK):
            if self._is_ours():
                self.store.request(self.store.files.rm_file, self.store.path_of(LOCK))

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
                self.store.request(
                    self.store.files.pipe_file, self.store.path_of(LOCK), self._content()
                )


def names_in(store: RemoteStore) -> set[str]:
    """Return the names of what is in a folder; one that is not there is empty.

    Raises:
        UserError: its bucket is not there, or it may not be read.
        RunError: the store does not answer.
    """
    with store.explaining_errors("read"):
        try:
            found = store.request(store.files.ls, store.root, detail=False)
        except FileNotFoundError:
            bucket = store.root.partition("/")[0]  # HDFS has none
            try:
                if bucket:
                    store.request(store.files.info, bucket)
            except FileNotFoundError as error:
                raise UserError(
                    f"{store.flag} {store.url}: there is no bucket {bucket}: make it"
                ) from error
            return set()
    names = {path.rstrip("/").rpartition("/")[2] for path in found}
    return names - {store.root.rpartition("/")[2]}  # the mark of an empty folder


@contextlib.contextmanager
def _going_on(store: RemoteStore, name: str) -> Iterator[None]:
    """Let the store fail: a lock gets old, what is superseded is removed the next time."""
    try:
        yield
    except Exception as error:
        if not is_store_error(error):
            raise
        log.warning("%s/%s: %s", store.url, name, reason_of(error))


def create(store: RemoteStore, name: str, data: bytes) -> None:
    """Write an object that must not be there yet.

    S3 and Google's store refuse a name that is taken; of others it is asked before.

    Raises:
        FileExistsError: it is there; also if it is this one, and the answer to an earlier try was
            lost.
    """
    store.request(store.files.pipe_file, store.path_of(name), data, mode="create")


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _changed(info: dict[str, Any]) -> datetime | None:
    """Return when an object was written, by the store's clock."""
    for key in ("LastModified", "mtime", "updated", "created"):
        if isinstance(info.get(key), datetime):
            return info[key]
    return None
