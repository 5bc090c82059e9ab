"""From clips to features: decoding in parallel with the network, several clips per batch."""

import contextlib
import errno
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.decode_ahead import decode_ahead
from violence_detection.clips.decoders import DecoderProcesses
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RESUME, RunError, UserError
from violence_detection.features.batches import Batches, Decoded
from violence_detection.features.cache.feature_cache import ClipFacts, FeatureCache, Recipe
from violence_detection.features.cache.lookup import ClipRows, known_contents, rows_of_contents
from violence_detection.features.network import Network
from violence_detection.features.videos import Videos
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA
from violence_detection.runtime.progress import Progress
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.settings.constants import CLASS_NAMES, UNLABELED

log = logging.getLogger(__name__)

CHANCE = 0.05  # of a difference between the classes that is no more than chance
# Faults of the disk, not of one file: skipping would train on an arbitrary rest of the clips.
DISK_FAULTS = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)


@dataclass(frozen=True)
class BadClip:
    """A clip without features, and why."""

    clip: Clip
    reason: str


@dataclass(frozen=True)
class _Missing:
    clip: Clip
    content: bytes | None  # checksum; None: not computed yet


def extract_features(
    clips: Sequence[Clip],
    caches: Sequence[FeatureCache],
    make_network: Callable[[Recipe], Network],
    replicas: int,
    clip_timeout: float,
    stop_at_bad_clip: bool = False,
    known_bad: Mapping[str, str] | None = None,
    clock: StageClock | None = None,
    bar: bool = False,
    after_batch: Callable[[Sequence[FeatureCache]], None] = lambda caches: None,
) -> tuple[ClipRows, list[BadClip]]:
    """Compute the features missing from the caches; each clip is decoded once for all views.

    Batches of a network's images go across clips and views; images that are the same in a clip
    are computed once.

    Args:
        clips: the clips to compute.
        caches: one per view of a clip (a stream, flipped or not).
        make_network: called only if there is anything to compute; the network of a recipe maps
            `(replicas * CLIPS_PER_REPLICA, frames, 224, 224, 3)` uint8 to
            `(…, frames, features)` float32.
        replicas: number of replicas of the network.
        clip_timeout: seconds that decoding a clip may take.
        stop_at_bad_clip: raise an error at the first clip that cannot be read.
        known_bad: names of clips to skip, with the reasons: a resumed run must use the same clips.
        clock: measures the time of waiting for frames and of VGG19.
        bar: show a progress bar instead of occasional lines.
        after_batch: called with the caches when a batch's features have been stored.

    Returns:
        The rows of each clip that has features, one per cache, and the clips without features.

    Raises:
        UserError: with `stop_at_bad_clip`, at the first clip that cannot be read.
        RunError: features overflow their dtype; the disk of the clips is gone.
    """
    known_bad = known_bad or {}
    clock = clock or StageClock()
    bad = [BadClip(clip, known_bad[clip.name]) for clip in clips if clip.name in known_bad]
    clips = [clip for clip in clips if clip.name not in known_bad]
    folder = caches[0].folder
    content_of, missing = _find_missing(clips, caches)
    found = f"{len(content_of):,} of {len(clips):,} found"
    log.info("features: %s, %s to compute", found, f"{len(missing):,}")
    batches = Batches(caches, replicas * CLIPS_PER_REPLICA, make_network)
    # Of what is to be computed: what was found would look like progress.
    progress = Progress(f"features ({found})", len(missing), bar=bar and bool(missing))
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
                decoded.video.remember(decoded.clip.path, folder)
                content_of[decoded.clip] = decoded.content
                for _ in batches.add(decoded):
                    after_batch(caches)
            batches.finish()
        finally:
            for cache in caches:
                cache.commit()  # also if the run is interrupted or fails
    if bad and stop_at_bad_clip:
        raise UserError(
            f"{bad[0].clip.path}: {bad[0].reason} (--on-bad-clip fail; skip leaves such clips "
            "out, zeros uses zeros as their features)"
        )
    return rows_of_contents(content_of, caches), bad


def _find_missing(
    clips: Sequence[Clip], caches: Sequence[FeatureCache]
) -> tuple[dict[Clip, bytes], list[_Missing]]:
    """Return the checksums of clips that are in all caches, and the clips missing from any."""
    known = known_contents(clips, caches[0].folder)
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


def _decode_missing(
    missing: Sequence[_Missing],
    caches: Sequence[FeatureCache],
    ahead: int,
    timeout: float,
    clock: StageClock,
) -> Generator[Decoded | BadClip, None, None]:
    """Yield the clips in order, decoded up to `ahead` clips in advance."""
    views = [(cache.recipe.stream, cache.recipe.flipped) for cache in caches]
    videos = Videos([item.clip for item in missing])

    def decode(decoders: DecoderProcesses, item: _Missing) -> Decoded | BadClip:
        clip = item.clip
        try:
            with videos.opened(clip) as video:
                content = item.content or clip.content(video.content(decoders))
                # A cache may have it from a copy of the file under another name.
                lacking = [
                    view for view, cache in enumerate(caches) if cache.row_of(content) is None
                ]
                if not lacking:
                    return Decoded(clip, video, content, {}, ClipFacts())
                # A stream is computed once for all networks.
                asked = list(dict.fromkeys(views[view] for view in lacking))
                images, info = decoders.read_clip(video.path, asked, clip.segment)
            facts = ClipFacts(info.seconds, info.share)
            found = {view: images[asked.index(views[view])] for view in lacking}
            return Decoded(clip, video, content, found, facts)
        except UnreadableClip as error:
            return BadClip(clip, str(error))
        except OSError as error:
            if error.errno in DISK_FAULTS or not clip.path.parent.exists():
                raise RunError(
                    f"{clip.path} cannot be read: {error.strerror}. Is its disk mounted? {RESUME}"
                ) from error
            return BadClip(clip, error.strerror or str(error))

    frames = caches[0].recipe.frames
    coming = videos.prefetched(missing, lambda item: item.clip)
    return decode_ahead(coming, decode, frames, len(views), ahead, timeout, clock)


def require_readable(bad: Sequence[BadClip], clips: Sequence[Clip], limit: float) -> None:
    """Check that few clips of each split, and of each class in it, cannot be read.

    Args:
        bad: the clips that cannot be read; unlabeled clips are ignored.
        clips: all labelled clips of the dataset.
        limit: the share, 0 to 1.

    Raises:
        UserError: more clips of a split, or of a class of a split, cannot be read.
    """
    lost = [item for item in bad if item.clip.split != UNLABELED]
    for split in sorted({item.clip.split for item in lost}):
        of_split = [item for item in lost if item.clip.split == split]
        known = [clip for clip in clips if clip.split == split]
        _require_few(of_split, len(known), f"{split} clips", limit)
        for label, name in enumerate(CLASS_NAMES):
            of_class = [item for item in of_split if item.clip.label == label]
            if len(of_class) > 1:
                total = sum(clip.label == label for clip in known)
                _require_few(of_class, total, f"{name} {split} clips", limit)


def _require_few(lost: Sequence[BadClip], total: int, what: str, limit: float) -> None:
    if len(lost) > limit * total:
        raise UserError(
            f"{len(lost)} of the {total} {what} cannot be read, more than {limit:.0%} "
            f"(--max-bad-clips); the first is {lost[0].clip.path}: {lost[0].reason}. "
            "Repair or remove them (training.log lists all)"
        )


def log_bias(bad: Sequence[BadClip], clips: Sequence[Clip]) -> None:
    """Warn if the clips of one class fail more often than the other's by more than chance.

    Args:
        bad: the clips that cannot be read; unlabeled clips are ignored.
        clips: all labelled clips of the dataset.
    """
    lost = [item for item in bad if item.clip.split != UNLABELED]
    if not lost:
        return
    from scipy.stats import fisher_exact

    totals = [sum(clip.label == label for clip in clips) for label in (0, 1)]
    failed = [sum(item.clip.label == label for item in lost) for label in (0, 1)]
    table = [failed, [total - count for total, count in zip(totals, failed, strict=True)]]
    if fisher_exact(table).pvalue >= CHANCE:
        return
    by_class = " and ".join(
        f"{count} of {total} {name}"
        for name, count, total in zip(CLASS_NAMES, failed, totals, strict=True)
    )
    log.warning(
        "%s clips cannot be read, more than chance: the rest is a biased\n"
        "sample, and figures on it are not those of all clips",
        by_class,
    )
