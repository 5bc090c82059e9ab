"""From cached features to batches: tf.data over the rows of the cache."""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from errors import RunError
from feature_cache import FeatureRows

PREFETCHED_BATCHES = 4
PADDING = -1  # in a batch's places: no clip


def steps_per_epoch(clips: int, batch_size: int) -> int:
    """Return how many batches hold all clips, the last one padded."""
    return -(-clips // batch_size)


def epoch_order(clips: int, seed: int, epoch: int) -> np.ndarray:
    """Return `(clips,)` int64: the order of one epoch, a full shuffle that both decide alone."""
    return np.random.default_rng([seed, epoch]).permutation(clips)


class ClipFeatures:
    """The features, labels and weights of a split's clips; features are read when asked for.

    Args:
        stored: the cache's rows.
        rows: each clip's row; -1 for a clip whose features are zeros.
        labels: 0 or 1 for each clip.
        class_factors: what a clip of label 0 and of label 1 counts in the loss; above 0.
    """

    def __init__(
        self,
        stored: FeatureRows,
        rows: ArrayLike,
        labels: ArrayLike,
        class_factors: tuple[float, float] = (1.0, 1.0),
    ):
        self.stored = stored
        self.rows = np.asarray(rows, np.int64)
        self.labels = np.asarray(labels, np.int64)
        self.weights = np.asarray(class_factors, np.float32)[self.labels]
        self.read_error: RunError | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the features, labels and weights of a batch; a place of -1 gets zeros.

        Args:
            clips: `(batch,)` numbers of clips, or -1.

        Returns:
            `(batch, frames, features)` in the dtype on disk, `(batch, 1)` and `(batch,)` float32.
        """
        labels = np.zeros((len(clips), 1), np.float32)
        weights = np.zeros(len(clips), np.float32)
        real = clips != PADDING
        labels[real, 0] = self.labels[clips[real]]
        weights[real] = self.weights[clips[real]]
        try:
            features = self.stored.read(np.where(real, self.rows[clips], -1).tolist())
        except RunError as error:
            self.read_error = error  # for `read_errors`: TensorFlow makes it unrecognizable
            raise
        return features, labels, weights

    def in_batches(self, orders: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Return the batches of a dataset of orders, each padded to whole batches."""
        steps = steps_per_epoch(len(self), batch_size)
        frames, features = self.stored.row_shape
        dtype = tf.as_dtype(self.stored.dtype)

        def places(order: tf.Tensor) -> tf.data.Dataset:
            padding = [[0, steps * batch_size - len(self)]]
            padded = tf.pad(order, padding, constant_values=PADDING)
            return tf.data.Dataset.from_tensor_slices(tf.reshape(padded, [steps, batch_size]))

        def gather(clips: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            x, y, weights = tf.numpy_function(
                self.batch, [clips], (dtype, tf.float32, tf.float32), stateful=False
            )
            return (
                tf.ensure_shape(x, (batch_size, frames, features)),
                tf.ensure_shape(y, (batch_size, 1)),
                tf.ensure_shape(weights, (batch_size,)),
            )

        batches = orders.flat_map(places).map(gather, num_parallel_calls=2, deterministic=True)
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread holds up the end of `fit` for seconds
        return batches.prefetch(PREFETCHED_BATCHES).with_options(options)


@contextlib.contextmanager
def read_errors(splits: Iterable[ClipFeatures]) -> Iterator[None]:
    """Raise the `RunError` of a row that could not be read, not what TensorFlow makes of it."""
    try:
        yield
    except tf.errors.OpError as error:
        for clips in splits:
            if clips.read_error:
                raise clips.read_error from error
        raise


def training_batches(
    clips: ClipFeatures, batch_size: int, seed: int, first_epoch: int, epochs: int
) -> tf.data.Dataset:
    """Return the batches of epochs `first_epoch` to `epochs - 1`, one epoch after the other.

    Each epoch is every clip once, in `epoch_order`; the end of its last batch is padded with
    clips of weight 0, so that every step has one shape. An epoch has `steps_per_epoch` batches.
    """

    def order(epoch: tf.Tensor) -> tf.Tensor:
        shuffled = tf.numpy_function(
            lambda epoch: epoch_order(len(clips), seed, int(epoch)), [epoch], tf.int64
        )
        return tf.ensure_shape(shuffled, (len(clips),))

    orders = tf.data.Dataset.range(first_epoch, epochs).map(order)
    return clips.in_batches(orders, batch_size)


def evaluation_batches(clips: ClipFeatures, batch_size: int) -> tf.data.Dataset:
    """Return every clip once, in order, the last batch padded as in training."""
    order = np.arange(len(clips), dtype=np.int64)[np.newaxis]
    return clips.in_batches(tf.data.Dataset.from_tensor_slices(order), batch_size)


def sample_features(clips: ClipFeatures, batch_size: int, seed: int, limit: int) -> tf.data.Dataset:
    """Return about `limit` clips' features, in batches, drawn at random and without padding."""
    batches = training_batches(clips, batch_size, seed, 0, 1)
    batches = batches.take(max(1, limit // batch_size))
    return batches.map(lambda features, _, weights: tf.boolean_mask(features, weights > 0))
