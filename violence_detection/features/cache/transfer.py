"""What several workers have computed, read as one cache; and copies on a machine's own disk."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import LOCAL, CacheFolder
from violence_detection.features.cache.local import LocalCache
from violence_detection.features.cache.lookup import ClipRows, known_rows
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.worker import Worker

log = logging.getLogger(__name__)

SEEN_WITHIN = 120.0  # seconds: what one host writes, others see once their own memory of it is old
LOOK_EVERY = 1.0  # seconds
UPLOAD_INTERVAL = 300.0  # seconds of extraction that may be lost with a machine
UPLOAD_TIME_SHARE = 0.05  # of the time, at most: the interval grows with what handing over takes


def copy_to_shared_cache(
    cache_dir: Path,
    local: Path,
    recipes: Sequence[Recipe],
    worker: Worker,
    busy: Callable[[str], None],
) -> None:
    """Copy what is in the cache on this machine's own disk, and in no other, into the shared one.

    Raises:
        RunError: a disk is full, gone or read-only.
    """
    with CacheFolder(cache_dir, busy, worker, extra=local) as folder:
        copied = 0
        for recipe in recipes:
            cache = FeatureCache(folder, recipe)
            copied += cache.copy_rows(cache.rows_only_in(LOCAL))
        folder.copy_file_records(LOCAL)
        log.info("%d features were copied from %s to %s", copied, local, folder.own_path)


class PeriodicUpload:
    """Hands what is computed on this machine's own disk over to the cache that others read.

    Where the cache itself is written, nothing is done.

    Args:
        cache: of which a copy may be on the own disk.
        own_disk: a folder there that features are computed into, see `copy_to_shared_cache`.
    """

    def __init__(
        self,
        cache: LocalCache,
        own_disk: Path | None,
        recipes: Sequence[Recipe],
        worker: Worker,
        busy: Callable[[str], None],
    ):
        self.cache, self.own_disk, self.recipes = cache, own_disk, recipes
        self.worker, self.busy = worker, busy
        self._due = time.monotonic() + UPLOAD_INTERVAL

    def upload_now(self) -> None:
        """Hand over all that is durable.

        Raises:
            UserError: a store refuses.
            RunError: a disk is full, gone or read-only; a store does not answer.
        """
        if self.own_disk:
            copy_to_shared_cache(
                self.cache.path, self.own_disk, self.recipes, self.worker, self.busy
            )
        self.cache.upload()

    def upload_if_due(self, caches: Sequence[FeatureCache]) -> None:
        """Hand over what has been computed, now and then: a machine that is lost keeps the rest.

        If it cannot be done, that is told, and tried again later.
        """
        started = time.monotonic()
        if started < self._due or not (self.own_disk or self.cache.is_remote):
            return
        for cache in caches:
            cache.commit()
        try:
            self.upload_now()
        except RunError as error:
            log.warning("%s (extraction goes on, and this is tried again)", error)
        now = time.monotonic()
        self._due = now + max(UPLOAD_INTERVAL, (now - started) / UPLOAD_TIME_SHARE)


def wait_for_all_shares(
    clips: Sequence[Clip],
    bad: Collection[str],
    cache: LocalCache,
    folder: CacheFolder,
    recipes: Sequence[Recipe],
) -> tuple[list[FeatureCache], ClipRows]:
    """Return the caches, opened anew, and the rows of all clips, once all workers have stored them.

    Args:
        bad: names of clips that have none.
        cache: is looked into again, and is where `folder` is.

    Raises:
        UserError: a store refuses.
        RunError: features do not come to be seen here; a store does not answer.
    """
    deadline = time.monotonic() + SEEN_WITHIN
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
                f"this host finds no features in {cache.location} for {len(missing)} "
                f"clips of other workers, first {missing[0].path}: is --cache-dir a URL or "
                "on a disk that all hosts share, and the dataset at the same path on all?"
            )
        raise_if_interrupted()
        time.sleep(LOOK_EVERY)


def copy_to_local_disk(rows: ClipRows, caches: Sequence[FeatureCache]) -> ClipRows:
    """Copy the features of all clips to this machine's own disk, and return their rows there.

    Raises:
        RunError: the disk is full, gone or read-only; a row cannot be read.
    """
    of_views, copied = [], 0
    for view, cache in enumerate(caches):
        of_view = [of_clip[view] for of_clip in rows.values()]
        copied += cache.copy_rows(of_view)
        contents = [content.tobytes() for content in cache.contents(of_view)]
        of_views.append(cache.rows_of(contents).tolist())
    log.info("%d features were copied to %s", copied, caches[0].folder.own_path)
    return dict(zip(rows, zip(*of_views, strict=True), strict=True))
