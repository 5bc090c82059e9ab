from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from violence_detection.errors import UserError
from violence_detection.experiments.range_test import plot_range_test, propose_rate, range_test
from violence_detection.runtime.devices import find_devices, make_strategy
from violence_detection.settings.schema import Settings
from violence_detection.training.losses import make_loss
from violence_detection.training.trainer import Trainer, make_trainer

CLIPS, BATCH = 64, 16
PLAIN = Settings().replace(
    dataset_path=Path("/"),
    epochs=1,
    warmup_epochs=0,
    batch_size=BATCH,
    dropout=0.0,
    use_focal_loss=False,
    head="mean",
)


def drawn_clips() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and weights of random clips, the violent ones with a bump.

    The last two clips of every batch are padding.
    """
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (CLIPS, 1)).astype(np.float32)
    features = np.abs(random.standard_normal((CLIPS, 6, 16))).astype(np.float16)
    features[labels[:, 0] == 1, 2:4] += 0.7
    weights = np.where(labels[:, 0] == 1, 0.7, 1.5).astype(np.float32)
    weights[np.arange(CLIPS) % BATCH >= BATCH - 2] = 0
    return features, labels, weights


def new_trainer(
    settings: Settings, steps: int = 7, replicas: int = 1, policy: str = "float32"
) -> tuple[Trainer, tf.data.Dataset]:
    keras.utils.set_random_seed(0)
    clips = drawn_clips()
    batches = tf.data.Dataset.from_tensor_slices(clips).batch(BATCH, drop_remainder=True)
    with make_strategy(find_devices(replicas), settings.training.batch_size).scope():
        sample = batches.map(lambda features, *_: features)
        trainer = make_trainer(settings, sample, steps, policy=policy)
    return trainer, batches.repeat()


def test_proposed_rate_learns_better_than_far_ones() -> None:
    rates, losses = range_test(*new_trainer(PLAIN), steps=80)
    proposed = propose_rate(rates, losses)
    reached = []
    for rate in (proposed / 100, proposed, proposed * 1000):
        trainer, batches = new_trainer(PLAIN.replace(learning_rate=rate), steps=30)
        trainer.fit(batches, steps_per_epoch=30, shuffle=False, verbose=0)
        reached.append(trainer.evaluate(batches, steps=4, verbose=0, return_dict=True)["loss"])
    assert reached[1] < 0.7 * min(reached[0], reached[2])


def test_losses_are_those_of_each_step() -> None:
    trainer, batches = new_trainer(PLAIN)
    features, labels, weights = drawn_clips()
    probabilities = trainer.classifier.predict(features, verbose=0)
    losses = np.asarray(make_loss(PLAIN.loss)(labels, probabilities)) * weights
    expected = losses.reshape(4, BATCH)[:, :-2].mean(axis=1)
    rates, found = range_test(trainer, batches, steps=8, low=1e-12, high=1e-10)
    np.testing.assert_allclose(found, np.tile(expected, 2), rtol=1e-4)
    np.testing.assert_allclose(rates[1:] / rates[:-1], 100 ** (1 / 7))
    assert (rates[0], rates[-1]) == pytest.approx((1e-12, 1e-10))


def test_losses_on_two_replicas_are_those_on_one() -> None:
    settings = PLAIN.replace(clipnorm=0.05)
    _, one = range_test(*new_trainer(settings), steps=12, low=1e-4, high=1e-2)
    _, two = range_test(*new_trainer(settings, replicas=2), steps=12, low=1e-4, high=1e-2)
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(two, one, rtol=1e-3)


def test_range_test_ends_when_training_diverges() -> None:
    rates, losses = range_test(*new_trainer(PLAIN), steps=40, low=1e-3, high=1e5)
    assert len(rates) == len(losses) < 40
    assert losses[-1] > 4 * losses.min()


def test_range_test_with_loss_scaling() -> None:
    trainer, batches = new_trainer(PLAIN, policy="mixed_float16")
    rates, losses = range_test(trainer, batches, steps=12, low=1e-4, high=1e-2)
    assert losses[-1] < 0.95 * losses[0]
    assert float(trainer.optimizer.learning_rate) == pytest.approx(rates[-1])


RATES = np.geomspace(1e-6, 1, 100)
FALL = 1 - 0.5 / (1 + np.exp(-3 * (np.log10(RATES) + 3)))  # steepest at 1e-3
NOISE = np.random.default_rng(0).standard_normal(100)


def diverged(losses: np.ndarray) -> np.ndarray:
    """Return losses that go up and down wildly at rates above 0.1, and end in nan."""
    wild = 5 + 4 * np.sin(np.arange(100))
    return np.append(np.where(RATES > 0.1, wild, losses)[:-1], np.nan)


@pytest.mark.parametrize(
    "losses",
    [
        *(FALL, 100 * FALL, FALL + 0.03 * NOISE),
        *(diverged(FALL), diverged(FALL + 0.03 * NOISE), FALL + 30 * RATES),
    ],
)
def test_proposed_rate_is_where_the_loss_falls_most_steeply(losses: np.ndarray) -> None:
    proposed = propose_rate(RATES, losses)
    assert type(proposed) is float
    assert 4e-4 < proposed < 2.5e-3


@pytest.mark.parametrize(
    "losses",
    [
        *(np.ones(100), 1 + 0.1 * NOISE, 1 + RATES, diverged(np.ones(100)), np.full(100, np.nan)),
        *(np.append(np.ones(99), np.nan), np.append(1, np.full(99, np.nan))),
    ],
)
def test_loss_that_never_falls_is_reported(losses: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"from 1e-06 to 1.*--learning-rate"):
        propose_rate(RATES, losses)


@pytest.mark.parametrize("proposed", [1e-3, None])
def test_plot_is_an_image(proposed: float | None, tmp_path: Path) -> None:
    path = tmp_path / "range_test.png"
    plot_range_test(RATES, diverged(FALL + 0.03 * NOISE), proposed, path)
    image = cv2.imread(str(path))
    reddish = (image[..., 2] > 150) & (image[..., :2] < 90).all(axis=-1)
    assert reddish.any() == (proposed is not None)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_losses_that_are_not_finite_are_plotted(tmp_path: Path) -> None:
    plot_range_test(RATES[:3], np.array([np.nan, np.inf, np.nan]), None, tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None
