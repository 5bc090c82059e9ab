"""Clips per second of training on cached features: plain `fit`, ours, the matrix products alone."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.timing import side_by_side
from config import Settings
from input_pipeline import ClipFeatures, sample_features, steps_per_epoch, training_batches
from model_architecture import attention_lstm
from training import Trainer, make_loss, make_trainer, standardize_on

ROUNDS = 3
CLIPS = 512
FRAMES, FEATURES = 16, 4096
PROJECTION, UNITS, ATTENTION_UNITS = 192, 192, 64  # attention_lstm's own defaults


def measure_training(folder: Path, batch_size: int = 64) -> dict[str, Any]:
    """Return clips per second in float32 on one replica; the features lie in `folder`."""
    settings = dataclasses.replace(Settings(dataset_path=folder), batch_size=batch_size)
    random = np.random.default_rng(0)
    memory_map = np.memmap(
        folder / "speed.features", np.float16, "w+", shape=(CLIPS, FRAMES, FEATURES)
    )
    for row in memory_map:
        row[:] = random.random(row.shape, dtype=np.float32)
    labels = random.integers(0, 2, CLIPS)
    clips = ClipFeatures(memory_map, range(CLIPS), labels)
    steps = steps_per_epoch(CLIPS, batch_size)
    sample = sample_features(clips, batch_size, settings.seed, 2 * batch_size)

    trainer = make_trainer(settings, sample, steps)
    plain_model, plain_batches = _plain(settings, sample, memory_map, labels)

    def ours() -> None:
        trainer.fit(
            training_batches(clips, batch_size, settings.seed, 0, 1),
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
        )

    def plain() -> None:
        plain_model.fit(plain_batches, shuffle=False, verbose=0)

    ways: dict[str, Callable[[], object]] = {"ours": ours, "plain": plain}
    for way in ways.values():
        way()  # traced before the clock starts
    timings = side_by_side(ways, ROUNDS)
    rate = matrix_product_rate(batch_size)
    limit = CLIPS * matrix_product_operations() / rate
    _require_same_parameters(trainer, plain_model)
    return {
        "batch_size": batch_size,
        "parameters": trainer.classifier.count_params(),
        "clips_per_second": {name: CLIPS / timings.median(name) for name in ways},
        "seconds_per_epoch_of_10000_clips": 10_000 / CLIPS * timings.median("ours"),
        "matrix_products_gflops": rate / 1e9,
        "limit_clips_per_second": CLIPS / limit,
        "ours_over_plain": timings.speedup("ours", "plain"),
        "ours_over_limit": limit / timings.median("ours"),
    }


def _plain(
    settings: Settings, sample: tf.data.Dataset, features: np.ndarray, labels: np.ndarray
) -> tuple[keras.Model, tf.data.Dataset]:
    """Return the same classifier compiled as everyone does it, and its batches from memory."""
    model = attention_lstm(FRAMES, FEATURES, dropout=settings.dropout, l2=settings.l2)
    standardize_on(model, sample)
    loss = make_loss(settings)
    loss.reduction = "sum_over_batch_size"
    model.compile(
        keras.optimizers.Adam(settings.learning_rate, clipnorm=settings.clipnorm),
        loss,
        metrics=["accuracy", keras.metrics.AUC()],
    )
    whole = np.array(features), labels.astype(np.float32)[:, None]
    batches = tf.data.Dataset.from_tensor_slices(whole).shuffle(len(labels))
    return model, batches.batch(settings.batch_size).prefetch(tf.data.AUTOTUNE)


def _require_same_parameters(trainer: Trainer, plain: keras.Model) -> None:
    if trainer.classifier.count_params() != plain.count_params():
        raise AssertionError("the two ways train different models")


def matrix_product_operations() -> int:
    """Return the floating-point operations of a clip's matrix products, forward and backward.

    Each product is done once forward and twice backward, but for the one with the features, whose
    own gradient nobody needs.
    """
    projection = 2 * FEATURES * PROJECTION
    lstm = (PROJECTION + UNITS) * 4 * UNITS
    attention = UNITS * ATTENTION_UNITS + ATTENTION_UNITS
    return 2 * FRAMES * (2 * projection + 3 * (lstm + attention))


def matrix_product_rate(batch_size: int) -> float:
    """Return the operations per second of the largest product, the best of ten."""
    left = tf.random.uniform((batch_size * FRAMES, 2 * FEATURES))
    right = tf.random.uniform((2 * FEATURES, PROJECTION))
    product = tf.function(tf.matmul)
    product(left, right)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        product(left, right).numpy()
        seconds.append(time.perf_counter() - started)
    return 2 * left.shape[0] * left.shape[1] * right.shape[1] / min(seconds)
