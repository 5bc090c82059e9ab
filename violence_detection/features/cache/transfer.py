"""Features on their way between this machine's own disk, the shared cache and other workers."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import LOCAL_SHARD, CacheFolder
from violence_detection.features.cache.local import LocalCache
from violence_detection.features.cache.lookup import ClipRows, known_rows
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.worker import Worker

log = logging.getLogger(__name__)

VISIBLE_WITHIN = 120.0  # seconds until a host sees what another wrote: file systems cache
POLL_INTERVAL = 1.0  # seconds
UPLOAD_INTERVAL = 300.0  # seconds of extraction that may be lost with a machine
UPLOAD_TIME_SHARE = 0.05  # of the time, at most: slow uploads make the interval longer


def copy_to_shared_cache(
    cache_dir: Path,
    local: Path,
    recipes: Sequence[Recipe],
    worker: Worker,
    on_wait: Callable[[str], None],
) -> None:
    """Copy the features that only the cache on this machine's own disk has to the shared cache.

    Args:
        cache_dir: the shared cache.
        local: the cache on this machine's own disk.
        recipes: of the features.
        worker: this process, whose shard they are copied to.
        on_wait: called with "process 123" if another process is writing that shard.

    Raises:
        RunError: a disk is full, gone or read-only.
    """
    with CacheFolder(cache_dir, on_wait, worker, extra=local) as folder:
        copied = 0
        for recipe in recipes:
            cache = FeatureCache(folder, recipe)
            copied += cache.copy_rows(cache.rows_only_in(LOCAL_SHARD))
        folder.copy_file_records(LOCAL_SHARD)
        log.info("copied features from %s to %s: %d", local, folder.own_path, copied)


def copy_to_local_disk(rows: ClipRows, caches: Sequence[FeatureCache]) -> ClipRows:
    """Copy features to this machine's own disk.

    Args:
        rows: of the clips, in any shard.
        caches: one per view of a clip, of a `CacheFolder` that writes on the local disk.

    Returns:
        The rows of the clips there.

    Raises:
        RunError: the disk is full, gone or read-only; a row cannot be read.
    """
    local_rows, copied = [], 0
    for view, cache in enumerate(caches):
        view_rows = [clip_rows[view] for clip_rows in rows.values()]
        copied += cache.copy_rows(view_rows)
        contents = [content.tobytes() for content in cache.contents(view_rows)]
        local_rows.append(cache.rows_of(contents).tolist())
    log.info("copied features to %s: %d", caches[0].folder.own_path, copied)
    return dict(zip(rows, zip(*local_rows, strict=True), strict=True))


class PeriodicUpload:
    """Uploads what is computed on this machine's own disk to the cache that others read.

    If the cache itself is written, there is nothing to do.

    Args:
        cache: to upload to; its copy may be on the local disk.
        own_disk: a folder there that features are computed into, see `copy_to_shared_cache`.
        recipes: of the features.
        worker: this process.
        on_wait: called with "process 123" if another process is writing this worker's shard.
    """

    def __init__(
        self,
        cache: LocalCache,
        own_disk: Path | None,
        recipes: Sequence[Recipe],
        worker: Worker,
        on_wait: Callable[[str], None],
    ):
        self.cache, self.own_disk, self.recipes = cache, own_disk, recipes
        self.worker, self.on_wait = worker, on_wait
        self._due = time.monotonic() + UPLOAD_INTERVAL

    def upload_now(self) -> None:
        """Upload everything that is durable.

        Raises:
            UserError: a store refuses.
            RunError: a disk is full, gone or read-only; a store does not answer.
        """
        if self.own_disk:
            copy_to_shared_cache(
                self.cache.path, self.own_disk, self.recipes, self.worker, self.on_wait
            )
        self.cache.upload()

    def upload_if_due(self, caches: Sequence[FeatureCache]) -> None:
        """Upload if the last upload is long ago, so that little is lost with the machine.

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
