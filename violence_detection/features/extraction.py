"""From clips to features: decoding beside the network, several clips a batch."""

import contextlib
import errno
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.decode_ahead import decode_ahead
from violence_detection.clips.decoders import DecoderProcesses
from violence_detection.clips.streams import thumbnails
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RESUME, RunError, UserError
from violence_detection.features.cache.feature_cache import THUMBNAIL, FeatureCache
from violence_detection.features.cache.folder import Stamp, file_stamp
from violence_detection.features.cache.lookup import ClipRows, rows_of_contents
from violence_detection.features.network import padded_features
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA
from violence_detection.runtime.progress import Progress
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.settings.constants import UNLABELED, UNREADABLE_LIMIT
from violence_detection.storage.remote_paths import local_copy, prefetched

# Of the disk, not of one file: leaving its clips out would train on what happens to be left.
DISK_FAULTS = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)


@dataclass(frozen=True)
class BadClip:
    """A clip without features, and why."""

    clip: Clip
    reason: str


@dataclass(frozen=True)
class _Decoded:
    clip: Clip
    stamp: Stamp
    content: bytes
    images: dict[int, np.ndarray]  # (frames, height, width, 3) uint8, by the view that lacks it


@dataclass(frozen=True)
class _Missing:
    clip: Clip
    content: bytes | None  # None: the file has not been read for that yet


def extract_features(
    clips: Sequence[Clip],
    caches: Sequence[FeatureCache],
    make_network: Callable[[], Callable[[np.ndarray], np.ndarray]],
    replicas: int,
    clip_timeout: float,
    stop_at_bad_clip: bool = False,
    known_bad: Mapping[str, str] | None = None,
    clock: StageClock | None = None,
    bar: bool = False,
    after_batch: Callable[[Sequence[FeatureCache]], None] = lambda caches: None,
) -> tuple[ClipRows, list[BadClip]]:
    """Compute the features that the caches lack; each clip is decoded once for all of them.

    Args:
        caches: one per view of a clip (stream, flipped or not) that is wanted.
        make_network: called only if there is anything to compute; its result maps
            `(replicas * CLIPS_PER_REPLICA, frames, 224, 224, 3)` uint8 to
            `(…, frames, features)` float32.
        clip_timeout: seconds that decoding a clip may take.
        known_bad: names of clips that are not tried, and why: a run that continues must not find
            other clips readable than when it began.
        clock: counts the time that is spent waiting for frames, and in VGG19.
        bar: show a progress bar; else a line now and then.
        after_batch: called with the caches when a batch's features have been stored.

    Returns:
        The rows of each clip that has features, one in each cache, and the clips that have none.

    Raises:
        UserError: with `stop_at_bad_clip`, at the first clip that cannot be read.
        RunError: features that the number format cannot hold; the disk of the clips is gone.
    """
    known_bad = known_bad or {}
    clock = clock or StageClock()
    bad = [BadClip(clip, known_bad[clip.name]) for clip in clips if clip.name in known_bad]
    clips = [clip for clip in clips if clip.name not in known_bad]
    folder = caches[0].folder
    content_of, missing = _find_missing(clips, caches)
    batches = _Batches(caches, replicas * CLIPS_PER_REPLICA, make_network)
    progress = Progress("features", len(clips), len(content_of), bar=bar)
    ahead = _decode_missing(missing, caches, 2 * batches.size, clip_timeout, clock)
    with progress, contextlib.closing(ahead) as decoded_clips:
        try:
            for decoded in decoded_clips:
                progress.update()
                if isinstance(decoded, BadClip):
                    bad.append(decoded)
                    if stop_at_bad_clip:
                        break
                    continue
                folder.remember_file(decoded.clip.path, decoded.stamp, decoded.content)
                content_of[decoded.clip] = decoded.content
                for _ in batches.add(decoded):
                    after_batch(caches)
            batches.finish()
        finally:
            for cache in caches:
                cache.commit()  # also of a run that is interrupted or fails
    if bad and stop_at_bad_clip:
        raise UserError(
            f"{bad[0].clip.path}: {bad[0].reason} (--on-bad-clip fail; skip leaves such clips "
            "out, zeros keeps them as zeros)"
        )
    return rows_of_contents(content_of, caches), bad


def _find_missing(
    clips: Sequence[Clip], caches: Sequence[FeatureCache]
) -> tuple[dict[Clip, bytes], list[_Missing]]:
    """Return the content of the clips that all caches have, and the clips that one lacks."""
    known = caches[0].folder.known_contents(clip.path for clip in clips)
    complete = np.all([cache.rows_of(known) >= 0 for cache in caches], axis=0)
    content_of = {
        clip: content
        for clip, content, whole in zip(clips, known, complete.tolist(), strict=True)
        if content is not None and whole
    }
    missing = [
        _Missing(clip, content)
        for clip, content in zip(clips, known, strict=True)
        if clip not in content_of
    ]
    return content_of, missing


class _Batches:
    """Decoded clips until there are enough for a batch; one batch for each view.

    Args:
        caches: one per view.
        size: clips of a batch.
        make_network: called when the first batch is to be computed.
    """

    def __init__(
        self,
        caches: Sequence[FeatureCache],
        size: int,
        make_network: Callable[[], Callable[[np.ndarray], np.ndarray]],
    ):
        self.caches = caches
        self.size = size
        self._make_network = make_network
        self._network: Callable[[np.ndarray], np.ndarray] | None = None
        # By content: of two copies in one batch, one is computed.
        self._batches: list[dict[bytes, _Decoded]] = [{} for _ in caches]

    def add(self, decoded: _Decoded) -> Iterator[int]:
        """Add a clip to the batch of each view that lacks it; yield each view that was computed."""
        for view in list(decoded.images):  # a batch that is computed takes its images out
            # Asked again here: a copy may have been decoded before its twin was stored.
            if self.caches[view].row_of(decoded.content) is None:
                self._batches[view].setdefault(decoded.content, decoded)
            if len(self._batches[view]) == self.size:
                self._compute(view)
                yield view

    def finish(self) -> None:
        """Compute what is left."""
        for view, batch in enumerate(self._batches):
            if batch:
                self._compute(view)

    def _compute(self, view: int) -> None:
        """Run the network over a view's batch, store the features and empty the batch."""
        cache, batch = self.caches[view], self._batches[view]
        images = np.stack([decoded.images.pop(view) for decoded in batch.values()])
        if cache.recipe.layer == THUMBNAIL:
            cache.store(batch, thumbnails(images))
            batch.clear()
            return
        self._network = self._network or self._make_network()
        features = padded_features(self._network, images, self.size, cache.recipe.dtype)
        for decoded, values in zip(batch.values(), features, strict=True):
            if not np.isfinite(values).all():
                raise RunError(
                    f"{decoded.clip.path}: its features overflow {cache.recipe.dtype}: run with "
                    "--feature-dtype float32 --no-mixed-precision"
                )
        cache.store(batch, features)
        batch.clear()


def _decode_missing(
    missing: Sequence[_Missing],
    caches: Sequence[FeatureCache],
    ahead: int,
    timeout: float,
    clock: StageClock,
) -> Generator[_Decoded | BadClip, None, None]:
    """Yield the clips in their order, decoded at most `ahead` clips in advance."""
    views = [(cache.recipe.stream, cache.recipe.flipped) for cache in caches]

    def decode(decoders: DecoderProcesses, item: _Missing) -> _Decoded | BadClip:
        clip = item.clip
        try:
            stamp = file_stamp(clip.path)
            with local_copy(clip.path) as path:
                content = item.content or decoders.checksum(path)
                # Those that have it may have it from the same file under another name.
                lacking = [
                    view for view, cache in enumerate(caches) if cache.row_of(content) is None
                ]
                images = (
                    decoders.read_images(path, [views[view] for view in lacking]) if lacking else ()
                )
            return _Decoded(clip, stamp, content, dict(zip(lacking, images, strict=True)))
        except UnreadableClip as error:
            return BadClip(clip, str(error))
        except OSError as error:
            if error.errno in DISK_FAULTS or not clip.path.parent.exists():
                raise RunError(
                    f"{clip.path} cannot be read: {error.strerror}. Is its disk mounted? {RESUME}"
                ) from error
            return BadClip(clip, error.strerror or str(error))

    frames = caches[0].recipe.frames
    coming = prefetched(missing, lambda item: item.clip.path)
    return decode_ahead(coming, decode, frames, len(views), ahead, timeout, clock)


def require_readable(
    bad: Sequence[BadClip], clips: Sequence[Clip], limit: float = UNREADABLE_LIMIT
) -> None:
    """Raise `UserError` if more than a share of a split's clips cannot be read.

    Args:
        bad: the clips that cannot be read; unlabeled ones do not count.
        clips: all of the dataset.
        limit: the share.
    """
    for split in {item.clip.split for item in bad} - {UNLABELED}:
        lost = [item for item in bad if item.clip.split == split]
        total = sum(clip.split == split for clip in clips)
        if len(lost) > limit * total:
            raise UserError(
                f"{len(lost)} of the {total} {split} clips cannot be read, more than {limit:.0%}; "
                f"the first is {lost[0].clip.path}: {lost[0].reason}. "
                "Repair or remove them (training.log lists all)"
            )
