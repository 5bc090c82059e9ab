"""The training command with `--extract-only`: features of a share of the clips, and no training.

Any number of machines do it at once and need not know of each other: each writes a shard of the
cache of its own. What one that died has left undone, the next start does, with however many.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips, find_unlabeled
from violence_detection.features.cache.folder import BAD_CLIPS, LOG, CacheFolder
from violence_detection.features.cache.local import LocalCache
from violence_detection.features.shares import find_share, share_number, share_of
from violence_detection.models import RANDOM_WEIGHTS_WARNING
from violence_detection.runtime.logs import native_messages_to, start_log
from violence_detection.runtime.progress import shows_bar
from violence_detection.runtime.tensorflow_log import quiet_tensorflow
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import read_json, write_json
from violence_detection.storage.remote_paths import AnyPath, clips_folder

log = logging.getLogger(__name__)

SHOWN = 5  # of what may be thousands of clips


def extract_only(settings: Settings) -> int:
    """Compute the features of this process's share; say what is there and what is missing."""
    worker = find_share(settings.data.share, settings.devices.cluster)

    def busy(holder: str) -> None:
        print(f"{holder} extracts this share, {_named(worker)}: waiting for it", flush=True)

    with (
        clips_folder(
            settings.data.dataset_path, settings.data.spool_dir, settings.data.spool_size
        ) as dataset,
        # Of what others have computed it is enough to know that it is there.
        LocalCache(
            settings.data.cache_dir, settings.data.spool_dir, worker, busy, with_rows=False
        ) as cache,
    ):
        _extract_share(settings, worker, dataset, cache, busy)
    return 0


def _extract_share(
    settings: Settings,
    worker: Worker,
    dataset: AnyPath,
    cache: LocalCache,
    busy: Callable[[str], None],
) -> None:
    if settings.data.demo and isinstance(dataset, Path):
        from violence_detection.clips.demo import draw_demo_clips

        draw_demo_clips(dataset)
    clips = find_clips(dataset, settings.devices.seed)
    clips += find_unlabeled(settings.training.unlabeled) if settings.training.unlabeled else []
    share = share_of(clips, worker)

    with CacheFolder(cache.path, busy, worker, settings.data.cache_local) as folder:
        log_file = folder.own_path / LOG
        start_log(log_file)
        log.info(
            "share %s: %d of %d clips, into %s",
            _named(worker),
            len(share),
            len(clips),
            folder.own_path,
        )
        quiet_tensorflow()
        with native_messages_to(log_file):
            from violence_detection.runtime.devices import (
                choose_precision,
                describe_devices,
                enough_memory,
                find_devices,
                make_strategy,
            )

            devices = find_devices(settings.devices.replicas)
            strategy = make_strategy(devices, len(devices))
        from violence_detection.features.cache.feature_cache import FeatureCache
        from violence_detection.features.cache.lookup import known_rows
        from violence_detection.features.cache.transfer import PeriodicUpload, copy_to_shared_cache
        from violence_detection.features.extraction import (
            CLIPS_PER_REPLICA,
            extract_features,
            on_replicas,
            stored_recipes,
        )
        from violence_detection.models.classifier import build_extractor

        precision = choose_precision(settings.devices.mixed_precision, devices[0].device_type)
        for line in describe_devices(devices):
            log.info("device %s", line)
        log.info("%s: %s", precision.computation, precision.reason)
        weights, layer = settings.features.vgg19_weights, settings.features.feature_layer
        if weights == "random":
            log.warning("%s", RANDOM_WEIGHTS_WARNING)

        make_extractor = partial(build_extractor, layer, weights, precision.computation)
        recipes = stored_recipes(settings)
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        uploads = PeriodicUpload(cache, settings.data.cache_local, recipes, worker, busy)
        with enough_memory(
            devices,
            f"VGG19 on {CLIPS_PER_REPLICA} clips of {recipes[0].frames} frames a replica",
            "Fewer --frames or a lower --feature-layer take less; or end what else uses it",
        ):
            _, bad = extract_features(
                share,
                caches,
                lambda: on_replicas(strategy, make_extractor),
                len(devices),
                settings.data.clip_timeout,
                stop_at_bad_clip=settings.data.on_bad_clip == "fail",
                bar=shows_bar(settings.monitoring.quiet),
                after_batch=uploads.upload_if_due,
            )
        for item in bad:
            log.warning("bad clip %s: %s", item.clip.path, item.reason)
    if settings.data.cache_local:
        copy_to_shared_cache(cache.path, settings.data.cache_local, recipes, worker, busy)
    with CacheFolder(cache.path, busy, worker) as folder:
        write_json(folder.own_path / BAD_CLIPS, {item.clip.name: item.reason for item in bad})
        cache.upload()
        cache.refresh()
        folder.refresh()
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        rows = known_rows(clips, caches, assume_unchanged=True)
        unreadable = _unreadable(folder)
    _say_what_is_there(clips, {clip.name for clip in rows}, unreadable, cache, worker)


def _named(worker: Worker) -> str:
    return f"{worker.number + 1}/{worker.count}"


def _unreadable(folder: CacheFolder) -> set[str]:
    """Return the names of the clips that some worker could not read when it last tried."""
    lists = [shard / BAD_CLIPS for shard in folder.shards.values()]
    return {name for path in lists if path.exists() for name in read_json(path)}


def _say_what_is_there(
    clips: Sequence[Clip],
    there: set[str],
    unreadable: set[str],
    cache: LocalCache,
    worker: Worker,
) -> None:
    missing = [clip for clip in clips if clip.name not in there]
    bad = [clip for clip in missing if clip.name in unreadable]
    open_ = [clip for clip in missing if clip.name not in unreadable]
    log.info(
        "%d of %d clips have features in %s", len(clips) - len(missing), len(clips), cache.location
    )
    if bad:
        log.warning("%d clips cannot be read: %s", len(bad), _some(bad))
    if open_:
        by_share = Counter(share_number(clip, worker.count) + 1 for clip in open_)
        log.info(
            "%d clips are missing, of share %s: %s",
            len(open_),
            ", ".join(f"{n}/{worker.count} ({by_share[n]})" for n in sorted(by_share)),
            _some(open_),
        )
    else:
        log.info("nothing is missing")


def _some(clips: Sequence[Clip]) -> str:
    names = ", ".join(str(clip.path) for clip in clips[:SHOWN])
    return names + (" …" if len(clips) > SHOWN else "")
