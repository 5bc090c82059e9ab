"""The training and validation clips of a finished run, as inputs of its exported detector.

Features come from the run's own cache; what it lacks is computed from the clips.
"""

import csv
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from violence_detection.clips.clip import Clip, file_and_segment
from violence_detection.clips.decode_ahead import decode_ahead
from violence_detection.clips.locations import Locations
from violence_detection.errors import UserError
from violence_detection.export.graph import FEATURES
from violence_detection.export.inputs import Inputs
from violence_detection.features.cache.feature_cache import FeatureCache
from violence_detection.features.cache.folder import CacheFolder, is_cache
from violence_detection.features.cache.lookup import known_contents
from violence_detection.features.cache.rows import row_checksum
from violence_detection.inference.detector import DecodedClip, Detector
from violence_detection.runs.files import SPLITS_FILE
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import file_checksum
from violence_detection.storage.remote_paths import local_copy, prefetched

log = logging.getLogger(__name__)

AHEAD = 4  # clips that are decoded before they are needed


@dataclass(frozen=True)
class Sources:
    """Where the features and the clips of a run are now."""

    cache_dir: Path
    locations: Locations
    clip_timeout: float  # seconds that reading a clip may take


def load_inputs(
    detector: Detector, split: str, count: int | None, sources: Sources, end_to_end: bool
) -> tuple[list[Clip], list[Inputs]]:
    """Return clips of a split, and the network's inputs for each of them.

    Args:
        detector: of the run.
        split: one of `SPLITS`.
        count: at most so many clips, sampled evenly; None: all.
        sources: where to find them.
        end_to_end: whether the network starts from images: `(1, frames, 224, 224, 3)` uint8 by
            stream; otherwise `features`, `(1, frames, values)` float32.

    Returns:
        The clips that can be used, in the order of the run, and one mapping of inputs for each.

    Raises:
        UserError: no clip can be used.
    """
    clips = sample_evenly(clips_of_split(detector.checkpoint_dir, split, sources.locations), count)
    if not end_to_end:
        clips, features = load_features(detector, clips, sources)
        return clips, [{FEATURES: rows[np.newaxis].astype(np.float32)} for rows in features]
    clips, images = load_images(detector, clips, sources.clip_timeout)
    return clips, [
        {stream: frames[np.newaxis] for stream, frames in zip(detector.streams, clip, strict=True)}
        for clip in images
    ]


def clips_of_split(checkpoint_dir: Path, split: str, locations: Locations) -> list[Clip]:
    """Return the clips that a run had in a split, in its order.

    Args:
        checkpoint_dir: of the run, with the list of its clips.
        split: one of `SPLITS`.
        locations: of the dataset's videos, wherever they are now.

    Raises:
        UserError: the list is missing or cannot be read, or the split has no clips.
    """
    path = checkpoint_dir / SPLITS_FILE
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            clips = []
            for row in csv.DictReader(file):
                if row["split"] == split:
                    video, segment = file_and_segment(row["clip"])
                    folder, name, prefix = locations.locate(video)
                    label, group = CLASS_NAMES.index(row["label"]), row["group"] or None
                    clips.append(Clip(folder, name, label, split, group, prefix, segment))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}, the list of the run's clips, cannot be read ({error}): restore the file"
        ) from error
    if not clips:
        raise UserError(f"{path} lists no {split} clips")
    return clips


def sample_evenly(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """Return at most `count` clips, evenly spaced over the list, with its share of each class."""
    if count is None or count >= len(clips):
        return list(clips)
    by_class = sorted(range(len(clips)), key=lambda index: clips[index].label)
    chosen = {by_class[(2 * step + 1) * len(clips) // (2 * count)] for step in range(count)}
    return [clip for index, clip in enumerate(clips) if index in chosen]


def load_features(
    detector: Detector, clips: Sequence[Clip], sources: Sources
) -> tuple[list[Clip], np.ndarray]:
    """Return the clips whose features are known, and the `(clips, frames, values)` features.

    Features have the dtype of the cache. Those that it lacks are computed, and not stored.

    Raises:
        UserError: there are neither features nor a clip that can be read.
    """
    found = cached_features(detector, clips, sources.cache_dir)
    missing = [clip for clip in clips if clip not in found and clip.path.exists()]
    if missing:
        log.info(
            "computing the features of %d clip%s, not in %s",
            len(missing),
            "s" * (len(missing) > 1),
            sources.cache_dir,
        )
        with closing(_read_clips(detector, missing, sources.clip_timeout)) as decoded:
            for clip, images in decoded:
                found[clip] = detector.clip_features(images[np.newaxis])[0]
    usable = [clip for clip in clips if clip in found and np.isfinite(found[clip]).all()]
    if not usable:
        raise UserError(
            f"the run's {clips[0].split} clips have neither features in {sources.cache_dir} nor "
            f"readable files (the first would be {clips[0].path}): give the --cache-dir or the "
            "--dataset-path of the run"
        )
    return usable, np.stack([found[clip] for clip in usable])


def cached_features(
    detector: Detector, clips: Sequence[Clip], cache_dir: Path
) -> dict[Clip, np.ndarray]:
    """Return the features that a cache has of clips, in the shape of the detector's inputs.

    A clip whose file is gone is found by its path. Damaged features count as missing.

    Args:
        detector: whose recipes the features are of.
        clips: to look up.
        cache_dir: of the cache; if there is none, it is not created.

    Returns:
        `(frames, values)` in the dtype of the cache, by clip.
    """
    folder = cache_dir.expanduser().absolute()
    if not is_cache(folder):
        return {}

    with CacheFolder(folder, writable=False) as cache_folder:
        caches = [FeatureCache(cache_folder, recipe) for recipe in detector.recipes]
        known = known_contents(clips, cache_folder)
        features = {}
        for clip, content in zip(clips, known, strict=True):
            content = content or _content_hash(cache_folder, clip)
            parts = [_intact_row(cache, content) for cache in caches]
            intact = [part for part in parts if part is not None]
            if len(intact) == len(caches):
                features[clip] = np.concatenate(intact, axis=1)[detector.frame_indices]
    return features


def _content_hash(folder: CacheFolder, clip: Clip) -> bytes | None:
    """Return the key of a clip's content; if its file is gone, the last one known."""
    try:
        with local_copy(clip.path) as copy:
            return clip.content(file_checksum(copy))
    except OSError:
        return known_contents([clip], folder, assume_unchanged=True)[0]


def _intact_row(cache: FeatureCache, content: bytes | None) -> np.ndarray | None:
    """Return a clip's `(cached frames, features)`; None if they are missing or damaged."""
    row = None if content is None else cache.row_of(content)
    if row is None:
        return None
    features = cache.rows().read([row])[0]
    return features if row_checksum(features) == cache.checksums_of([row])[0] else None


def load_images(
    detector: Detector, clips: Sequence[Clip], clip_timeout: float
) -> tuple[list[Clip], list[np.ndarray]]:
    """Return the clips that can be read, and `(streams, frames, 224, 224, 3)` uint8 for each.

    Args:
        detector: whose streams and frames are read.
        clips: to read.
        clip_timeout: seconds that reading a clip may take.

    Raises:
        UserError: no clip can be read.
    """
    with closing(_read_clips(detector, clips, clip_timeout)) as decoded:
        found = dict(decoded)
    if not found:
        raise UserError(
            f"none of the run's {clips[0].split} clips can be read (the first would be "
            f"{clips[0].path}): give the --dataset-path of the run"
        )
    return list(found), list(found.values())


def _read_clips(
    detector: Detector, clips: Sequence[Clip], clip_timeout: float
) -> Generator[tuple[Clip, np.ndarray], None, None]:
    decoded_clips = decode_ahead(
        prefetched(clips, lambda clip: clip.path),
        lambda decoders, clip: detector.read_clip(decoders, clip.path, segment=clip.segment),
        detector.cached_frames,
        len(detector.streams),
        AHEAD,
        clip_timeout,
        StageClock(),
    )
    with closing(decoded_clips):
        for clip, decoded in zip(clips, decoded_clips, strict=True):
            if isinstance(decoded, DecodedClip):
                yield clip, decoded.images
            else:
                log.warning("skipping %s: %s", clip.path, decoded.error)
