"""From cached features to batches: tf.data over the rows of the cache."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from violence_detection.errors import RunError
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.runtime.worker import Worker
from violence_detection.settings.constants import OF_WHOLE_BATCHES
from violence_detection.training.augmentation import augment
from violence_detection.training.order import ClipOrder

PREFETCHED_BATCHES = 4
READERS = 2  # batches read in parallel
PADDING = -1  # the index of no clip


def steps_per_epoch(clips: int, batch_size: int) -> int:
    """Return the number of batches that cover all clips, the last one padded."""
    return -(-clips // batch_size)


@dataclass(frozen=True)
class Share:
    """Which clips of every batch a worker computes.

    Each replica computes the same clips as with one worker that has all replicas.
    """

    worker: Worker
    replicas: int  # of this worker; the same number for all workers
    parts: int = 1  # gradient accumulation: parts of a batch, each computed by all replicas

    def indices(self, batch_size: int) -> np.ndarray:
        """Return `(replicas, clips)` int64 indices into a batch, a row per replica."""
        first = self.worker.number * self.replicas
        by_replica = np.arange(batch_size).reshape(
            self.parts, self.worker.count * self.replicas, -1
        )
        own = by_replica[:, first : first + self.replicas]
        return own.swapaxes(0, 1).reshape(self.replicas, -1)


class Supply:
    """Measures whether batches are read as fast as they are used."""

    def __init__(self) -> None:
        self.batches = 0  # total number
        self.started = 0  # batches that have been or are being read
        self.reset()

    def reset(self) -> None:
        """Restart the measurement."""
        self._observations = self._starved = 0

    def observe(self, used: int) -> None:
        """Record whether a batch is ready after `used` batches have been used."""
        if used + READERS + PREFETCHED_BATCHES <= self.batches:  # else no more are to be read
            self._observations += 1
            # Not ready: those being read, and one that may just have been finished.
            self._starved += self.started - used <= READERS + 1

    @property
    def starved_share(self) -> float:
        """The share of observations, 0 to 1, in which no batch was ready."""
        return self._starved / max(1, self._observations)


class ClipFeatures:
    """The features, labels and weights of a split's clips; features are read on demand.

    Args:
        stored: the stored rows of each view: the streams, then the same streams of the mirrored
            clips, if there are any.
        rows: `(clips, views)` integers: each clip's row in each view; -1 for features of zeros.
        labels: `(clips,)`, 0 or 1.
        class_factors: loss weights of nonviolent (0) and violent (1) clips; above 0.
        frames: number of frames used of those in the cache; None: all.
        streams: number of views that are not mirrored; None: all.
        groups: `(clips,)` numbers of the clips' groups, from 0; None: each is its own.
    """

    bag = 1  # windows of a clip in a batch

    def __init__(
        self,
        stored: Sequence[FeatureRows],
        rows: ArrayLike,
        labels: ArrayLike,
        class_factors: tuple[float, float] = (1.0, 1.0),
        frames: int | None = None,
        streams: int | None = None,
        groups: ArrayLike | None = None,
    ):
        self.stored = tuple(stored)
        self.streams = streams or len(self.stored)
        self.rows = np.asarray(rows, np.int64).reshape(-1, len(self.stored))
        self.labels = np.asarray(labels, np.int64)
        self.groups = np.arange(len(self.labels)) if groups is None else np.asarray(groups, int)
        self.class_factors = class_factors
        self.weights = np.asarray(class_factors, np.float32)[self.labels]
        self.cached_frames = self.stored[0].row_shape[0]
        self.frames = frames or self.cached_frames
        self.values = sum(stored.row_shape[1] for stored in self.stored[: self.streams])
        self.read_error: RunError | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(
        self,
        indices: Sequence[int] | np.ndarray | slice,
        class_factors: tuple[float, float] | None = None,
    ) -> Self:
        """Return the clips at some indices, with other class factors if these are given."""
        chosen = {name: values[indices] for name, values in self._by_clip().items()}
        return self._with(class_factors=class_factors or self.class_factors, **chosen)

    def followed_by(self, other: Self) -> Self:
        """Return these clips and, after them, others of the same caches, without class factors."""
        theirs = other._by_clip()
        return self._with(
            **{
                name: np.concatenate([values, theirs[name]])
                for name, values in self._by_clip().items()
            }
        )

    def of_views(self, views: Sequence[int], streams: int) -> "ClipFeatures":
        """Return the same clips in some of the views.

        Args:
            views: indices of the streams, then of the same streams of the mirrored clips.
            streams: number of views that are not mirrored.
        """
        chosen = list(views)
        return ClipFeatures(
            [self.stored[view] for view in chosen],
            *(self.rows[:, chosen], self.labels, self.class_factors),
            frames=self.frames,
            streams=streams,
            groups=self.groups,
        )

    def part_of(self, views: Sequence[int]) -> slice:
        """Return where the values of successive views are among those of a frame."""
        ends = np.cumsum([0, *(stored.row_shape[1] for stored in self.stored)])
        return slice(int(ends[views[0]]), int(ends[views[-1] + 1]))

    def _by_clip(self) -> dict[str, np.ndarray]:
        """Return the arguments of the class that have an element per clip."""
        return {"rows": self.rows, "labels": self.labels, "groups": self.groups}

    def _with(self, **arguments: Any) -> Self:
        """Return other clips of the same caches; the arguments are those of the class."""
        return type(self)(self.stored, frames=self.frames, streams=self.streams, **arguments)

    def draws(self, seed: Sequence[int], batch_size: int) -> np.ndarray | None:
        """Return what a batch is drawn by, a row per clip; None: it is the same each time."""
        return None

    def predicted_alone(self) -> "ClipFeatures":
        """Return what a classifier predicts one by one: the clips, or the windows of videos."""
        return self

    def pooled(self, predicted: np.ndarray) -> np.ndarray:
        """Return `(clips,)` probabilities from those that are `predicted_alone`."""
        return predicted

    def batch(
        self,
        clips: np.ndarray,
        mirrored: np.ndarray | None = None,
        drawn: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the features, labels and weights of a batch; an index of -1 gives zeros.

        Args:
            clips: `(batch,)` int64 indices of clips, or -1.
            mirrored: `(batch,)` bool: which clips are mirrored; None: none.
            drawn: the rows of `draws` for these clips; None: nothing is drawn.

        Returns:
            `(batch, cached frames, features)` in the dtype on disk, the streams' features
            concatenated; labels `(batch, 1)` and weights `(batch,)`, both float32.

        Raises:
            RunError: a row is missing or cannot be read.
        """
        labels = np.zeros((len(clips), 1), np.float32)
        weights = np.zeros(len(clips), np.float32)
        real = clips != PADDING
        labels[real, 0] = self.labels[clips[real]]
        weights[real] = self.weights[clips[real]]
        rows = self._rows_of(clips, drawn)
        if mirrored is not None:
            mirrored = np.repeat(mirrored, self.bag)
        try:
            parts = [self._read(stream, rows, mirrored) for stream in range(self.streams)]
        except RunError as error:
            self.read_error = error  # for `read_errors`: TensorFlow wraps it beyond recognition
            raise
        features = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return features.reshape(len(clips), self.cached_frames, -1), labels, weights

    def _rows_of(self, clips: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        """Return `(batch, views)` rows of a batch; of videos, `(batch x windows, views)`."""
        return np.where((clips != PADDING)[:, None], self.rows[clips], -1)

    def _read(self, stream: int, rows: np.ndarray, mirrored: np.ndarray | None) -> np.ndarray:
        features = self.stored[stream].read(
            rows[:, stream].tolist()
            if mirrored is None
            else np.where(mirrored, -1, rows[:, stream]).tolist()
        )
        if mirrored is not None and mirrored.any():
            other = self.streams + stream
            features[mirrored] = self.stored[other].read(rows[mirrored, other].tolist())
        return features

    def in_batches(
        self,
        orders: tf.data.Dataset,
        batch_size: int,
        augmentations: Sequence[str] = (),
        seed: int = 0,
        supply: Supply | None = None,
        share: Share | None = None,
        in_training: bool = False,
    ) -> tf.data.Dataset:
        """Return the batches of a dataset of `(epoch, order)`, each order padded to whole batches.

        Without augmentations, evenly spaced frames of those in the cache are used.

        Args:
            orders: pairs of int64 scalars and `(clips,)` int64 indices.
            batch_size: clips per batch, of all workers together.
            augmentations: names from `AUGMENTATIONS`.
            seed: of the augmentations.
            supply: records which batches have been started.
            share: of several workers, the part that this one reads: one batch for each of its
                replicas in turn. None: all.
            in_training: draw what differs each time.

        Returns:
            `(features, labels, weights)` batches: `(clips, frames, features)` in the dtype on
            disk, `(clips, 1)` and `(clips,)` float32.
        """
        supply = supply or Supply()
        own = np.arange(batch_size) if share is None else share.indices(batch_size).ravel()
        # Indices of the clips that remain after augmentation, where others are read for it.
        kept = None
        if OF_WHOLE_BATCHES & set(augmentations) and len(own) < batch_size:
            own, kept = np.arange(batch_size), own
        steps = steps_per_epoch(len(self), batch_size)
        dtype = tf.as_dtype(np.result_type(*(each.dtype for each in self.stored[: self.streams])))

        def padded_batches(epoch: tf.Tensor, order: tf.Tensor) -> tf.data.Dataset:
            padding = [[0, steps * batch_size - len(self)]]
            padded = tf.pad(order, padding, constant_values=PADDING)
            numbers = epoch * steps + tf.range(steps, dtype=tf.int64)
            batches = tf.reshape(padded, [steps, batch_size])
            if len(own) < batch_size:
                batches = tf.gather(batches, own, axis=1)
            return tf.data.Dataset.from_tensor_slices((numbers, batches))

        def read(step: int, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            supply.started = max(supply.started, int(step) + 1)
            mirrored = None
            if "flip" in augmentations:
                mirrored = np.random.default_rng([seed, step]).random(batch_size)[own] < 0.5
            drawn = self.draws([seed, step], batch_size) if in_training else None
            return self.batch(clips, mirrored, None if drawn is None else drawn[own])

        def gather(step: tf.Tensor, clips: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            x, y, weights = tf.numpy_function(
                read, [step, clips], (dtype, tf.float32, tf.float32), stateful=False
            )
            x = tf.ensure_shape(x, (len(own), self.cached_frames, self.values))
            y = tf.ensure_shape(y, (len(own), 1))
            weights = tf.ensure_shape(weights, (len(own),))
            if self.frames == self.cached_frames and not set(augmentations) - {"flip"}:
                return x, y, weights
            random = tf.stack([tf.constant(seed, tf.int64), step])
            part = (batch_size, own) if len(own) < batch_size else None
            batch = augment(x, y, weights, random, self.frames, augmentations, part)
            return batch if kept is None else tuple(tf.gather(each, kept) for each in batch)

        batches = orders.flat_map(padded_batches).map(
            gather, num_parallel_calls=READERS, deterministic=True
        )
        if share is not None and share.replicas > 1:
            batches = batches.flat_map(
                lambda *batch: tf.data.Dataset.from_tensor_slices(
                    tuple(tf.stack(tf.split(each, share.replicas)) for each in batch)
                )
            )
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread delays the end of `fit` by seconds
        return batches.prefetch(PREFETCHED_BATCHES).with_options(options)


@contextlib.contextmanager
def read_errors(splits: Iterable[ClipFeatures]) -> Iterator[None]:
    """Raise the `RunError` of a row that could not be read instead of TensorFlow's error."""
    try:
        yield
    except tf.errors.OpError as error:
        for clips in splits:
            if clips.read_error:
                raise clips.read_error from error
        raise


def training_batches(
    clips: ClipFeatures,
    order: ClipOrder,
    batch_size: int,
    first_epoch: int,
    epochs: int,
    augmentations: Sequence[str] = (),
    supply: Supply | None = None,
    share: Share | None = None,
) -> tf.data.Dataset:
    """Return the batches of epochs `first_epoch` to `epochs - 1`, one epoch after the other.

    An epoch has `steps_per_epoch` batches; the last one is padded with clips of weight 0, so that
    all steps have the same shape.

    Args:
        clips: the training clips.
        order: the order of the clips in each epoch.
        batch_size: clips per optimizer step, of all workers together.
        first_epoch: the first epoch, counted from 0.
        epochs: the epoch to stop before.
        augmentations: names from `AUGMENTATIONS`.
        supply: measures whether batches are read fast enough.
        share: of several workers, the part that this one reads; None: all.

    Returns:
        Batches as `ClipFeatures.in_batches` gives them.
    """

    def epoch_and_order(epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        indices = tf.numpy_function(
            lambda epoch: order.of_epoch(int(epoch)), [epoch], tf.int64, stateful=False
        )
        return epoch, tf.ensure_shape(indices, (len(clips),))

    orders = tf.data.Dataset.range(first_epoch, epochs).map(epoch_and_order)
    if supply:
        supply.batches = epochs * steps_per_epoch(len(clips), batch_size)
    return clips.in_batches(
        orders, batch_size, augmentations, order.seed, supply, share, in_training=True
    )


def evaluation_batches(
    clips: ClipFeatures, batch_size: int, share: Share | None = None
) -> tf.data.Dataset:
    """Return batches of every clip once, in order, the last one padded as in training."""
    order = np.arange(len(clips), dtype=np.int64)[np.newaxis]
    orders = tf.data.Dataset.from_tensor_slices((np.zeros(1, np.int64), order))
    return clips.in_batches(orders, batch_size, share=share)


def for_workers(batches: tf.data.Dataset, strategy: tf.distribute.Strategy) -> tf.data.Dataset:
    """Return this worker's share as the dataset for `fit` with a strategy of several workers.

    It is endless: otherwise the workers would agree before each step whether there is more data.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    endless = batches.repeat().with_options(options)
    return strategy.distribute_datasets_from_function(lambda context: endless)


def sample_features(clips: ClipFeatures, batch_size: int, seed: int, limit: int) -> tf.data.Dataset:
    """Return `(clips, frames, features)` batches of about `limit` random clips, not padded."""
    batches = training_batches(clips, ClipOrder(clips.labels, seed), batch_size, 0, 1)
    batches = batches.take(max(1, limit // (batch_size * clips.bag)))
    return batches.map(lambda features, _, weights: tf.boolean_mask(features, weights > 0))
