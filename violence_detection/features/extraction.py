"""From clips to features: decoding beside the network, several clips a batch."""

import contextlib
import errno
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from violence_detection.clips.clip import Clip
from violence_detection.clips.decode_ahead import decode_ahead
from violence_detection.clips.decoders import DecoderProcesses
from violence_detection.clips.streams import THUMBNAIL_VALUES, thumbnails
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RESUME, RunError, UserError
from violence_detection.features.cache.feature_cache import THUMBNAIL, FeatureCache, Recipe
from violence_detection.features.cache.folder import Stamp, file_stamp
from violence_detection.features.cache.lookup import ClipRows, rows_of_contents
from violence_detection.models.classifier import feature_size, identify_weights
from violence_detection.runtime.progress import Progress
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.settings.constants import UNLABELED
from violence_detection.settings.schema import Settings
from violence_detection.storage.remote_paths import local_copy, prefetched

# Of the disk, not of one file: leaving its clips out would train on what happens to be left.
DISK_FAULTS = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)
CLIPS_PER_REPLICA = 4  # 64 frames a batch: VGG19 gains nothing from more, and memory is bounded


def stream_recipes(settings: Settings) -> list[Recipe]:
    """Return the recipes of the streams, and behind them those of mirrored clips, if asked for."""
    layer = settings.features.feature_layer
    return [
        Recipe(
            frames=settings.features.frames_in_cache,
            layer=layer,
            weights=identify_weights(settings.features.vgg19_weights, layer),
            features=feature_size(layer),
            dtype=settings.features.feature_dtype,
            stream=stream,
            flipped=flipped,
        )
        for flipped in ((False, True) if "flip" in settings.training.augment else (False,))
        for stream in settings.features.streams
    ]


def stored_recipes(settings: Settings) -> list[Recipe]:
    """Return the recipes of the streams, and last that of thumbnails, if no stream shows clips.

    Copies are found by what clips show, not by how it moves: RGB features, or thumbnails.
    """
    recipes = stream_recipes(settings)
    if "rgb" not in settings.features.streams:
        frames, dtype = settings.features.frames_in_cache, settings.features.feature_dtype
        recipes.append(Recipe(frames, THUMBNAIL, "", THUMBNAIL_VALUES, dtype))
    return recipes


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
    known = folder.known_contents(clip.path for clip in clips)
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
    batch_clips = replicas * CLIPS_PER_REPLICA
    # A batch for each view, by content: of two copies in one batch, one is computed.
    batches: list[dict[bytes, _Decoded]] = [{} for _ in caches]
    network = None
    progress = Progress("features", len(clips), len(content_of), bar=bar)
    ahead = _decode_missing(missing, caches, 2 * batch_clips, clip_timeout, clock)
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
                for view in list(decoded.images):  # a batch that is computed takes its images out
                    # Asked again here: a copy may have been decoded before its twin was stored.
                    if caches[view].row_of(decoded.content) is None:
                        batches[view].setdefault(decoded.content, decoded)
                    if len(batches[view]) == batch_clips:
                        if caches[view].recipe.layer != THUMBNAIL:
                            network = network or make_network()
                        _compute(batches[view], view, batch_clips, network, caches[view])
                        after_batch(caches)
            for view, batch in enumerate(batches):
                if batch:
                    if caches[view].recipe.layer != THUMBNAIL:
                        network = network or make_network()
                    _compute(batch, view, batch_clips, network, caches[view])
        finally:
            for cache in caches:
                cache.commit()  # also of a run that is interrupted or fails
    if bad and stop_at_bad_clip:
        raise UserError(
            f"{bad[0].clip.path}: {bad[0].reason} (--on-bad-clip fail; skip leaves such clips "
            "out, zeros keeps them as zeros)"
        )
    return rows_of_contents(content_of, caches), bad


def _compute(
    batch: dict[bytes, _Decoded],
    view: int,
    batch_clips: int,
    network: Callable[[np.ndarray], np.ndarray] | None,
    cache: FeatureCache,
) -> None:
    """Run the network over a batch, padded to `batch_clips`; store the features and empty it."""
    images = np.stack([decoded.images.pop(view) for decoded in batch.values()])
    if cache.recipe.layer == THUMBNAIL:
        cache.store(batch, thumbnails(images))
        batch.clear()
        return
    assert network is not None
    features = padded_features(network, images, batch_clips, cache.recipe.dtype)
    for decoded, values in zip(batch.values(), features, strict=True):
        if not np.isfinite(values).all():
            raise RunError(
                f"{decoded.clip.path}: its features overflow; "
                "run with --feature-dtype float32 --no-mixed-precision"
            )
    cache.store(batch, features)
    batch.clear()


def padded_features(
    network: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_clips: int, dtype: str
) -> np.ndarray:
    """Run the network over at most `batch_clips` clips, padded: it is given one shape always.

    Args:
        images: `(clips, frames, 224, 224, 3)` uint8.

    Returns:
        `(clips, frames, features)` in `dtype`; infinite where that cannot hold them.
    """
    padding = np.zeros((batch_clips - len(images), *images.shape[1:]), np.uint8)
    features = network(np.concatenate([images, padding]))[: len(images)]
    with np.errstate(over="ignore"):  # told by who asked, with the clip's name
        return features.astype(dtype)


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


def on_replicas(
    strategy: tf.distribute.Strategy, make_model: Callable[[], keras.Model]
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs an extractor over clips, its batch shared by all replicas.

    It maps `(clips, frames, height, width, 3)` uint8 to `(clips, frames, features)` float32; the
    replicas must divide the clips.
    """
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = make_model()

    @tf.function
    def forward(frames: tf.Tensor) -> tf.Tensor:
        return strategy.run(lambda frames: model(frames, training=False), args=(frames,))

    def extract(clips: np.ndarray) -> np.ndarray:
        frames = clips.reshape(-1, *clips.shape[2:])
        parts = np.split(frames, replicas)
        if replicas == 1:
            features = forward(tf.constant(parts[0])).numpy()
        else:
            shared = strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )
            local = strategy.experimental_local_results(forward(shared))
            features = np.concatenate([part.numpy() for part in local])
        return features.reshape(*clips.shape[:2], -1)

    return extract


def too_many_unreadable(bad: Sequence[BadClip], clips: Sequence[Clip], limit: float) -> str | None:
    """Return what to tell the user if more than `limit` of a split cannot be read, else None."""
    for split in {item.clip.split for item in bad} - {UNLABELED}:
        lost = sum(item.clip.split == split for item in bad)
        total = sum(clip.split == split for clip in clips)
        if lost > limit * total:
            first = next(item for item in bad if item.clip.split == split)
            return (
                f"{lost} of the {total} {split} clips cannot be read, more than {limit:.0%}; "
                f"the first is {first.clip.path}: {first.reason}. "
                "Mend or remove them (training.log lists all)"
            )
    return None
