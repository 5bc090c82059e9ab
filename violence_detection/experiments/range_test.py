"""Finding a learning rate: raise it until training diverges, see where the loss falls fastest."""

import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.storage.files import replace_file
from violence_detection.training.trainer import Trainer

KEPT = 0.9  # of the running mean of the loss, at each step of a range test
BLOWN_UP = 4.0  # a range test ends when the running mean is this many times its lowest
HIGHEST = 2.0  # loss, in those of the first tenth, that is told from higher ones
SMOOTHING = 0.05  # deviation of the Gaussian that smooths a range test, in its steps
LEAST_FALL = 4.0  # deviations of the smoothed loss; less is noise


def range_test(
    trainer: Trainer, batches: tf.data.Dataset, steps: int, low: float = 1e-6, high: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Train while the rate grows geometrically; return the rate and the loss of each step.

    Smith, https://arxiv.org/abs/1506.01186. It ends early when the loss blows up: its running mean
    is above four times the lowest, or no number.

    Args:
        trainer: a new one; of no use afterwards.
        batches: at least `steps` of them, as `input_pipeline` makes them.
        steps: optimizer steps.
        low, high: the first and the last rate.

    Returns:
        Two `(steps made,)` float64: rates, and the mean loss of the batch's real clips just before
        the step with that rate. The last loss need not be finite.
    """
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    strategy = trainer.distribute_strategy
    with strategy.scope():
        rate = tf.Variable(low, trainable=False, dtype=tf.float32)
    # Not a function of the optimizer's steps: with loss scaling, it leaves some out.
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
        running = KEPT * running + (1 - KEPT) * losses[-1]
        mean = running / (1 - KEPT ** (step + 1))
        lowest = min(lowest, mean)
        if not math.isfinite(mean) or mean > BLOWN_UP * lowest:
            break
    return rates[: len(losses)], np.array(losses)


def propose_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the rate at which the smoothed loss falls most steeply over the rate's logarithm.

    Only what comes before the lowest smoothed loss counts: after it, training blows up.

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
            "falls: give it more steps, or choose --learning-rate yourself"
        )
    slopes = np.gradient(smoothed[:end], np.log(rates[:end]))
    return float(rates[np.argmin(slopes)])


def _smoothed(losses: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smoothed losses before the first that is no number, and their deviation."""
    finite = losses[: np.argmin(np.append(np.isfinite(losses), False))]
    if not len(finite):
        return np.full(1, np.nan), 0.0
    width = max(1.0, SMOOTHING * len(losses))
    # Of independent noise; told from neighbours, that a trend does not count.
    noise = float(np.median(np.abs(np.diff(finite)))) / 0.954 if len(finite) > 1 else 0.0
    # What blows up would be smeared over the rates before it.
    ceiling = HIGHEST * np.median(finite[: 1 + len(finite) // 10])
    deviation = noise / math.sqrt(2 * math.sqrt(math.pi) * width)
    return gaussian_filter1d(np.minimum(finite, ceiling), width), deviation


def plot_range_test(
    rates: np.ndarray, losses: np.ndarray, proposed: float | None, path: Path
) -> None:
    """Draw the losses of a range test over the rates into a PNG file.

    Args:
        rates, losses: `(steps,)`, as `range_test` returns them.
        proposed: the rate that is marked; None: none is.

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
    # The blown-up end would flatten all else.
    axes.set_ylim(0, min(axes.get_ylim()[1], 1.1 * HIGHEST * smoothed[0]))
    axes.set(xlabel="learning rate", ylabel="training loss", title="Learning-rate range test")
    axes.grid(alpha=0.3)
    axes.legend()
    replace_file(path, lambda partial: figure.savefig(partial, format="png", dpi=120))
