"""The training command with `--extract-only`: features of a share of the clips, and no training.

Any number of machines can do it at once without communication. What a machine that died has left
undone is computed by the next start, with any number.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

from violence_detection.clips.clip import Clip
from violence_detection.clips.loading import find_dataset
from violence_detection.clips.video_windows import windows_of
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import BAD_CLIPS, LOG, CacheFolder, name_of
from violence_detection.features.cache.lookup import known_rows
from violence_detection.features.cache.transfer import LocalCache, PeriodicUpload
from violence_detection.features.extraction import BadClip
from violence_detection.features.prepare import (
    ATTEMPTS,
    damaged_again,
    drop_damaged,
    extract_share,
    log_bad_clips,
    log_random_weights,
)
from violence_detection.features.recipe import stored_recipes
from violence_detection.features.shares import find_share, share_number, share_of
from violence_detection.features.survey import damaged_rows
from violence_detection.runtime.logs import start_log
from violence_detection.runtime.machine import set_up_machine
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.runtime.wording import count_of
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import read_json, write_json

log = logging.getLogger(__name__)

SHOWN = 5  # clips in a log line


def extract_only(settings: Settings) -> int:
    """Compute the features of this process's share; log what is done and what is missing.

    Args:
        settings: of the clips, VGG19, the cache and the share.

    Returns:
        The exit status, 0.

    Raises:
        UserError: the share cannot be determined; there are no clips; a clip cannot be read, with
            --on-bad-clip fail.
        RunError: a disk is full, gone or read-only; an object store does not respond.
    """
    data = settings.data
    worker = find_share(data.share, settings.devices.cluster)

    with ExitStack() as stack:
        dataset = find_dataset(settings, stack)
        clips, recipes = dataset.all_clips, stored_recipes(settings, not dataset.groups_are_given)
        if settings.weak.weak:
            windows = windows_of(clips, settings.weak.window, data.clip_timeout)
            clips = [part for clip in clips for part in windows[clip]]
        # Without the rows of others: their names are enough.
        cache = LocalCache(data.cache_dir, data.spool_dir, with_rows=False)
        bad = _extract(settings, worker, clips, recipes, cache)
        _report(recipes, worker, clips, cache, bad)
    return 0


def _extract(
    settings: Settings,
    worker: Worker,
    clips: Sequence[Clip],
    recipes: Sequence[Recipe],
    cache: LocalCache,
) -> list[BadClip]:
    """Compute this share's features that are missing or damaged; return its unreadable clips."""
    share, own_disk = share_of(clips, worker), settings.data.cache_local
    with ExitStack() as stack, CacheFolder(cache.path, own_disk) as folder:
        log_file = folder.own_path / name_of(worker, LOG, ".log")
        start_log(log_file)
        total = count_of(len(clips), "clip")
        log.info("share %s: %d of %s, into %s", _name(worker), len(share), total, folder.own_path)
        machine = set_up_machine(
            settings.replace(deterministic=False),
            Worker(),  # does not wait for the others
            log_file,
            stack,
            batch_size=0,
            started=time.perf_counter(),
            clock=StageClock(),
        )
        log_random_weights(settings)
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        uploads = PeriodicUpload(cache, own_disk, recipes)
        for _ in range(ATTEMPTS):
            rows, bad = extract_share(share, caches, settings, machine, uploads)
            damaged = [
                damaged_rows(each, [of_clip[view] for of_clip in rows.values()])
                for view, each in enumerate(caches)
            ]
            drop_damaged(caches, damaged)
            if not any(damaged):
                break
        else:
            raise RunError(damaged_again(folder.path))
        log_bad_clips(bad)
    uploads.upload_now()
    return bad


def _report(
    recipes: Sequence[Recipe],
    worker: Worker,
    clips: Sequence[Clip],
    cache: LocalCache,
    bad: Sequence[BadClip],
) -> None:
    """Upload what was found out, and log what is missing from all shares."""
    with CacheFolder(cache.path) as folder:
        reasons = {item.clip.name: item.reason for item in bad}
        write_json(folder.path / name_of(worker, BAD_CLIPS, ".json"), reasons)
        cache.upload()
        cache.refresh()
        folder.refresh()
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        rows = known_rows(clips, caches, assume_unchanged=True)
        lists = folder.path.glob(f"{BAD_CLIPS}*.json")
        unreadable = {name for path in lists for name in read_json(path)}
    _log_missing(clips, {clip.name for clip in rows}, unreadable, cache, worker)


def _name(worker: Worker) -> str:
    return f"{worker.number + 1}/{worker.count}"


def _log_missing(
    clips: Sequence[Clip],
    done: set[str],
    unreadable: set[str],
    cache: LocalCache,
    worker: Worker,
) -> None:
    missing = [clip for clip in clips if clip.name not in done]
    bad = [clip for clip in missing if clip.name in unreadable]
    pending = [clip for clip in missing if clip.name not in unreadable]
    log.info(
        "%d of %d clips have features in %s", len(clips) - len(missing), len(clips), cache.location
    )
    if bad:
        log.warning("%s cannot be read: %s", count_of(len(bad), "clip"), _some(bad))
    if pending:
        by_share = Counter(share_number(clip, worker.count) + 1 for clip in pending)
        log.info(
            "%s missing (%s): %s",
            count_of(len(pending), "clip"),
            ", ".join(f"share {n}/{worker.count}: {by_share[n]}" for n in sorted(by_share)),
            _some(pending),
        )
    else:
        log.info("nothing is missing")


def _some(clips: Sequence[Clip]) -> str:
    names = ", ".join(str(clip.path) for clip in clips[:SHOWN])
    return names + (" …" if len(clips) > SHOWN else "")
