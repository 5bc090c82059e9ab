"""Pretraining of a network from pixels on clips without labels.

`contrast`: of a batch of clips, each in two random parts of its length and its picture, the two
parts of one clip are to be told from all others (Chen et al., https://arxiv.org/abs/2002.05709,
equation 1; in time Feichtenhofer et al., https://arxiv.org/abs/2104.14558). `order`: whether a part
plays forwards, backwards or with its halves exchanged, and at which of two speeds (Wang et al.,
https://arxiv.org/abs/2008.05861).
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from violence_detection.errors import UserError
from violence_detection.features.recipe import views_of_kinds
from violence_detection.models.networks import build_classifier
from violence_detection.models.pretrained import weights_below_logit
from violence_detection.models.video_networks import PREPARED
from violence_detection.runs.files import PRETRAINED
from violence_detection.runtime.logs import native_messages_to
from violence_detection.runtime.progress import Progress
from violence_detection.runtime.wording import count_of
from violence_detection.settings.kinds import kinds_of
from violence_detection.settings.schema import Settings
from violence_detection.settings.training import CONTRAST
from violence_detection.storage.files import replace_file
from violence_detection.training.batches import ClipFeatures, evaluation_batches, read_errors
from violence_detection.training.callbacks import StopOnInterrupt
from violence_detection.training.member import Training
from violence_detection.training.optimizer import make_optimizer, make_schedule
from violence_detection.training.pixel_augmentation import NUMBERS, PixelAugmentation

log = logging.getLogger(__name__)

AUGMENTED = ("crop", "flip", "colour")
LEAST = 2  # clips per replica: one is to be told from another
PROJECTED = 128  # values of a part, in which parts are compared
TEMPERATURE = 0.1  # of the comparison
SHORTEST = 0.5  # part of a clip's length that is looked at
ORDERS, SPEEDS = 3, 2
EPOCH = "epoch"  # in the file: how many have been trained


def pretrain(training: Training, folder: Path) -> Path:
    """Train a network on the clips without labels; return the file of its weights.

    Each finished epoch is kept in a file; a later command goes on from there.

    Args:
        training: of a network from pixels, or of several kinds with one such; --pretrain-epochs,
            --pretrain-task.
        folder: of the file.

    Raises:
        UserError: there are too few clips.
        RunError: a file cannot be read or written.
    """
    settings = training.settings
    number, kind = next(
        (number, kind) for number, kind in enumerate(kinds_of(settings)) if kind.model.from_pixels
    )
    clips = training.splits.of_kind(views_of_kinds(settings)[number]).unlabeled
    path = folder / PRETRAINED
    with (
        native_messages_to(training.machine.log_file),
        training.machine.strategy.scope(),
        training.enough_memory(),
        read_errors([clips]),
    ):
        _train(kind, clips, path, training)
    return path


def _train(kind: Settings, clips: ClipFeatures, path: Path, training: Training) -> None:
    options, seed = kind.training, kind.devices.seed
    if len(clips) < LEAST * training.machine.replicas:
        raise UserError(
            f"--pretrain {options.pretrain}: {count_of(len(clips), 'clip')} to learn from, "
            "too few: add clips that are not those of the test"
        )
    batch = min(options.batch_size, len(clips) - len(clips) % training.machine.replicas)
    steps, epochs = len(clips) // batch, options.pretrain_epochs
    keras.utils.set_random_seed(seed)
    policy = training.machine.precision.policy
    model = Pretrainer(
        build_classifier(kind, clips.frames, clips.values, policy),
        PixelAugmentation(kind.features.streams, AUGMENTED),
        options.pretrain_task,
        seed,
    )
    schedule = make_schedule(
        options.learning_rate, steps * options.warmup_epochs, steps * epochs, options.schedule
    )
    optimizer = make_optimizer(schedule, options.clipnorm, policy == "mixed_float16")
    model.compile(optimizer=optimizer, jit_compile=False)
    model.build_all()
    done = model.load_state(path) if path.exists() else 0
    log.info(
        "pretraining on %s without labels: epochs %d to %d",
        *(count_of(len(clips), "clip"), done + 1, epochs),
    )
    seen = len(clips) * epochs
    progress = Progress("pretraining", seen, len(clips) * done, bar=training.machine.bar)
    with progress:
        for epoch in range(done, epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(clips))
            batches = evaluation_batches(clips.select(order[: steps * batch]), batch)
            stop = StopOnInterrupt()
            history = model.fit(
                batches, steps_per_epoch=steps, callbacks=[stop], verbose=0, shuffle=False
            )
            replace_file(path, partial(model.save_state, epoch=epoch + 1))
            progress.update(len(clips), f"pretraining epoch {epoch + 1}/{epochs}")
            figures = {name: values[-1] for name, values in history.history.items()}
            log.debug("pretraining epoch %d: %s", epoch + 1, figures)
    if done < epochs:
        log.info("pretrained: loss %.3f, accuracy %.3f", figures["loss"], figures["accuracy"])


class Pretrainer(keras.Model):
    """Trains the layers of a classifier below its logit, without labels.

    Args:
        classifier: a network from pixels.
        augmentation: of the parts of clips.
        task: "contrast" or "order".
        seed: of the random parts.
    """

    def __init__(
        self, classifier: keras.Model, augmentation: PixelAugmentation, task: str, seed: int
    ):
        super().__init__(name="pretrainer")
        self.classifier, self.augmentation, self.seed = classifier, augmentation, seed
        prepared = classifier.get_layer(PREPARED).output
        self._prepare = keras.Model(classifier.input, prepared)
        self._embed = keras.Model(prepared, classifier.get_layer("context").output)
        self.task = task
        width = PROJECTED if task == CONTRAST else ORDERS * SPEEDS
        self.hidden = layers.Dense(2 * PROJECTED, activation="relu", dtype="float32", name="hidden")
        self.last = layers.Dense(width, dtype="float32", name="last")
        self.mean_loss = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def build_all(self) -> None:
        """Create all variables, those of the optimizer included."""
        self.last(self.hidden(tf.zeros((1, self._embed.output.shape[-1]))))
        self.built = True
        self.optimizer.build(self.trained)

    @property
    def trained(self) -> list[keras.Variable]:
        """The weights that are trained: without the logit's."""
        heads = [*self.hidden.trainable_weights, *self.last.trainable_weights]
        return [*self._embed.trainable_weights, *heads]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What `fit` resets and reports."""
        return [self.mean_loss, self.accuracy]

    def train_step(self, batch: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Make one step on this replica's part of a batch; its clips are compared among them."""
        images = self._prepare(batch[0])
        clips, replica = images.shape[0] or tf.shape(images)[0], tf.distribute.get_replica_context()
        step = tf.cast(self.optimizer.iterations, tf.int32)
        place = step * replica.num_replicas_in_sync + replica.replica_id_in_sync_group
        shape = (clips, 2, NUMBERS + ORDERS)
        random = tf.random.stateless_uniform(shape, tf.stack([self.seed % 2**31, place]))
        make = self._contrast if self.task == CONTRAST else self._order
        parts, targets = make(images, random)
        with tf.GradientTape() as tape:
            logits = self._logits(self.last(self.hidden(self._embed(parts, training=True))))
            losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
            loss = tf.reduce_mean(losses)
            scaled = self.optimizer.scale_loss(loss) / replica.num_replicas_in_sync
        gradients = tape.gradient(scaled, self.trained)
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        self.optimizer.apply_gradients(zip(gradients, self.trained, strict=True))
        self.mean_loss.update_state(loss)
        self.accuracy.update_state(targets, logits)
        return self.get_metrics_result()

    def _contrast(self, images: tf.Tensor, random: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return two parts of each clip, and of each part where its other one is."""
        clips = tf.shape(images)[0]
        both = tf.concat([random[:, 0], random[:, 1]], 0)
        images = tf.concat([images, images], 0)
        frames = images.shape[1]
        lengths = SHORTEST + (1 - SHORTEST) * both[:, NUMBERS]
        starts = (1 - lengths) * both[:, NUMBERS + 1]
        positions = starts[:, None] + lengths[:, None] * tf.linspace(0.0, 1.0, frames)[None]
        parts = _frames_at(images, positions)
        other = tf.concat([tf.range(clips) + clips, tf.range(clips)], 0)
        return self.augmentation(parts, both[:, :NUMBERS], images.shape[2]), other

    def _order(self, images: tf.Tensor, random: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a part of each clip, and in which order and at which speed it plays.

        At both speeds, half as many frames as a clip has are shown, each twice: otherwise repeated
        frames would give the slower one away.
        """
        numbers, frames = random[:, 0], images.shape[1]
        orders = tf.cast(numbers[:, NUMBERS] * ORDERS, tf.int32)
        speeds = tf.cast(numbers[:, NUMBERS + 1] * SPEEDS, tf.int32)
        shown = max(1, frames // 2)
        steps = tf.cast(tf.range(frames) * shown // frames, tf.float32)[None] / max(1, shown - 1)
        halves = tf.cast(tf.range(frames) * shown // frames, tf.int32)
        exchanged = tf.cast((halves + shown // 2) % shown, tf.float32)[None] / max(1, shown - 1)
        by_order = tf.stack([steps, 1 - steps, exchanged])[:, 0]
        lengths = tf.where(speeds == 0, SHORTEST, 1.0)
        starts = (1 - lengths) * numbers[:, NUMBERS + 2]
        positions = starts[:, None] + lengths[:, None] * tf.gather(by_order, orders)
        parts = self.augmentation(
            _frames_at(images, positions), numbers[:, :NUMBERS], images.shape[2]
        )
        return parts, orders * SPEEDS + speeds

    def _logits(self, outputs: tf.Tensor) -> tf.Tensor:
        if self.task != CONTRAST:
            return outputs
        normalized = tf.math.l2_normalize(outputs, axis=1)
        similar = tf.matmul(normalized, normalized, transpose_b=True) / TEMPERATURE
        return similar - 1e9 * tf.eye(tf.shape(similar)[0])  # a part is not compared with itself

    def save_state(self, path: Path, epoch: int) -> None:
        """Write weights and optimizer to an .npz file.

        Args:
            path: of the file.
            epoch: how many epochs they have been trained.
        """
        values = {
            name: keras.ops.convert_to_numpy(value) for name, value in self._variables().items()
        }
        np.savez(path, allow_pickle=False, **values, **{EPOCH: epoch})

    def load_state(self, path: Path) -> int:
        """Restore what `save_state` wrote; return the number of epochs."""
        with np.load(path, allow_pickle=False) as values:
            for name, variable in self._variables().items():
                variable.assign(values[name])
            return int(values[EPOCH])

    def _variables(self) -> dict[str, keras.Variable]:
        heads = [*self.hidden.variables, *self.last.variables]
        groups = {
            **weights_below_logit(self.classifier),
            **{f"head_{number}": variable for number, variable in enumerate(heads)},
        }
        own = enumerate(self.optimizer.variables)
        return groups | {f"optimizer_{number}": variable for number, variable in own}


def _frames_at(images: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Return the frames nearest to positions, `(clips, frames)` from 0 to 1."""
    indices = tf.cast(tf.round(positions * (images.shape[1] - 1)), tf.int32)
    return tf.gather(images, indices, batch_dims=1)
