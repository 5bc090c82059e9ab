"""The rows that hold the features of clips, in several caches at once."""

from collections.abc import Mapping, Sequence

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.features.cache.feature_cache import FeatureCache

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
    contents = caches[0].folder.known_contents((clip.path for clip in clips), assume_unchanged)
    content_of = {
        clip: content for clip, content in zip(clips, contents, strict=True) if content is not None
    }
    return rows_of_contents(content_of, caches)


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
