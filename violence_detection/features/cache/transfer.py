"""Parts on their way: between this machine's own disk, a shared disk, a store and other workers.

A cache in a store has the files that a folder has, under the same names; a run works on a copy of
it in the spool, which stays there, so that the next run downloads only what is new.
"""

import contextlib
import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.errors import RunError, UserError, failing_as
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import IN_CACHE, LOG, CacheFolder
from violence_detection.features.cache.lookup import ClipRows, known_rows
from violence_detection.features.cache.parts import (
    FILE_FIELDS,
    FILES,
    KEYS,
    ROW_FIELDS,
    ROWS,
    KeysFile,
    part_names,
)
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.storage.files import PARTIAL, read_json, replace_file, write_json
from violence_detection.storage.object_store import RemoteStore

log = logging.getLogger(__name__)

VISIBLE_WITHIN = 120.0  # seconds until a host sees what another wrote: file systems cache
POLL_INTERVAL = 1.0  # seconds
UPLOAD_INTERVAL = 300.0  # seconds of extraction that may be lost with a machine
UPLOAD_TIME_SHARE = 0.05  # of the time, at most: slow uploads make the interval longer
TRANSFERS = 8  # files at once
COPY, KNOWN = "cache", "known.json"  # in the spool: the copy, and what the store has of it


class LocalCache:
    """The cache that `--cache-dir` names, as a folder on this disk: itself, or a store's copy.

    Args:
        location: a local folder, or the URL of one.
        spool_dir: the folder of copies.
        with_rows: whether the features that others computed are needed, or only which there are.

    Raises:
        UserError: the store refuses; the folder there is no cache.
        RunError: the store does not answer; this disk is full.
    """

    def __init__(self, location: Path | str, spool_dir: Path, with_rows: bool = True):
        self.location = location
        self.with_rows = with_rows
        if isinstance(location, Path):
            self.path = location
            return
        self._store = RemoteStore(location, "--cache-dir")
        name = hashlib.blake2b(location.encode(), digest_size=8).hexdigest()
        self.folder = spool_dir.expanduser().absolute() / name
        self.path = self.folder / COPY
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--spool-dir {self.folder} cannot be written: {error}") from error
        self.refresh()

    @property
    def is_remote(self) -> bool:
        """Whether the cache is in a store."""
        return not isinstance(self.location, Path)

    def refresh(self) -> None:
        """Download what others have uploaded since; each `FeatureCache` must be opened again.

        Raises:
            UserError: the store refuses; the folder there is no cache.
            RunError: the store does not answer; this disk is full.
        """
        if not self.is_remote:
            return
        started = time.perf_counter()
        # First what is known: another process of this machine may upload during the listing.
        here, known = _files_in(self.path), self._known()
        with self._store.explaining_errors("read"):
            there = self._listed()
        parts = {name for name in known if name.endswith((KEYS, ROWS))}
        for name in parts - there.keys():  # merged into another part
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
        replaced = _replaced_in(self.path)
        wanted = [
            name
            for name, size in there.items()
            if (here.get(name) != size or name.endswith(".json"))
            and Path(name).stem not in replaced
            and (self.with_rows or not name.endswith(ROWS))
        ]
        # Rows first: a part whose keys are here is complete.
        received = 0
        for suffixes in ((ROWS,), (KEYS, ".json")):
            some = [name for name in wanted if name.endswith(suffixes)]
            received += self._each(self._download, some, "read")
        self._remember(known & there.keys() | set(map(self._mark, wanted)))
        if received:
            seconds = time.perf_counter() - started
            log.info("downloaded %.1f MB of %s in %.1f s", received / 1e6, self.location, seconds)

    def upload(self) -> None:
        """Upload the parts that were written here.

        Raises:
            UserError: the folder may not be written.
            RunError: the store does not answer. The copy keeps what it has.
        """
        if not self.is_remote:
            return
        started, known = time.perf_counter(), self._known()
        mine = [name for name in _files_in(self.path) if self._mark(name) not in known]
        sent = 0
        for suffixes in ((ROWS,), (KEYS, ".json")):
            some = [name for name in mine if name.endswith(suffixes)]
            sent += self._each(self._upload, some, "written")
        self._remember(known | set(map(self._mark, mine)))
        if sent:
            seconds = time.perf_counter() - started
            log.info("uploaded %.1f MB to %s in %.1f s", sent / 1e6, self.location, seconds)
        self._remove_replaced()

    def _listed(self) -> dict[str, int]:
        """Return the size of each of the cache's files in the store, by name.

        Raises:
            UserError: there is something else, or the bucket does not exist.
        """
        try:
            found = self._store.find()
        except FileNotFoundError as error:
            bucket = self._store.root.partition("/")[0]  # HDFS has none
            try:
                if bucket:
                    self._store.request(self._store.files.info, bucket)
            except FileNotFoundError:
                raise UserError(
                    f"{self._store.flag} {self.location}: bucket {bucket} does not exist: create "
                    "it first"
                ) from error
            return {}
        if foreign := sorted(n for n in found if not IN_CACHE.fullmatch(n.partition("/")[0])):
            raise UserError(
                f"{self._store.flag} {self.location} is not empty and not a feature cache "
                f"(it contains {foreign[0]}): name another folder"
            )
        return {name: info["size"] for name, info in found.items()}

    def _each(self, transfer: Callable[[str], int], names: Sequence[str], done: str) -> int:
        """Transfer files, several at once; return the sum of their sizes."""
        total = 0
        with (
            self._store.explaining_errors(done),
            ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer") as threads,
        ):
            for size in threads.map(transfer, names):
                raise_if_interrupted()
                total += size
        return total

    def _download(self, name: str) -> int:
        path = self.path / name
        partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}-{path.name}")
        with failing_as(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            get = self._store.files.get_file
            self._store.request(get, self._store.path_of(name), str(partial))
            size = partial.stat().st_size
            partial.replace(path)
        except FileNotFoundError:  # merged into another part since it was listed
            return 0
        finally:
            partial.unlink(missing_ok=True)
        return size

    def _upload(self, name: str) -> int:
        path = self.path / name
        put = self._store.files.put_file
        try:
            size = path.stat().st_size
            self._store.request(put, str(path), self._store.path_of(name))
        except FileNotFoundError:
            if path.exists():  # it is the bucket that is not there
                raise
            return 0  # merged by another process of this machine since it was listed
        return size

    def _remove_replaced(self) -> None:
        """Remove from the store what parts that were merged here replace."""
        known, replaced = self._known(), _replaced_in(self.path)
        for name in sorted(known, key=lambda name: name.endswith(ROWS)):  # the keys first
            if Path(name).stem in replaced:
                with (
                    self._store.explaining_errors("written"),
                    contextlib.suppress(FileNotFoundError),
                ):
                    self._store.request(self._store.files.rm_file, self._store.path_of(name))
                known.discard(name)
        self._remember(known)

    def _mark(self, name: str) -> str:
        """Return what is remembered of a file that the store and the copy have."""
        if name.endswith((KEYS, ROWS)):
            return name
        path = self.path / name
        return f"{name} {path.stat().st_mtime_ns if path.exists() else 0}"  # it may change

    def _known(self) -> set[str]:
        """Return the marks of the files that both the store and the copy had."""
        with contextlib.suppress(UserError):
            return set(read_json(self.folder / KNOWN)["names"])
        return set()

    def _remember(self, names: Collection[str]) -> None:
        write_json(self.folder / KNOWN, {"names": sorted(names)}, shared=True)


def _files_in(folder: Path) -> dict[str, int]:
    """Return the size of each of a cache's files, by name; without logs and unfinished ones."""
    sizes = {}
    for path in [*folder.glob("*.json"), *folder.glob("*/*")]:
        if path.is_file() and not path.name.startswith((PARTIAL, LOG)):
            with contextlib.suppress(FileNotFoundError):  # merged by another process just now
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes


def _replaced_in(folder: Path) -> set[str]:
    """Return the names of parts that others in a cache replace."""
    found: set[str] = set()
    for path in folder.glob(f"*/*{KEYS}"):
        with contextlib.suppress(ValueError, OSError):
            found.update(_replaces(path))
    return found


def _replaces(path: Path) -> list[str]:
    fields = FILE_FIELDS if path.parent.name == FILES else ROW_FIELDS
    return KeysFile(path, fields).replaces


def copy_parts(source: Path, target: Path, recipes: Sequence[Recipe]) -> int:
    """Copy the parts of some recipes, and what is known of files, that another cache lacks.

    Raises:
        RunError: a disk is full, gone or read-only.
    """
    copied = 0
    for folder in (*(recipe.key for recipe in recipes), FILES):
        for name in set(part_names(source / folder)) - set(part_names(target / folder)):
            with failing_as(target):
                (target / folder).mkdir(parents=True, exist_ok=True)
            for suffix in (ROWS, KEYS):  # the keys last
                path = source / folder / f"{name}{suffix}"
                if path.exists():
                    _copy(path, target / folder / path.name)
            copied += 1
    return copied


def _copy(source: Path, target: Path) -> None:
    replace_file(target, lambda partial: shutil.copyfile(source, partial), shared=True)


class PeriodicUpload:
    """Hands over what is computed on this machine's own disk to the cache that others read.

    If the cache itself is written, there is nothing to do.

    Args:
        cache: to upload to; its copy may be on the local disk.
        own_disk: a folder there that features are computed into; None: the cache itself is.
        recipes: of the features.
    """

    def __init__(self, cache: LocalCache, own_disk: Path | None, recipes: Sequence[Recipe]):
        self.cache, self.own_disk, self.recipes = cache, own_disk, recipes
        self._due = time.monotonic() + UPLOAD_INTERVAL

    def upload_now(self) -> None:
        """Hand over everything that is durable.

        Raises:
            UserError: a store refuses.
            RunError: a disk is full, gone or read-only; a store does not answer.
        """
        if self.own_disk:
            copied = copy_parts(self.own_disk, self.cache.path, self.recipes)
            log.info("copied parts from %s to %s: %d", self.own_disk, self.cache.path, copied)
        self.cache.upload()

    def upload_if_due(self, caches: Sequence[FeatureCache]) -> None:
        """Hand over if the last time is long ago, so that little is lost with the machine.

        A failure is logged, and the next upload tries again.

        Args:
            caches: that features are being stored in.

        Raises:
            UserError: a store refuses.
        """
        started = time.monotonic()
        if started < self._due or not (self.own_disk or self.cache.is_remote):
            return
        for cache in caches:
            cache.commit()
        try:
            self.upload_now()
        except RunError as error:
            log.warning("%s Extraction continues; the next upload tries again.", error)
        now = time.monotonic()
        self._due = now + max(UPLOAD_INTERVAL, (now - started) / UPLOAD_TIME_SHARE)


def wait_for_all_shares(
    clips: Sequence[Clip],
    bad: Collection[str],
    cache: LocalCache,
    folder: CacheFolder,
    recipes: Sequence[Recipe],
    timeout: float = VISIBLE_WITHIN,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[list[FeatureCache], ClipRows]:
    """Wait until the features that the other workers have stored are visible here.

    Args:
        clips: of all shares.
        bad: the names of clips that have no features.
        cache: refreshed while waiting.
        folder: the folder of `cache`.
        recipes: of the features.
        timeout: seconds to wait.
        sleep: called with the seconds between two looks.

    Returns:
        The caches, one per recipe, opened again, and the rows of all clips.

    Raises:
        UserError: a store refuses.
        RunError: features do not become visible; a store does not answer.
    """
    deadline = time.monotonic() + timeout
    while True:
        cache.refresh()
        folder.refresh()
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        rows = known_rows(clips, caches)
        missing = [clip for clip in clips if clip not in rows and clip.name not in bad]
        if not missing:
            return caches, rows
        if time.monotonic() > deadline:
            raise RunError(
                f"features of other workers are not visible in {cache.location} ({len(missing)} "
                f"missing, the first of {missing[0].path}): is --cache-dir a URL or on a disk that "
                "all hosts share, and the dataset at the same path on all of them?"
            )
        raise_if_interrupted()
        sleep(POLL_INTERVAL)
