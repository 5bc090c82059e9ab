"""The local copy of a cache folder in a store, how it is downloaded and uploaded.

    URL/manifests/, URL/data/   see `manifests`
    URL/lock.json               who is writing, see `remote_lock`
    URL/shard_2/…               the same again: the folder of one worker, see `local`

Files are transferred in parts, and only the parts that differ. The lock saves two processes the
work of uploading what one of them would be refused; the manifests keep the data consistent without
it.
"""

import contextlib
import functools
import hashlib
import logging
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from violence_detection.errors import RunError, UserError, failing_as
from violence_detection.features.cache.folder import LOG, shard_number
from violence_detection.features.cache.manifests import (
    DATA,
    EMPTY,
    MANIFESTS,
    Files,
    Manifest,
    Manifests,
    Part,
)
from violence_detection.features.cache.remote_lock import LOCK
from violence_detection.features.cache.remote_requests import names_in, tolerating_store_errors
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.storage.files import read_json, write_json
from violence_detection.storage.object_store import RemoteStore

log = logging.getLogger(__name__)

PART_BYTES = 32 * 2**20  # of one request; a file that grew is uploaded again from its last part on
TRIES = 3  # to download what others are changing
TRANSFERS = 8  # parts at once; memory holds one each

BASE, STAMPS = "base.json", "stamps.json"  # in the state folder
ROWS_SUFFIX = ".features"  # of the large files


class RemoteCopy:
    """A cache folder in a store and its local copy; no other process may use the copy.

    Copy and state stay when the process ends: the next run downloads only what is new.

    Args:
        store: the folder in the store.
        path: of the copy; the folders of shards in it belong to other copies.
        state: a folder for what is known about the copy.
        writable: whether what is computed here is uploaded; else the copy follows the store.
        with_rows: whether to download the features; else their files are sparse files of the same
            size, which is enough to know which features exist. A writable copy must have them.
    """

    def __init__(
        self,
        store: RemoteStore,
        path: Path,
        state: Path,
        writable: bool = True,
        with_rows: bool = True,
    ):
        self.store, self.path, self.state = store, path, state
        self.writable, self.with_rows = writable, with_rows
        self._manifests = Manifests(store, state)
        self._verified = False  # whether changes by an earlier process have been looked for

    def refuse_foreign_files(self) -> None:
        """Check that the folder in the store is empty or a cache.

        Raises:
            UserError: it has other files in it, there is no such bucket, or it may not be read.
            RunError: the store does not answer.
        """
        names = names_in(self.store) - {LOCK, MANIFESTS, DATA}
        if foreign := sorted(name for name in names if shard_number(name) is None):
            raise UserError(
                f"{self.store.flag} {self.store.url} is not empty and not a feature cache "
                f"(it contains {foreign[0]}): name another folder"
            )

    # Download.

    def download(self) -> None:
        """Make the copy equal to the store; a writable copy keeps what was not uploaded yet.

        Unless the store has changed since: then what was not uploaded is computed again.

        Raises:
            UserError: the folder may not be read, or is no cache.
            RunError: the store does not answer or is damaged; this disk is full.
        """
        self.refuse_foreign_files()
        with failing_as(self.state):
            for folder in (self.path, self.state):
                folder.mkdir(parents=True, exist_ok=True)
        with self.store.explaining_errors("read"):
            for _ in range(TRIES):
                with contextlib.suppress(FileNotFoundError):  # superseded while it was read
                    self._download()
                    return
        raise RunError(
            f"{self.store.url} is incomplete or changing: start again; "
            "if that does not help, name another --cache-dir"
        )

    def _download(self) -> None:
        newest, base = self._manifests.newest(), self._base()
        if newest["version"] == 0:
            self._take_over_empty_store(base)
            return
        wanted = {
            name: parts
            for name, parts in newest["files"].items()
            if self.with_rows or not name.endswith(ROWS_SUFFIX)
        }
        unchanged = self._unchanged(base["files"])
        changed = base["files"].keys() & set(self._files()) - unchanged.keys()
        if changed and not self.writable and not self._verified:
            # Damaged rows were dropped: in the copy only, or are they damaged in the store?
            base, unchanged = EMPTY, {}
        self._verified = True
        if newest["version"] == base["version"] and newest["commit"] == base["commit"]:
            # A killed run may have added to the copy: it is resumed.
            complete = all((self.path / name).exists() for name in newest["files"])
            if complete and wanted.keys() <= base["files"].keys():
                return
        elif self.writable and base["files"] and set(unchanged) != set(self._files()):
            log.warning(
                "%s has changed since an earlier run here\n"
                "that did not upload its features; recomputing them",
                self.store.url,
            )
        self._download_files(newest, wanted, base["files"], unchanged)

    def _take_over_empty_store(self, base: Manifest) -> None:
        if self.writable and base["version"]:
            log.warning("%s is empty: the local copy is uploaded", self.store.url)
            self._write_base(EMPTY)
        elif not self.writable:
            self._remove_files_except({})
            self._write_base(EMPTY)

    def _download_files(
        self, newest: Manifest, wanted: Files, base: Files, unchanged: dict[str, Any]
    ) -> None:
        (self.state / BASE).unlink(missing_ok=True)  # until the download is complete
        started, received = time.perf_counter(), 0
        self._remove_files_except(newest["files"])
        complete: Files = {}
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="download") as threads:
            for name, parts in newest["files"].items():
                if name in unchanged and base[name] == parts:
                    complete[name] = parts
                    continue
                path = self.path / name
                with failing_as(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                    os.truncate(path, sum(part["size"] for part in parts))
                if name not in wanted:
                    continue
                complete[name] = parts
                download = functools.partial(self._download_part, path)
                for size in threads.map(download, range(len(parts)), parts):
                    raise_if_interrupted()
                    received += size
        self._write_base({**newest, "files": complete})
        seconds = time.perf_counter() - started
        log.info("downloaded %.1f MB of %s in %.1f s", received / 1e6, self.store.url, seconds)

    def _download_part(self, path: Path, number: int, part: Part) -> int:
        """Download a part into its file unless it is there; return how many bytes."""
        with failing_as(path), path.open("rb") as file:
            file.seek(number * PART_BYTES)
            if _checksum(file.read(part["size"])) == part["checksum"]:
                return 0
        data = self._read_part(part)
        with failing_as(path), path.open("r+b") as file:
            file.seek(number * PART_BYTES)
            file.write(data)
            os.fsync(file.fileno())
        return len(data)

    def _read_part(self, part: Part) -> bytes:
        for _ in range(2):
            data = self.store.read(part["object"])
            if _checksum(data) == part["checksum"]:
                return data
        raise RunError(
            f"{self.store.url}/{part['object']} is damaged (its checksum differs): remove this "
            "cache, or name another --cache-dir"
        )

    def _remove_files_except(self, files: Files) -> None:
        for name in self._files():
            if name not in files:
                (self.path / name).unlink()

    # Upload.

    def upload(self) -> bool:
        """Upload what has changed, while nobody writes to the copy.

        Returns:
            Whether the store has it now: not if another run has changed the store since the
            download.

        Raises:
            UserError: the folder may not be written.
            RunError: the store does not answer. The copy keeps what it has.
        """
        with self.store.explaining_errors("written"):
            return self._upload()

    def _upload(self) -> bool:
        base, commit, started = self._base(), uuid.uuid4().hex, time.perf_counter()
        files, sent = self._upload_files(base["files"], commit)
        if files == base["files"]:
            self._write_base(base)  # with the present stamps: files may have been touched
            return True
        manifest = self._manifests.write(commit, files)
        if manifest is None:
            return False
        self._write_base(manifest)
        seconds = time.perf_counter() - started
        log.info("uploaded %.1f MB to %s in %.1f s", sent / 1e6, self.store.url, seconds)
        with tolerating_store_errors(self.store, DATA):
            self._manifests.remove_superseded(manifest)
        return True

    def _upload_files(self, base: Files, commit: str) -> tuple[Files, int]:
        """Upload the parts that differ from `base`; return all parts and how many bytes."""
        unchanged = self._unchanged(base)
        files: Files = {}
        sent = 0
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="upload") as threads:
            for name in self._files():
                before = base.get(name, [])
                if name in unchanged:
                    files[name] = before
                    continue
                count = -(-(self.path / name).stat().st_size // PART_BYTES)
                known = [*before[:count], *[None] * (count - len(before))]
                upload = functools.partial(self._upload_part, name, commit)
                files[name] = []
                for part in threads.map(upload, range(count), known):
                    raise_if_interrupted()
                    files[name].append(part)
                    sent += part["size"] if part["object"].startswith(f"{DATA}/{commit}/") else 0
        return files, sent

    def _upload_part(self, name: str, commit: str, number: int, before: Part | None) -> Part:
        """Upload a part of a file unless it is `before`, which the store has."""
        path = self.path / name
        with failing_as(path, "read"), path.open("rb") as file:
            file.seek(number * PART_BYTES)
            data = file.read(PART_BYTES)
        checksum = _checksum(data)
        if before and before["checksum"] == checksum:
            return before
        # Under a name of its own: it disturbs nobody, whatever becomes of this upload.
        part = f"{DATA}/{commit}/{name}/{number:06d}"
        self.store.request(self.store.files.pipe_file, self.store.path_of(part), data)
        return {"object": part, "size": len(data), "checksum": checksum}

    # The copy.

    def _files(self) -> list[str]:
        """Return the names of the copy's files.

        Without hidden ones (locks, unfinished files), those of shards, and this machine's log.
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

    def _base(self) -> Manifest:
        """Return the manifest that the copy was last downloaded or uploaded as."""
        path = self.state / BASE
        try:
            return read_json(path) if path.exists() else EMPTY
        except UserError:
            return EMPTY

    def _write_base(self, manifest: Manifest) -> None:
        """Record that the copy now equals a manifest."""
        stamps = {name: self._stamp(name) for name in self._files()}
        write_json(self.state / STAMPS, {"files": stamps})
        write_json(self.state / BASE, manifest)

    def _unchanged(self, files: Files) -> dict[str, Any]:
        """Return which of `files` have not changed since copy and store were last equal."""
        path = self.state / STAMPS
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


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
