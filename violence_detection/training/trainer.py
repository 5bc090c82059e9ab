"""The training step: loss, schedule, optimizer, and what Keras's `fit` does with a batch."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from violence_detection.errors import RunError
from violence_detection.models.classifier import (
    STANDARDIZED,
    STANDARDIZING,
    as_plain_keras,
    copy_weights,
    layers_named,
)
from violence_detection.models.fine_tuning import fine_tuned_weights
from violence_detection.models.networks import build_classifier
from violence_detection.models.vgg19 import load_vgg19_weights
from violence_detection.runtime.xla import compiles_passes
from violence_detection.settings.constants import FINE_TUNED
from violence_detection.settings.schema import Settings
from violence_detection.training.losses import make_loss
from violence_detection.training.multiple_instances import Bags
from violence_detection.training.optimizer import make_optimizer, make_schedule
from violence_detection.training.pixel_augmentation import (
    NUMBERS,
    PixelAugmentation,
    kinds_on_device,
)
from violence_detection.training.progressive import picture_sizes
from violence_detection.training.replica_dropout import ReplicaDropout

STEPS_PER_EXECUTION = 16  # steps per call from Python, which costs a millisecond or two
LEAST_DEVIATION = 0.1  # of a feature, relative to the mean deviation of all features
Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # features, labels, weights
FINE_TUNED_SAMPLE = 2  # batches that features are standardized on, where VGG19 has to run for it
KEPT = "kept_"  # prefix in the file of arrays that are neither weights nor optimizer state


def is_over_workers() -> bool:
    """Return whether the current distribution strategy has several workers."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def standardize_on(classifier: keras.Model, batches: tf.data.Dataset) -> None:
    """Fit the classifier's two standardizing layers to a sample.

    A feature that is (nearly) constant in the sample is divided by a tenth of the features' mean
    deviation, not by its own: many of fc2's values are 0 in most clips, and a nonzero one would be
    multiplied by ten million.

    Args:
        classifier: as built by `models.classifier`; its weights are changed.
        batches: `(clips, frames, features)` batches of training clips.
    """
    for layer in layers_named(classifier, STANDARDIZING):
        inputs = keras.Model(classifier.input, layer.input)
        layer.adapt(batches.map(inputs))
        variance = keras.ops.convert_to_numpy(layer.adapt_variance)
        least = LEAST_DEVIATION * np.sqrt(variance).mean()
        layer.adapt_variance.assign(np.maximum(variance, least**2))
        layer.finalize_state()


class Trainer(keras.Model):
    """The model that `fit` trains: a classifier and its loss, one optimizer step per batch.

    A batch is `(features, labels, weights)`, as `ClipFeatures.in_batches` gives it. A weight is the
    clip's factor in the loss; clips of weight 0 are padding and are ignored. The loss of a batch is
    the mean over the global batch including padding, whatever the number of replicas. The reported
    loss excludes the L2 penalty, which falls whether or not anything is learned and would delay
    early stopping.

    Args:
        classifier: from `(clips, frames, features)` to `(clips, 1)` probabilities.
        loss: gives one value per clip.
        xla: compile each replica's forward and backward pass. The whole step cannot be compiled:
            with two replicas it would access a variable on another device.
        gradient_accumulation: number of parts of a batch that are computed one after the other;
            the gradient is their mean. Keras's own accumulation fails on two replicas.
        steps, validation_steps: batches of an epoch and of a validation.
        augmentation: of frames on the device, of a network from pixels.
        seed: of the augmentation.
        bags: of videos in windows, how these become a batch of clips; clips are left as they are.
    """

    def __init__(
        self,
        classifier: keras.Model,
        loss: keras.losses.Loss,
        xla: bool = False,
        gradient_accumulation: int = 1,
        steps: int = 1,
        validation_steps: int = 1,
        bags: Bags = Bags(),  # noqa: B008  (frozen)
        augmentation: PixelAugmentation | None = None,
        seed: int = 0,
    ):
        super().__init__(name="trainer")
        self.bags = bags
        self.augmentation = augmentation
        self.seed = seed
        self.picture_size = 0  # pixels, in this epoch; 0: as cached
        self.batches_at_once = 1  # of which a step of this epoch is made
        self.kept: dict[str, np.ndarray] = {}  # saved with the weights: losses of clips
        self.steps_of_pass = {"train": steps, "test": validation_steps}
        self.classifier = classifier
        # Built once, as that takes longer than writing it; the weights of an attribute would be
        # the trainer's own.
        self._make_plain = cache(lambda: as_plain_keras(classifier))
        self.clip_loss = loss
        self.gradient_accumulation = gradient_accumulation
        self.mean_loss = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
        self.auc = keras.metrics.AUC(name="auc")
        self.compiled_gradients = (
            tf.function(self.gradients, jit_compile=True) if xla else self.gradients
        )
        # Layers before the first weight have no gradient: they are computed separately, by XLA in
        # one pass instead of ten. On a GPU only on request: XLA needs more of CUDA installed.
        standardized = [layer.output for layer in layers_named(classifier, STANDARDIZED)]
        standardize = keras.Model(classifier.input, standardized)
        self._standardize = tf.function(
            lambda features: tf.nest.flatten(standardize(features)),  # of one, Keras makes no list
            jit_compile=xla or not tf.config.list_logical_devices("GPU"),
        )
        predict = keras.Model(standardized, classifier.output)
        # Pictures of another size are called past Keras's check of their shape.
        usual = standardized[0].shape[1:]
        self._predict = lambda inputs, training: (
            predict if inputs[0].shape[1:] == usual else predict.call
        )(inputs, training=training)
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` reports and resets each epoch."""
        return [self.mean_loss, self.accuracy, self.auc]

    def call(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return `(clips, 1)` float32 probabilities of violence."""
        standardized = self._standardize(self.bags.as_windows(features))
        return self.bags.pooled(self._predict(standardized, training))

    def gradients(
        self,
        features: tf.Tensor,
        labels: tf.Tensor,
        weights: tf.Tensor,
        scale: tf.Tensor,
        random: tf.Tensor | None = None,
        size: int = 0,
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Return this replica's share of the gradients, and each clip's loss and probability.

        Args:
            features: `(clips, frames, features)`.
            labels: `(clips, 1)` float32.
            weights: `(clips,)` float32.
            scale: float32 scalar; the loss is multiplied by it before differentiation.
            random, size: of the augmentation of frames; None: there is none.

        Returns:
            A gradient per trainable weight, weighted losses `(clips,)`, and probabilities
            `(clips, 1)`.
        """
        standardized = self._standardize(self.bags.as_windows(features))
        if self.augmentation and random is not None:
            size = size or standardized[0].shape[2]
            standardized = [self.augmentation(standardized[0], random, size)]
        with tf.GradientTape() as tape:
            alone = self._predict(standardized, training=True)
            probabilities = self.bags.pooled(alone)
            losses = self.clip_loss(labels, probabilities)
            penalty = tf.add_n(self.classifier.losses) if self.classifier.losses else 0.0
            penalized = losses + self.bags.penalties(alone, labels)
            share = tf.reduce_mean(penalized * weights) + penalty
            share *= scale
        gradients = tape.gradient(share, self.classifier.trainable_weights)
        return gradients, losses * weights, probabilities

    def plain_classifier(self) -> keras.Model:
        """Return the classifier as `as_plain_keras` does; the next call updates the same model."""
        plain = self._make_plain()
        copy_weights(self.classifier, plain)
        return plain

    def save_state(self, path: Path) -> None:
        """Write all that resuming needs to an .npz file: weights, optimizer state, loss scale.

        Keras's `save_weights` is not used: HDF5 crashes the process when the disk is full.

        Raises:
            OSError: the file cannot be written.
        """
        variables = self._state()
        values = {name: keras.ops.convert_to_numpy(v) for name, v in variables.items()}
        kept = {KEPT + name: values for name, values in self.kept.items()}
        np.savez(path, allow_pickle=False, **values, **kept)

    def load_state(self, path: Path) -> None:
        """Restore what `save_state` wrote.

        Raises:
            RunError: the file belongs to another model or optimizer.
        """
        variables = self._state()
        with np.load(path, allow_pickle=False) as values:
            kept = [name for name in values.files if name.startswith(KEPT)]
            shapes = {name: values[name].shape for name in values.files if name not in kept}
            if shapes != {name: tuple(variable.shape) for name, variable in variables.items()}:
                raise RunError(
                    f"{path} belongs to another model or version of this program: start over "
                    "with --fresh"
                )
            for name, variable in variables.items():
                variable.assign(values[name])
            self.kept = {name.removeprefix(KEPT): values[name] for name in kept}

    def _state(self) -> dict[str, keras.Variable]:
        variables = [*self.classifier.variables, *self.optimizer.variables]
        return {f"{number:03d}": variable for number, variable in enumerate(variables)}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Everything is built. Keras's own would consume a batch of the data.
        pass

    def make_train_function(self, force: bool = False) -> None:
        """Make the function that `fit` calls for its next steps."""
        if force or self.train_function is None:  # type: ignore[has-type]
            steps = self.steps_of_pass["train"]
            self.train_function = self._steps_at_once(self.train_step, steps, in_training=True)

    def make_test_function(self, force: bool = False) -> None:
        """Make the function that `evaluate` calls for its next steps."""
        if force or self.test_function is None:  # type: ignore[has-type]
            steps = self.steps_of_pass["test"]
            self.test_function = self._steps_at_once(self.test_step, steps, in_training=False)

    def _steps_at_once(
        self, step: Callable[[Any, int], Any], steps_of_pass: int, in_training: bool
    ) -> Callable[[Any], dict[str, Any]]:
        """Return a function that makes `steps_per_execution` steps and returns the metrics.

        The last call of a pass makes the remaining steps. Keras's own function checks before each
        step whether there is more data, which fails on two replicas.
        """
        strategy = self.distribute_strategy
        step = tf.autograph.experimental.do_not_convert(step)
        done = 0

        @cache  # a graph for each size of frames
        def steps_function(at_once: int, rest: int, size: int) -> Callable[..., dict[str, Any]]:
            def make_step(batches: Any, count: int) -> None:
                strategy.run(step, args=([next(batches) for _ in range(count)], size))

            @tf.function
            def make_steps(batches: Any, steps: tf.Tensor) -> dict[str, Any]:
                for _ in tf.range(steps):
                    make_step(batches, at_once)
                if rest:
                    make_step(batches, rest)
                return self.get_metrics_result()

            return make_steps

        def make_next_steps(batches: Any) -> dict[str, Any]:
            nonlocal done
            count = min(self.steps_per_execution, steps_of_pass - done)
            done = (done + count) % steps_of_pass
            at_once, size = (self.batches_at_once, self.picture_size) if in_training else (1, 0)
            steps, rest = divmod(count, at_once)
            return steps_function(at_once, rest, size)(batches, tf.constant(steps))

        return make_next_steps

    def train_step(self, batches: Sequence[Batch], size: int = 0) -> None:
        """Make one optimizer step.

        Args:
            batches: this replica's part of each batch of the step, as `in_batches` gives it.
            size: of the frames, pixels; 0: as cached.
        """
        data = [
            parts[0] if len(parts) == 1 else tf.concat(parts, 0)
            for parts in zip(*batches, strict=True)
        ]
        replica = tf.distribute.get_replica_context()
        parts = self.gradient_accumulation
        scale = self.optimizer.scale_loss(tf.ones(())) / (replica.num_replicas_in_sync * parts)
        gradients = None
        numbers = (
            self._random_numbers(data[0].shape[0], len(batches)) if self.augmentation else None
        )
        for number, part in enumerate(
            zip(*(tf.split(values, parts) for values in data), strict=True)
        ):
            features, labels, weights = part
            more = () if numbers is None else (tf.split(numbers, parts)[number], size)
            added, losses, probabilities = self.compiled_gradients(
                *(features, labels, weights, scale), *more
            )
            pairs = zip(gradients or added, added, strict=True)
            gradients = [total + new for total, new in pairs] if gradients else added
            self._update_metrics(losses, probabilities, labels, weights)
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        self.optimizer.apply_gradients(
            zip(gradients, self.classifier.trainable_weights, strict=True)
        )

    def _random_numbers(self, clips: int, batches: int) -> tf.Tensor:
        """Return `(clips, NUMBERS)` float32 for this replica's clips in this step.

        They are the same for a clip of the whole batch on any number of replicas.
        """
        replica = tf.distribute.get_replica_context()
        step = tf.cast(self.optimizer.iterations, tf.int64)
        # A worker has a share of each part of a batch, see `Share`; a lone one is given batches
        # that are divided by replica.
        runs = batches * (self.gradient_accumulation if is_over_workers() else 1)
        shape = (runs, replica.num_replicas_in_sync, clips // runs, NUMBERS)
        numbers = tf.random.stateless_uniform(shape, tf.stack([self.seed, step]))
        return tf.reshape(numbers[:, replica.replica_id_in_sync_group], (clips, NUMBERS))

    def test_step(self, batches: Sequence[Batch], size: int = 0) -> None:
        """Update loss and metrics with this replica's part of a batch; the size is that cached."""
        features, labels, weights = batches[0]
        probabilities = self.call(features, training=False)
        losses = self.clip_loss(labels, probabilities) * weights
        self._update_metrics(losses, probabilities, labels, weights)

    def _update_metrics(
        self, losses: tf.Tensor, probabilities: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
    ) -> None:
        real = tf.cast(weights > 0, tf.float32)
        labels = tf.round(labels)  # of two mixed clips, the label of the larger share
        self.mean_loss.update_state(losses, sample_weight=real)
        self.accuracy.update_state(labels, probabilities, sample_weight=real)
        self.auc.update_state(labels, probabilities, sample_weight=real)


def make_bags(settings: Settings, frames: int) -> Bags:
    """Return how a batch of videos becomes one of windows.

    Args:
        settings: of --weak; without it, clips are left as they are.
        frames: of a clip, or of all windows of a video.
    """
    weak = settings.weak
    if not weak.weak:
        return Bags()
    windows = frames // settings.features.frames
    return Bags(windows, weak.top_share, weak.sparsity, weak.smoothness)


def make_trainer(
    settings: Settings,
    sample: tf.data.Dataset,
    steps: int,
    validation_steps: int = 1,
    policy: str = "float32",
) -> Trainer:
    """Return a trainer with a new classifier, ready for `fit`; call it in a strategy's scope.

    Args:
        settings: of model, loss, optimizer and schedule.
        sample: training features, `(clips, frames, features)` batches, to standardize on; with
            --weak, of the frames of several windows.
        steps: optimizer steps per epoch.
        validation_steps: batches of a validation.
        policy: Keras dtype policy; "mixed_float16" brings loss scaling.
    """
    bags = make_bags(settings, sample.element_spec.shape[1])
    sample = sample.map(bags.as_windows)
    frames, features = sample.element_spec.shape[1:]
    dropout_layer = ReplicaDropout if is_over_workers() else keras.layers.Dropout
    classifier = build_classifier(settings, frames, features, policy, dropout_layer)
    shares = None
    if (kind := settings.model.fine_tune) != "none":
        load_vgg19_weights(classifier, settings.features.vgg19_weights, FINE_TUNED[kind][-1])
        sample = sample.take(FINE_TUNED_SAMPLE)
        tuned = {id(weight) for weight in fine_tuned_weights(classifier, kind)}
        shares = [
            settings.model.fine_tune_rate if id(weight) in tuned else 1.0
            for weight in classifier.trainable_variables
        ]
    standardize_on(classifier, sample)
    sizes = picture_sizes(settings)
    schedule = make_schedule(
        settings.training.learning_rate,
        sizes.steps(settings.training.warmup_epochs, steps, STEPS_PER_EXECUTION),
        sizes.steps(settings.training.epochs, steps, STEPS_PER_EXECUTION),
        settings.training.schedule,
    )
    optimizer = make_optimizer(
        schedule, settings.training.clipnorm, policy == "mixed_float16", shares
    )
    device_type = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    trainer = Trainer(
        classifier,
        make_loss(settings.loss),
        compiles_passes(settings.devices.xla, device_type),
        settings.training.gradient_accumulation,
        steps,
        validation_steps,
        bags,
        PixelAugmentation(settings.features.streams, kinds_on_device(settings))
        if settings.model.from_pixels
        else None,
        settings.devices.seed,
    )
    trainer.compile(
        optimizer=optimizer,
        jit_compile=False,  # the trainer compiles what can be compiled
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    optimizer.build(classifier.trainable_variables)
    return trainer
