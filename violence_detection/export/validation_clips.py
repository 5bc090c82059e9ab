"""The clips that a finished run learned from and was chosen by, and what its detector sees of them.

Features are those of the run's own cache, the rest is computed again from the clips.
"""

import csv
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from violence_detection.clips.dataset import Clip
from violence_detection.errors import UserError
from violence_detection.export.graph import FEATURES
from violence_detection.features.cache.feature_cache import FeatureCache, row_checksum
from violence_detection.features.cache.folder import CacheFolder, is_cache
from violence_detection.features.extraction import decode_ahead
from violence_detection.inference.detector import DecodedClip, Detector
from violence_detection.runs.files import SPLITS_FILE
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.settings.schema import CLASS_NAMES
from violence_detection.storage.files import file_checksum
from violence_detection.storage.object_store import AnyPath, announced, local_copy

log = logging.getLogger(__name__)

AHEAD = 4  # clips that are decoded before they are asked for

Inputs = Mapping[str, np.ndarray]  # of a network, by name; the first dimension is clips


@dataclass(frozen=True)
class Where:
    """Where the features and the clips of a run are."""

    cache_dir: Path
    dataset_path: AnyPath
    clip_timeout: float  # seconds that reading a clip may take


def inputs_of_split(
    detector: Detector, split: str, count: int | None, where: Where, end_to_end: bool
) -> tuple[list[Clip], list[Inputs]]:
    """Return clips of a split, and what a network is given of them, one clip each.

    Args:
        count: clips at most, evenly chosen; None: all.
        end_to_end: what the streams show of a clip, by their names; else its features.

    Raises:
        UserError: there is nothing of any of them.
    """
    clips = spread(clips_of_split(detector.checkpoint_dir, split, where.dataset_path), count)
    if not end_to_end:
        clips, features = features_of_clips(detector, clips, where)
        return clips, [{FEATURES: one[np.newaxis].astype(np.float32)} for one in features]
    clips, images = images_of_clips(detector, clips, where.clip_timeout)
    return clips, [
        {stream: shown[np.newaxis] for stream, shown in zip(detector.streams, one, strict=True)}
        for one in images
    ]


def clips_of_split(checkpoint_dir: Path, split: str, dataset_path: AnyPath) -> list[Clip]:
    """Return the clips that a run had in a split, in its order.

    Args:
        checkpoint_dir: of the run, which has listed them.
        dataset_path: the folder that their names are below, wherever it is now.

    Raises:
        UserError: the list is not there or is not one; the split has no clips.
    """
    path = checkpoint_dir / SPLITS_FILE
    if isinstance(dataset_path, Path):
        dataset_path = dataset_path.expanduser().resolve()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            clips = [
                Clip(
                    dataset_path,
                    row["clip"],
                    CLASS_NAMES.index(row["label"]),
                    split,
                    row["group"] or None,
                )
                for row in csv.DictReader(file)
                if row["split"] == split
            ]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}, the list of the run's clips, cannot be read ({error}): restore it"
        ) from error
    if not clips:
        raise UserError(f"{path} lists no {split} clips")
    return clips


def spread(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """Return `count` clips at most, each class in its share, evenly spread over the list."""
    if count is None or count >= len(clips):
        return list(clips)
    by_class = sorted(range(len(clips)), key=lambda place: clips[place].label)
    taken = {by_class[(2 * turn + 1) * len(clips) // (2 * count)] for turn in range(count)}
    return [clip for place, clip in enumerate(clips) if place in taken]


def features_of_clips(
    detector: Detector, clips: Sequence[Clip], where: Where
) -> tuple[list[Clip], np.ndarray]:
    """Return the clips that features can be had of, and `(clips, frames, values)` features.

    They are in the number format of the cache. What is computed is not put into the cache.

    Raises:
        UserError: there are neither features nor a clip that can be read.
    """
    found = cached_features(detector, clips, where.cache_dir)
    missing = [clip for clip in clips if clip not in found and clip.path.exists()]
    if missing:
        log.info("features of %d clips are not in %s: computed", len(missing), where.cache_dir)
        with closing(_read_clips(detector, missing, where.clip_timeout)) as decoded:
            for clip, images in decoded:
                found[clip] = detector.clip_features(images[np.newaxis])[0]
    usable = [clip for clip in clips if clip in found and np.isfinite(found[clip]).all()]
    if not usable:
        raise UserError(
            f"of the run's {clips[0].split} clips there are neither features in "
            f"{where.cache_dir} nor files that can be read (the first would be {clips[0].path}): "
            "name the --cache-dir or the --dataset-path of the run"
        )
    return usable, np.stack([found[clip] for clip in usable])


def cached_features(
    detector: Detector, clips: Sequence[Clip], cache_dir: Path
) -> dict[Clip, np.ndarray]:
    """Return the features of the clips that a cache has whole, as the detector is given them.

    A clip whose file is gone is known by its path.
    """
    folder = cache_dir.expanduser().absolute()
    if not is_cache(folder):  # or an empty cache would be made
        return {}
    with CacheFolder(folder, lambda holder: log.info("%s has %s: waiting", holder, folder)) as held:
        caches = [FeatureCache(held, recipe) for recipe in detector.recipes]
        known = held.known_contents(clip.path for clip in clips)
        features = {}
        for clip, content in zip(clips, known, strict=True):
            parts = [_whole_row(cache, content or _content(held, clip.path)) for cache in caches]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(caches):
                features[clip] = np.concatenate(whole, axis=1)[detector.frame_indices]
    return features


def _content(folder: CacheFolder, path: AnyPath) -> bytes | None:
    """Return the content hash of a file; of one that is gone, what it was when it was there."""
    try:
        with local_copy(path) as copy:
            return file_checksum(copy)
    except OSError:
        return folder.known_contents([path], unchanged=True)[0]


def _whole_row(cache: FeatureCache, content: bytes | None) -> np.ndarray | None:
    """Return a clip's `(cached frames, features)`; None if the cache has none, or damaged ones."""
    row = None if content is None else cache.row_of(content)
    if row is None:
        return None
    features = cache.rows().read([row])[0]
    return features if row_checksum(features) == cache.checksum_of(row) else None


def images_of_clips(
    detector: Detector, clips: Sequence[Clip], clip_timeout: float
) -> tuple[list[Clip], list[np.ndarray]]:
    """Return the clips that can be read, and `(streams, frames, 224, 224, 3)` uint8 of each.

    Args:
        clip_timeout: seconds that reading a clip may take.

    Raises:
        UserError: none can be read.
    """
    with closing(_read_clips(detector, clips, clip_timeout)) as decoded:
        found = dict(decoded)
    if not found:
        raise UserError(
            f"none of the run's {clips[0].split} clips can be read (the first would be "
            f"{clips[0].path}): name the --dataset-path of the run"
        )
    return list(found), list(found.values())


def _read_clips(
    detector: Detector, clips: Sequence[Clip], clip_timeout: float
) -> Generator[tuple[Clip, np.ndarray], None, None]:
    decoded_clips = decode_ahead(
        announced([clip.path for clip in clips], lambda path: path),
        detector.read_clip,
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
                log.warning("%s is left out: %s", clip.path, decoded.error)
