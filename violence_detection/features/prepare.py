"""The features of all clips: found in the cache or computed, by one worker or several."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.clips.loading import Dataset
from violence_detection.clips.video_windows import windows_of
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import THUMBNAIL, FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.lookup import ClipRows, known_rows
from violence_detection.features.cache.transfer import (
    LocalCache,
    PeriodicUpload,
    copy_parts,
    wait_for_all_shares,
)
from violence_detection.features.extraction import (
    BadClip,
    extract_features,
    log_bias,
    require_readable,
)
from violence_detection.features.network import Network, make_network
from violence_detection.features.recipe import (
    appearance_of,
    stored_recipes,
    weights_of,
)
from violence_detection.features.shares import share_of
from violence_detection.features.survey import Survey, survey_features
from violence_detection.features.windows import VideoWindows, by_video
from violence_detection.models import backbone_title, random_weights_warning
from violence_detection.models.fine_tuning import describe_needs
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA
from violence_detection.runtime.machine import Machine
from violence_detection.runtime.stage_clock import CHECKS
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import PIXELS, VGG19
from violence_detection.settings.kinds import untrained_backbones
from violence_detection.settings.schema import Settings

log = logging.getLogger(__name__)

ATTEMPTS = 3  # at computing damaged rows: if the third fails, the disk is at fault


@dataclass(frozen=True)
class Features:
    """The caches and rows of all clips' features, and a survey of them.

    There is a cache per view: the streams, then the same streams of mirrored clips if there are
    any, and last the thumbnails if they are needed (`stored_recipes`).
    """

    recipes: list[Recipe]
    caches: list[FeatureCache]
    rows: ClipRows  # the row of each clip in each cache
    surveys: list[Survey]  # of each cache
    bad: list[BadClip]
    views: int  # number of caches used in training: all but thumbnails
    windows: Mapping[Clip, VideoWindows] = field(default_factory=dict)  # of videos, with --weak

    @property
    def appearance(self) -> int:
        """The index of the cache by which copies are recognized: RGB, or else thumbnails."""
        by_rgb = appearance_of(self.recipes[: self.views])
        return self.views if by_rgb is None else by_rgb


def prepare_features(
    settings: Settings,
    dataset: Dataset,
    machine: Machine,
    known_bad: Mapping[str, str] | None,
) -> Features:
    """Return the features of all clips; missing ones are computed and cached.

    Args:
        settings: of frames, streams, VGG19 and the cache; with --weak, of the windows of videos.
        dataset: the clips.
        machine: the devices; with several workers, each computes a share.
        known_bad: names of clips to skip, with the reasons: a resumed run must use the same clips.
            None: try all clips.
    Raises:
        UserError: too many clips cannot be read; the object store refuses access to the cache.
        RunError: a disk is full, gone or damages data; an object store does not respond.
    """
    if settings.model.fine_tune != "none":
        log.info("%s", describe_needs(settings, len(dataset.all_clips)))
    if not settings.weak.weak:
        return _computed(settings, dataset, machine, known_bad)
    windows = windows_of(dataset.all_clips, settings.weak.window, settings.data.clip_timeout)
    parts = [part for clip in dataset.clips for part in windows[clip]]
    log.info("%s in %s", count_of(len(dataset.clips), "video"), count_of(len(parts), "window"))
    if known_bad is not None:
        known_bad = {
            part.name: known_bad[clip.name]
            for clip in dataset.clips
            if clip.name in known_bad
            for part in windows[clip]
        }
    in_windows = dataclasses.replace(dataset, clips=parts)
    return by_video(_computed(settings, in_windows, machine, known_bad), windows)


def _computed(
    settings: Settings,
    dataset: Dataset,
    machine: Machine,
    known_bad: Mapping[str, str] | None,
) -> Features:
    """Return the features of clips, or of windows; arguments and errors of `prepare_features`."""
    started = time.perf_counter()
    log_random_weights(settings)
    recipes = stored_recipes(settings, not dataset.groups_are_given)
    worker = machine.worker

    cache = LocalCache(settings.data.cache_dir, settings.data.spool_dir)
    own_disk = settings.data.cache_local
    with CacheFolder(cache.path, own_disk) as folder:
        uploads = PeriodicUpload(cache, own_disk, recipes)
        bad: list[BadClip] | None = None
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        share = share_of(dataset.all_clips, worker)
        for _ in range(ATTEMPTS):
            rows, own_bad = extract_share(share, caches, settings, machine, uploads, known_bad)
            uploads.upload_now()
            if worker.count > 1:
                own_bad, caches, rows = _all_shares(
                    own_bad, dataset.all_clips, cache, folder, recipes, machine
                )
            if own_disk and copy_parts(folder.path, own_disk, recipes):
                caches = [FeatureCache(folder, recipe) for recipe in recipes]
                rows = known_rows([*rows], caches)
            if bad is None:
                log_bad_clips(own_bad)
            bad = own_bad
            require_readable(bad, dataset.clips, settings.data.max_bad_clips)
            surveys = [
                survey_features(view_cache, [clip_rows[view] for clip_rows in rows.values()])
                for view, view_cache in enumerate(caches)
            ]
            damaged = [survey.damaged for survey in surveys]
            if not _drop_damaged(caches, damaged, machine):
                break
        else:
            raise RunError(damaged_again(folder.path))
    log_bias(bad, dataset.clips)
    views = sum(recipe.layer != THUMBNAIL for recipe in recipes)
    features = Features(recipes, caches, rows, surveys, bad, views)
    _log_features(features, cache.location, time.perf_counter() - started)
    machine.report_use_for_features()
    machine.clock.begin(CHECKS)
    return features


def log_random_weights(settings: Settings) -> None:
    """Warn if a backbone is untrained."""
    if untrained := untrained_backbones(settings):
        log.warning("%s", random_weights_warning(untrained))


def log_bad_clips(bad: Sequence[BadClip]) -> None:
    """Warn of each clip that cannot be read."""
    for item in bad:
        log.warning("bad clip %s: %s", item.clip.path, item.reason)


def extract_share(
    clips: Sequence[Clip],
    caches: Sequence[FeatureCache],
    settings: Settings,
    machine: Machine,
    uploads: PeriodicUpload,
    known_bad: Mapping[str, str] | None = None,
) -> tuple[ClipRows, list[BadClip]]:
    """Compute the missing features of some clips on this worker's devices.

    Args:
        clips: this worker's share.
        caches: one per view, of one folder.
        settings: of VGG19, and how to handle bad clips.
        machine: its devices.
        uploads: uploads computed features periodically.
        known_bad: names of clips to skip, with the reasons.

    Returns:
        The rows of each clip in each cache, and the clips that cannot be read.

    Raises:
        UserError: with --on-bad-clip fail, a clip cannot be read.
        RunError: disk, object store or memory is insufficient.
    """
    computation = machine.precision.computation
    name, frames = backbone_title(caches[0].recipe.backbone), caches[0].recipe.frames

    def network_of(recipe: Recipe) -> Network:
        strategy = machine.own_strategy()
        return make_network(strategy, recipe, weights_of(recipe, settings), computation)

    with machine.enough_memory(
        f"{name} on {CLIPS_PER_REPLICA} clips of {frames} frames per replica",
        "Use fewer --frames or a lower --feature-layer, or close other programs on this device.",
    ):
        return extract_features(
            clips,
            caches,
            network_of,
            len(machine.devices),
            settings.data.clip_timeout,
            stop_at_bad_clip=settings.data.on_bad_clip == "fail",
            known_bad=known_bad,
            clock=machine.clock,
            bar=machine.bar,
            after_batch=uploads.upload_if_due,
        )


def _all_shares(
    own_bad: Sequence[BadClip],
    clips: Sequence[Clip],
    cache: LocalCache,
    folder: CacheFolder,
    recipes: Sequence[Recipe],
    machine: Machine,
) -> tuple[list[BadClip], list[FeatureCache], ClipRows]:
    """Return the bad clips of all workers, and caches and rows once all shares are visible."""
    own = {item.clip.name: item.reason for item in own_bad}
    reasons: dict[str, str] = {}
    for worker_reasons in machine.cluster.gather("the features", own):
        reasons |= worker_reasons
    bad = [BadClip(clip, reasons[clip.name]) for clip in clips if clip.name in reasons]
    return bad, *wait_for_all_shares(clips, reasons, cache, folder, recipes)


def _drop_damaged(
    caches: Sequence[FeatureCache], damaged: Sequence[Sequence[int]], machine: Machine
) -> bool:
    """Drop rows with wrong checksums; return whether any worker has to compute rows again."""
    drop_damaged(caches, damaged)
    return any(machine.cluster.gather("damaged rows", sum(map(len, damaged))))


def drop_damaged(caches: Sequence[FeatureCache], damaged: Sequence[Sequence[int]]) -> None:
    """Take the damaged rows of each cache for missing, with a warning."""
    for cache, rows in zip(caches, damaged, strict=True):
        if rows:
            log.warning(
                "%s of %s features in %s damaged (checksum mismatch): computing again",
                *(count_of(len(rows), "row"), cache.recipe.stream, cache.folder.path),
            )
            cache.drop(rows)


def damaged_again(folder: Path) -> str:
    """Return what is wrong if rows are damaged `ATTEMPTS` times."""
    return (
        f"{folder}: rows are damaged right after they are written: check the disk or use another "
        "--cache-dir"
    )


def _log_features(features: Features, location: Path | str, seconds: float) -> None:
    for cache in features.caches[: features.views]:
        recipe, clips = cache.recipe, count_of(len(features.rows), "clip")
        mirrored = " (mirrored)" if recipe.flipped else ""
        made = f"{recipe.stream} features{mirrored} of {clips} at {recipe.layer}"
        if recipe.backbone == PIXELS:
            made = f"{recipe.stream} frames of {clips} at {recipe.layer} pixels"
        elif recipe.backbone != VGG19:
            made += f" of {recipe.backbone}"
        log.info("%s in %s", made, location)
    log.info("features took %.1f s", seconds)
