"""The rows that hold the features of clips, in several caches at once."""

from collections.abc import Mapping, Sequence

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.features.cache.feature_cache import FeatureCache
from violence_detection.features.cache.folder import CacheFolder

ClipRows = dict[Clip, tuple[int, ...]]  # of each clip, its row in each of the caches


def known_rows(
    clips: Sequence[Clip], caches: Sequence[FeatureCache], assume_unchanged: bool = False
) -> ClipRows:
    """Return the rows of the clips that have features in all caches; nothing is computed.

    Args:
        clips: to look up.
        caches: one per view of a clip, all of one folder.
        assume_unchanged: do not check whether a clip's file has changed since it was hashed.
    """
    contents = known_contents(clips, caches[0].folder, assume_unchanged)
    content_of = {
        clip: content for clip, content in zip(clips, contents, strict=True) if content is not None
    }
    return rows_of_contents(content_of, caches)


def known_contents(
    clips: Sequence[Clip], folder: CacheFolder, assume_unchanged: bool = False
) -> list[bytes | None]:
    """Return the content keys of clips whose files were hashed before; None for the others.

    Args:
        clips: to look up.
        folder: of the caches.
        assume_unchanged: do not check whether a clip's file has changed since it was hashed.
    """
    videos = {clip.path: None for clip in clips if clip.segment}  # each looked up once
    paths = [*videos, *(clip.path for clip in clips if not clip.segment)]
    contents = folder.known_contents(paths, assume_unchanged)
    of_video = dict(zip(videos, contents, strict=False))
    others = iter(contents[len(videos) :])
    found = ((clip, of_video[clip.path] if clip.segment else next(others)) for clip in clips)
    return [content and clip.content(content) for clip, content in found]


def rows_of_contents(content_of: Mapping[Clip, bytes], caches: Sequence[FeatureCache]) -> ClipRows:
    """Return the rows of the clips that have features in all caches.

    Args:
        content_of: the content hash of each clip.
        caches: one per view of a clip.
    """
    contents = list(content_of.values())
    rows = np.stack([cache.rows_of(contents) for cache in caches], axis=1)
    return {
        clip: tuple(clip_rows)
        for clip, clip_rows in zip(content_of, rows.tolist(), strict=True)
        if min(clip_rows) >= 0
    }
