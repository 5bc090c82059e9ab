"""Clips per second of training on cached features, for common configurations.

Each is compared with a plain implementation, the default `fit` in float32, and with the time that
its matrix products alone would take.
"""

import dataclasses
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.timing import Workload, in_own_process, side_by_side
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.models.classifier import as_plain_keras
from violence_detection.models.classifier import classifier as build_classifier
from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import (
    ClipFeatures,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.losses import make_loss
from violence_detection.training.order import ClipOrder
from violence_detection.training.trainer import Trainer, make_trainer, standardize_on

ROUNDS = 3
CLIPS = 768
FRAMES, FEATURES = 16, 4096
PIECE_ROUNDS = 20
PASSES = ("standardizing", "optimizer", "reading")  # pieces without products, limited by the memory


@dataclass(frozen=True)
class Configuration:
    """A row of the table."""

    name: str
    batch_size: int
    all_replicas: bool = True
    mixed_precision: bool = True
    xla: bool = False  # bare --xla, compared with the same without it


FLOAT32 = Configuration("one replica", 64, all_replicas=False, mixed_precision=False)
MIXED = Configuration("+ mixed", 64)
CONFIGURATIONS = (
    Configuration("one replica", 16, all_replicas=False, mixed_precision=False),
    FLOAT32,
    Configuration("all replicas", 32, mixed_precision=False),
    MIXED,
    Configuration("float32 + XLA", 64, mixed_precision=False, xla=True),
    Configuration("+ XLA", 64, xla=True),
    Configuration("+ XLA", 96, xla=True),
)


def measure_training(folder: Path, replicas: int | None) -> dict[str, Any]:
    """Return the figures of each configuration, or why there are none.

    Each has a process of its own, for its peak memory, and because two strategies in one process
    mix up TensorFlow's collectives.

    Args:
        folder: for the features.
        replicas: as the flag of that name.
    """
    rows = [
        dataclasses.asdict(configuration)
        | in_own_process(measure_configuration, folder, replicas, configuration)
        for configuration in CONFIGURATIONS
    ]
    # There are no ratios for a row that no device can compute.
    for row in rows:
        row |= {name: row.get(name) for name in ("ours_over_plain", "ours_over_limit")}
    float32, mixed = rows[CONFIGURATIONS.index(FLOAT32)], rows[CONFIGURATIONS.index(MIXED)]
    # The plain implementation is in float32 and on one device in every row.
    mixed["ours_over_plain_float32"] = mixed.get("ours_over_plain")
    return {"float32": float32, "mixed": mixed, "configurations": rows}


def measure_configuration(
    folder: Path, replicas: int | None, configuration: Configuration
) -> dict[str, Any]:
    """Return a configuration's clips per second, ratios, and the times of its pieces."""
    devices = find_devices(replicas)
    if not configuration.all_replicas:
        devices = devices[:1]
    precision = choose_precision(configuration.mixed_precision, devices[0].device_type)
    if configuration.mixed_precision and precision.computation == "float32":
        return {"no_device": precision.reason}
    strategy = make_strategy(devices, configuration.batch_size)
    settings = Settings().replace(dataset_path=folder, batch_size=configuration.batch_size)
    clips = stored_clips(folder)
    order = ClipOrder(clips.labels, settings.devices.seed)
    steps = steps_per_epoch(CLIPS, settings.training.batch_size)
    with strategy.scope():
        sample = sample_features(clips, settings.training.batch_size, settings.devices.seed, 128)
        kinds = (configuration.xla, False)[: 1 + configuration.xla]
        trainers = [
            make_trainer(settings.replace(xla=xla), sample, steps, policy=precision.policy)
            for xla in kinds
        ]
    trainer = trainers[0]

    def seconds_of(trainer: Trainer) -> float:
        # Three epochs of batches, since the third is prefetched during the timed second one.
        batches = training_batches(clips, order, settings.training.batch_size, 0, 3)
        return seconds_of_second_epoch(trainer, batches, steps)

    seconds_of(trainer)  # traced before the clock starts
    memory = peak_memory(devices[0])
    pieces = (
        measure_pieces(trainer, clips, settings.training.batch_size)
        if len(devices) == 1 and not configuration.xla
        else None
    )
    plain_model, plain_batches = make_plain(settings, clips)
    if plain_model.count_params() != trainer.classifier.count_params():
        raise AssertionError("the two implementations train different models")

    def plain() -> float:
        return seconds_of_second_epoch(plain_model, plain_batches)

    plain()
    operations, multiply = matrix_products(precision.computation)
    workloads = {
        "ours": Workload([partial(seconds_of, trainer)], CLIPS),
        "plain": Workload([plain], CLIPS),
        "products": Workload([multiply], operations),
    }
    if configuration.xla:
        seconds_of(trainers[1])
        workloads["without"] = Workload([partial(seconds_of, trainers[1])], CLIPS)
    rates = side_by_side(workloads, ROUNDS)
    products = max(rates.per_second["products"])
    if devices[0].device_type == "GPU":
        products *= len(devices)  # replicas of a CPU share its cores
    limit = products / matrix_product_operations(trainer.classifier)
    milliseconds_of_products = 1000 * settings.training.batch_size / limit
    return {
        "dtype": precision.computation,
        "replicas": len(devices),
        "parameters": trainer.classifier.count_params(),
        "clips_per_second": {name: rates.median(name) for name in ("ours", "plain")},
        "seconds_per_epoch_of_10000_clips": 10_000 / rates.median("ours"),
        "peak_memory_mb": memory / 2**20,
        "matrix_products_gflops": products / 1e9,
        "limit_clips_per_second": limit,
        "ours_over_plain": rates.ratio("ours", "plain"),
        "ours_over_without_xla": rates.ratio("ours", "without") if configuration.xla else None,
        "ours_over_limit": rates.median("ours") / limit,
        "milliseconds_of_a_step": 1000 * settings.training.batch_size / rates.median("ours"),
        "milliseconds_of_its_products": milliseconds_of_products,
        "milliseconds_of_pieces_alone": pieces,
        # Besides its products, a step has to pass over the features and the weights.
        "milliseconds_at_best": pieces
        and milliseconds_of_products + sum(pieces[name] for name in PASSES),
    }


def stored_clips(folder: Path, count: int = CLIPS, features: int = FEATURES) -> ClipFeatures:
    """Return random features, stored in `folder`, with random labels."""
    random = np.random.default_rng(0)
    path = folder / "training.features"
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(count):
                file.write(
                    random.random((FRAMES, features), np.float32).astype(np.float16).tobytes()
                )
    rows = FeatureRows(path, (FRAMES, features), "float16")
    return ClipFeatures([rows], range(count), random.integers(0, 2, count))


def seconds_of_second_epoch(
    model: keras.Model, batches: tf.data.Dataset, steps: int | None = None
) -> float:
    """Return the seconds of the second epoch of `fit`; steps of None: the whole dataset."""
    clock = EpochClock()
    model.fit(batches, epochs=2, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
    return clock.seconds[-1]


class EpochClock(keras.callbacks.Callback):
    """Times each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._started)


def make_plain(settings: Settings, clips: ClipFeatures) -> tuple[keras.Model, tf.data.Dataset]:
    """Return the same classifier of Keras's own layers, compiled by default, and its batches.

    It is in float32 on one device; all features are in memory, shuffled and batched in each epoch.
    """
    features = clips.stored[0].read(clips.rows[:, 0].tolist())
    classifier = build_classifier(
        FRAMES,
        FEATURES,
        dropout=settings.loss.dropout,
        l2=settings.loss.l2,
        head=settings.model.head,
        projection=settings.model.projection,
        units=settings.model.units,
    )
    standardize_on(classifier, tf.data.Dataset.from_tensors(features[:128]))
    model = as_plain_keras(classifier)
    loss = make_loss(settings.loss)
    loss.reduction = "sum_over_batch_size"
    model.compile(
        keras.optimizers.Adam(settings.training.learning_rate, clipnorm=settings.training.clipnorm),
        loss,
        metrics=["accuracy", keras.metrics.AUC()],
    )
    whole = features, clips.labels.astype(np.float32)[:, None]
    batches = tf.data.Dataset.from_tensor_slices(whole).shuffle(len(clips))
    return model, batches.batch(settings.training.batch_size).prefetch(tf.data.AUTOTUNE)


def measure_pieces(trainer: Trainer, clips: ClipFeatures, batch_size: int) -> dict[str, float]:
    """Return the milliseconds of the pieces of a step, each measured alone on ready tensors.

    In a step some of them overlap. Forward and backward includes standardizing and the LSTM.
    """
    lstm = trainer.classifier.get_layer("lstm")
    weights = trainer.classifier.trainable_weights
    features, labels, factors = map(tf.constant, clips.batch(np.arange(batch_size)))
    inputs = tf.random.uniform((batch_size, FRAMES, lstm.input.shape[-1]))
    gradients = [1e-3 * tf.random.uniform(weight.shape) for weight in weights]

    def standardizing() -> list[tf.Tensor]:
        return [values[0, 0, 0] for values in trainer._standardize(features)]

    def forward_and_backward() -> list[tf.Tensor]:
        gradients, _, _ = trainer.compiled_gradients(features, labels, factors, tf.ones(()))
        return [
            tf.reshape(gradient, [-1])[0] for gradient in gradients
        ]  # so that none is optimized away

    def lstm_alone() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(tf.cast(lstm(inputs, training=True), tf.float32))
        wanted = [inputs, *(weight.value for weight in lstm.trainable_weights)]
        return [tf.reduce_sum(values) for values in tape.gradient(total, wanted)]

    def optimizer() -> list[tf.Tensor]:
        trainer.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return [tf.constant(0.0)]

    def reading() -> list[tf.Tensor]:
        clips.batch(np.arange(batch_size))
        return []

    pieces: dict[str, Callable[[], list[tf.Tensor]]] = {
        function.__name__: function if function is reading else tf.function(function)
        for function in (standardizing, lstm_alone, forward_and_backward, optimizer, reading)
    }

    def wait_for(piece: Callable[[], list[tf.Tensor]]) -> None:
        for value in piece():
            value.numpy()

    workloads = {name: Workload([partial(wait_for, piece)]) for name, piece in pieces.items()}
    for piece in pieces.values():
        wait_for(piece)
    rates = side_by_side(workloads, PIECE_ROUNDS)
    return {name: 1000 / rates.median(name) for name in workloads}


def peak_memory(device: tf.config.LogicalDevice) -> float:
    """Return the peak bytes used on a GPU so far; on a CPU, by this process."""
    if device.device_type == "GPU":
        return float(tf.config.experimental.get_memory_info(device.name)["peak"])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matrix_product_operations(classifier: keras.Model) -> int:
    """Return the floating-point operations of a clip's matrix products, forward and backward.

    Each product of a frame is computed once forward and twice backward, except for those with the
    features, which need no gradient.
    """
    operations = 0
    for layer in classifier.layers:
        kernels = [weight for weight in layer.trainable_weights if len(weight.shape) == 2]
        products = 2 if layer.name.startswith("projection") else 3
        per_clip = 1 if layer.name == "logit" else FRAMES
        operations += sum(2 * per_clip * products * math.prod(k.shape) for k in kernels)
    return operations


def matrix_products(dtype: str) -> tuple[int, Callable[[], float]]:
    """Return the operations of some large products, and a function for their fewest seconds.

    The faster of two shapes counts: that of the projection at batch size 64, and a square.
    """
    rows, inner, columns = 64 * FRAMES, 2 * FEATURES, 192
    side = (
        8192 if tf.config.list_logical_devices("GPU") else 2048
    )  # a GPU needs more to be measurable
    operations = 2 * side**3
    times = round(operations / (2 * rows * inner * columns))
    shapes = [(times * rows, inner, columns), (side, side, side)]
    product = tf.function(lambda a, b: tf.matmul(a, b)[0, 0])  # returns one value, not all
    pairs = [
        [tf.cast(tf.random.uniform(shape), dtype) for shape in ((m, k), (k, n))]
        for m, k, n in shapes
    ]
    work = [2 * m * k * n for m, k, n in shapes]

    def multiply() -> float:
        least = math.inf
        for (left, right), own_operations in zip(pairs, work, strict=True):
            for _ in range(5):
                started = time.perf_counter()
                product(left, right).numpy()
                least = min(least, (time.perf_counter() - started) * operations / own_operations)
        return least

    multiply()
    return operations, multiply
