"""Learning-rate range test: raise the rate until training diverges, find the steepest loss."""

import logging
import math
from pathlib import Path
from typing import TextIO

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.progress import running_clock
from violence_detection.runtime.wording import count_of
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import replace_file, write_csv
from violence_detection.training.batches import (
    ClipFeatures,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.loop import STANDARDIZE_ON, make_order
from violence_detection.training.losses import class_factors
from violence_detection.training.pixel_augmentation import kinds_in_batches
from violence_detection.training.trainer import Trainer, make_trainer

log = logging.getLogger(__name__)

STEPS = 300
LOSSES, PLOT = "learning_rate.csv", "learning_rate.png"
MOMENTUM = 0.9  # of the running mean of the loss
DIVERGED = 4.0  # running mean of the loss, relative to its minimum, at which the test ends
CEILING = 2.0  # losses are clipped here, relative to the median of the first tenth
SMOOTHING = 0.05  # standard deviation of the Gaussian filter, as a share of the steps
LEAST_FALL = 4.0  # standard deviations of the smoothed loss; less is noise


def range_test(
    trainer: Trainer, batches: tf.data.Dataset, steps: int, low: float = 1e-6, high: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Train while the rate grows geometrically; return the rate and the loss of each step.

    Smith, https://arxiv.org/abs/1506.01186. The test ends early when training diverges: the running
    mean of the loss is above four times its minimum, or not finite.

    Args:
        trainer: a new one; it cannot be used for training afterwards.
        batches: at least `steps` batches, as `training_batches` gives them.
        steps: optimizer steps.
        low, high: the first and the last rate.

    Returns:
        Two `(steps made,)` float64: rates, and the mean loss of the batch's clips, without padding,
        before the step at that rate. The last loss may not be finite.

    Raises:
        Interrupted: by a signal.
    """
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    strategy = trainer.distribute_strategy
    with strategy.scope():
        rate = tf.Variable(low, trainable=False, dtype=tf.float32)
    # Not a schedule by the optimizer's steps: loss scaling skips some.
    trainer.optimizer.learning_rate = rate.read_value
    trainer.steps_per_execution = 1
    trainer.make_train_function(force=True)
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    running, lowest = 0.0, math.inf
    for step in range(steps):
        raise_if_interrupted()
        rate.assign(rates[step])
        trainer.reset_metrics()
        losses.append(float(trainer.train_function(iterator)["loss"]))
        running = MOMENTUM * running + (1 - MOMENTUM) * losses[-1]
        mean = running / (1 - MOMENTUM ** (step + 1))
        lowest = min(lowest, mean)
        if not math.isfinite(mean) or mean > DIVERGED * lowest:
            break
    return rates[: len(losses)], np.array(losses)


def propose_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the rate at which the smoothed loss falls most steeply over the rate's logarithm.

    Only rates up to the minimum of the smoothed loss count: after it, training diverges.

    Args:
        rates, losses: `(steps,)`, as `range_test` returns them.

    Raises:
        UserError: the loss never falls by more than its noise.
    """
    smoothed, noise = _smoothed(losses)
    end = int(np.argmin(smoothed)) + 1
    if not smoothed[0] - smoothed[end - 1] > LEAST_FALL * noise:
        raise UserError(
            f"the range test found no rate from {rates[0]:g} to {rates[-1]:g} at which the loss "
            "falls: set --learning-rate yourself"
        )
    slopes = np.gradient(smoothed[:end], np.log(rates[:end]))
    return float(rates[np.argmin(slopes)])


def _smoothed(losses: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smoothed losses before the first that is not finite, and their deviation."""
    finite = losses[: np.argmin(np.append(np.isfinite(losses), False))]
    if not len(finite):
        return np.full(1, np.nan), 0.0
    width = max(1.0, SMOOTHING * len(losses))
    # Estimated from differences of neighbours, so that a trend is not taken for noise.
    noise = float(np.median(np.abs(np.diff(finite)))) / 0.954 if len(finite) > 1 else 0.0
    # Smoothing would spread a diverged loss over the rates before it.
    ceiling = CEILING * np.median(finite[: 1 + len(finite) // 10])
    deviation = noise / math.sqrt(2 * math.sqrt(math.pi) * width)
    return gaussian_filter1d(np.minimum(finite, ceiling), width), deviation


def plot_range_test(
    rates: np.ndarray, losses: np.ndarray, proposed: float | None, path: Path
) -> None:
    """Plot the losses of a range test over the rates as a PNG file.

    Args:
        rates, losses: `(steps,)`, as `range_test` returns them.
        proposed: the rate to mark; None: no mark.
        path: of the PNG file.

    Raises:
        RunError: the file cannot be written.
    """
    smoothed, _ = _smoothed(losses)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(rates, losses, color="tab:blue", alpha=0.4, linewidth=1, label="each step")
    axes.semilogx(rates[: len(smoothed)], smoothed, color="tab:blue", linewidth=2, label="smoothed")
    if proposed is not None:
        axes.axvline(
            proposed, color="tab:red", linestyle="--", label=f"proposed rate {proposed:.2g}"
        )
    # The diverged end would flatten everything else.
    axes.set_ylim(0, min(axes.get_ylim()[1], 1.1 * CEILING * smoothed[0]))
    axes.set(xlabel="learning rate", ylabel="training loss", title="Learning-rate range test")
    axes.grid(alpha=0.3)
    axes.legend()
    replace_file(path, lambda partial: figure.savefig(partial, format="png", dpi=120))


def find_rate(
    settings: Settings,
    features: ClipFeatures,
    policy: str,
    folder: Path,
    screen: TextIO | None = None,
) -> None:
    """Run a range test on the training clips; log the proposed rate, write the losses and a plot.

    Args:
        settings: of the classifier; hard mining and curriculum are switched off.
        features: of the training clips.
        policy: Keras dtype policy.
        folder: where the files are written.
        screen: shows for how long it has been worked on, see `running_clock`.

    Raises:
        UserError: the loss falls at no rate; losses and plot are written all the same.
        RunError: a file cannot be written.
    """
    plain = settings.replace(hard_mining=False, curriculum=False)
    order = make_order(plain.training, plain.devices.seed, features)
    chosen = features.select(slice(None), class_factors(order.class_counts(), settings.loss))
    batch = settings.training.global_batch
    steps = steps_per_epoch(len(chosen), batch)
    epochs = -(-STEPS // steps)
    with running_clock("raising the learning rate", settings.monitoring.quiet, screen):
        sample = sample_features(
            chosen, settings.training.batch_size, settings.devices.seed, STANDARDIZE_ON
        )
        trainer = make_trainer(settings, sample, steps, policy=policy)
        batches = training_batches(chosen, order, batch, 0, epochs, kinds_in_batches(settings))
        rates, losses = range_test(trainer, batches, STEPS)
    rows = [(f"{rate:.6g}", f"{loss:.6g}") for rate, loss in zip(rates, losses, strict=True)]
    write_csv(folder / LOSSES, ("learning_rate", "loss"), rows)
    plot_range_test(rates, losses, None, folder / PLOT)  # even if no rate is found
    proposed = propose_rate(rates, losses)
    plot_range_test(rates, losses, proposed, folder / PLOT)
    log.info(
        "%s at rates from %.1e to %.1e: %s\nproposed rate: --learning-rate %.2g",
        count_of(len(rates), "step"),
        rates[0],
        rates[-1],
        folder / PLOT,
        proposed,
    )
