import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from violence_detection.errors import RunError
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.models.classifier import STANDARDIZED, as_plain_keras
from violence_detection.models.classifier import classifier as build_classifier
from violence_detection.runtime.devices import find_devices, make_strategy
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import (
    ClipFeatures,
    evaluation_batches,
    read_errors,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.losses import make_loss
from violence_detection.training.order import ClipOrder
from violence_detection.training.progressive import GrowPictures, picture_sizes
from violence_detection.training.trainer import Trainer, make_trainer, standardize_on

Store = Callable[[np.ndarray], FeatureRows]

PLAIN = Settings().replace(
    dataset_path=Path("/"),
    epochs=3,
    warmup_epochs=1,
    batch_size=8,
    learning_rate=0.01,
    dropout=0.0,
    clipnorm=0.05,
)

FROM_PIXELS = PLAIN.replace(
    model="flow-gated",
    **{"backbone": "pixels", "feature_layer": "last", "vgg19_weights": "none"},
    pixels=(16, 32),
    streams=("rgb", "flow"),
    batch_size=6,
    augment=("crop", "flip", "colour"),
    learning_rate=0.003,
    l2=0.0,
    clipnorm=1.0,
)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_feature_missing_from_the_sample_stays_bounded(policy: str) -> None:
    random = np.random.default_rng(0)
    features = np.abs(random.standard_normal((20, 6, 16))).astype(np.float32)
    features[..., 5] = 0
    classifier = build_classifier(6, 16, dropout=0.0, l2=0.0, dtype=policy)
    standardize_on(classifier, tf.data.Dataset.from_tensors(features))
    outputs = [classifier.get_layer(name).output for name in STANDARDIZED]
    features[0, 2, 5] = features.std()
    for values in keras.Model(classifier.input, outputs)(features):
        assert np.abs(np.asarray(values, np.float32)).max() < 20
    assert np.isfinite(np.asarray(classifier(features))).all()


Trained = tuple[Trainer, ClipFeatures, dict[str, list[float]]]


def draw_features(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    features = np.abs(random.standard_normal((len(labels), 6, 16))).astype(np.float16)
    features[labels == 1, 2:4] += 0.7
    return features


def draw_frames(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Return dark clips of two streams, the violent ones with a bright stripe that moves."""
    frames = random.integers(0, 60, (len(labels), 4, 2, 32, 32, 3), np.uint8)
    for frame in range(4):
        frames[labels == 1, frame, :, :, 8 * frame : 8 * frame + 8] += 150
    return frames.reshape(len(labels), 4, -1)


def trained(
    settings: Settings,
    stored_features: Store,
    replicas: int = 1,
    policy: str = "float32",
    prepare: Callable[[Trainer], None] = lambda trainer: None,
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray] = draw_features,
) -> Trained:
    """Train on random clips, the violent ones with a bump; validate on the first nine.

    Returns the trainer, the clips of the validation, and the history.
    """
    random, clips = np.random.default_rng(0), 21
    labels = random.integers(0, 2, clips)
    rows = stored_features(draw(random, labels))
    data = ClipFeatures([rows], range(clips), labels, class_factors=(1.5, 0.7))
    validation = data.select(slice(9))
    keras.utils.set_random_seed(settings.devices.seed)
    batch = settings.training.batch_size * settings.training.gradient_accumulation
    steps = steps_per_epoch(clips, batch)
    strategy = make_strategy(find_devices(replicas), settings.training.batch_size)
    with strategy.scope():
        sample = sample_features(data, 8, seed=0, limit=1000)
        validation_steps = steps_per_epoch(len(validation), settings.training.batch_size)
        trainer = make_trainer(settings, sample, steps, validation_steps, policy)
        prepare(trainer)
    with read_errors([data, validation]):
        history = trainer.fit(
            training_batches(
                data, ClipOrder(labels, settings.devices.seed), batch, 0, settings.training.epochs
            ),
            steps_per_epoch=steps,
            epochs=settings.training.epochs,
            validation_data=evaluation_batches(validation, settings.training.batch_size),
            validation_steps=validation_steps,
            callbacks=[GrowPictures(picture_sizes(settings))],
            shuffle=False,
            verbose=0,
        ).history
    return trainer, validation, history


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return what `PLAIN` trains on one replica."""

    def store(features: np.ndarray) -> FeatureRows:
        path = tmp_path_factory.mktemp("plain") / "rows.features"
        path.write_bytes(features.tobytes())
        return FeatureRows(path, features.shape[1:], features.dtype.name)

    return trained(PLAIN, store)


@pytest.mark.parametrize("xla", [False, True])
def test_gradients_are_those_of_plain_keras(xla: bool) -> None:
    """The faster computation has the same parameters and gradients."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    features = np.abs(random.standard_normal((6, 5, 16))).astype(np.float16)
    labels = random.integers(0, 2, (6, 1)).astype(np.float32)
    weights = random.random(6).astype(np.float32)
    classifier = build_classifier(5, 16, dropout=0.0, l2=1e-2)
    standardize_on(classifier, tf.data.Dataset.from_tensors(3 * features + 1))
    loss = make_loss(PLAIN.loss)
    trainer = Trainer(classifier, loss, xla=xla)
    ours, losses, probabilities = trainer.compiled_gradients(features, labels, weights, tf.ones(()))

    plain = as_plain_keras(classifier)
    assert plain.count_params() == classifier.count_params()
    with tf.GradientTape() as tape:
        expected = plain(features, training=True)
        mean = tf.reduce_mean(loss(labels, expected) * weights)
        penalized = mean + tf.add_n(plain.losses)
    gradients = tape.gradient(penalized, [weight.value for weight in plain.trainable_weights])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    assert float(tf.reduce_mean(losses)) == pytest.approx(float(mean), rel=1e-5)
    for own, their in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-3, atol=1e-6)


def test_xla_on_a_cpu_trains_exactly_what_is_trained_without_it(
    plain: Trained, stored_features: Store
) -> None:
    """Compiled is only what is faster so, which is compiled in any case."""
    _, _, compiled = trained(PLAIN.replace(xla=True), stored_features)
    assert compiled == plain[2]


@pytest.mark.slow
@pytest.mark.parametrize(("accumulation", "xla"), [(1, False), (2, "all")])
def test_two_replicas_train_as_one(
    accumulation: int, xla: bool | str, plain: Trained, stored_features: Store
) -> None:
    settings = PLAIN.replace(
        batch_size=8 // accumulation, gradient_accumulation=accumulation, xla=xla
    )
    _, _, two = trained(settings, stored_features, replicas=2)
    for name, values in plain[2].items():
        np.testing.assert_allclose(two[name], values, rtol=2e-4, err_msg=name)


@pytest.mark.slow
def test_network_from_pixels_trains_on_two_replicas_as_on_one(stored_features: Store) -> None:
    """Augmented on the device, at growing sizes; small frames in batches of four."""
    one, two = (
        trained(FROM_PIXELS, stored_features, replicas=count, draw=draw_frames) for count in (1, 2)
    )
    np.testing.assert_allclose(two[2]["loss"], one[2]["loss"], rtol=2e-3)
    for trainer, *_ in (one, two):
        assert keras.ops.convert_to_numpy(trainer.optimizer.iterations) == 1 + 4 + 4


def test_accumulated_batches_are_one_large_batch(plain: Trained, stored_features: Store) -> None:
    small = PLAIN.replace(batch_size=4, gradient_accumulation=2)
    _, _, parts = trained(small, stored_features)
    np.testing.assert_allclose(parts["loss"], plain[2]["loss"], rtol=1e-4)


def test_loss_and_accuracy_are_those_of_the_real_clips(plain: Trained) -> None:
    """The padding of the last batch is ignored: 9 clips in batches of 8."""
    trainer, clips, history = plain
    features, labels, weights = clips.batch(np.arange(len(clips)))
    probabilities = trainer.classifier.predict(features, verbose=0)
    losses = np.asarray(make_loss(PLAIN.loss)(labels, probabilities)) * weights
    assert float(sum(trainer.classifier.losses)) > 0.01  # the L2 penalty is not in it
    assert history["val_loss"][-1] == pytest.approx(losses.mean(), rel=1e-4)
    accuracy = ((probabilities >= 0.5) == labels).mean()
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)


@pytest.mark.slow
def test_several_steps_per_call_equal_single_steps(stored_features: Store) -> None:
    """11 steps per epoch: 4 per call, and 3 in the last one; 5 batches of validation."""

    def at_once(steps: int) -> Callable[[Trainer], None]:
        return lambda trainer: setattr(trainer, "steps_per_execution", steps)

    settings = PLAIN.replace(batch_size=2, head="mean")
    one, _, expected = trained(settings, stored_features, prepare=at_once(1))
    for replicas, tolerance in ((1, 1e-5), (2, 1e-3)):
        four, _, history = trained(settings, stored_features, replicas, prepare=at_once(4))
        for trainer in (one, four):
            assert int(keras.ops.convert_to_numpy(trainer.optimizer.iterations)) == 3 * 11
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, rtol=tolerance, err_msg=name)


def test_row_lost_while_training_is_named(stored_features: Store, tmp_path: Path) -> None:
    def lose_rows(_: Trainer) -> None:
        os.truncate(tmp_path / "rows.features", 20 * 6 * 16 * 2)

    with pytest.raises(RunError, match=r"rows\.features has lost row 20: start again"):
        trained(PLAIN, stored_features, prepare=lose_rows)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_loss_scale_comes_down_after_an_overflow(replicas: int, stored_features: Store) -> None:
    def overflow(trainer: Trainer) -> None:
        trainer.optimizer.dynamic_scale.assign(2.0**22)

    settings = PLAIN.replace(epochs=8, head="mean")
    trainer, _, history = trained(
        settings, stored_features, replicas, policy="mixed_float16", prepare=overflow
    )
    assert keras.ops.convert_to_numpy(trainer.optimizer.dynamic_scale) < 2.0**22
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]
