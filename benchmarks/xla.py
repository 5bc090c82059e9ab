"""CPU time of a training step with parts of it compiled by XLA, over that without.

    python -m benchmarks.xla --batch-size 64 --features 1024

The steps take turns. Compiled are, each alone: standardizing the features, the loss, the L2
penalty, and Adam's update; then forward and backward pass together. CPU time counts the work of
all threads, and so little of what else the machine does.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.command import make_parser, write_report
from benchmarks.tables import Table
from violence_detection.runtime.tensorflow_log import quiet_tensorflow
from violence_detection.settings.schema import Settings
from violence_detection.training.trainer import make_trainer

FRAMES = 16
STEPS_PER_TURN = 3
NOTHING = "nothing"
PARTS = ("standardizing", "loss", "penalty", "optimizer", "both passes")

Step = Callable[[], tf.Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=64, help="clips (default: 64)")
    parser.add_argument("--features", type=int, default=1024, help="of a frame (default: 1024)")
    parser.add_argument("--policy", default="float32", help="of Keras (default: float32)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: 9)")
    flags = parser.parse_args(arguments)
    make = partial(make_step, flags.batch_size, flags.features, flags.policy)
    milliseconds = in_turns({part: make(part) for part in (NOTHING, *PARTS)}, flags.rounds)
    rows = []
    for part, own in milliseconds.items():
        over = statistics.median(a / b for a, b in zip(own, milliseconds[NOTHING], strict=True))
        rows.append([part, f"{statistics.median(own):.1f}", f"{over:.2f}"])
    title = f"CPU time of a step of {flags.batch_size} clips, {flags.features} features, "
    print(Table(title + flags.policy, ["compiled", "ms", "/ nothing"], rows).as_text())
    write_report({"milliseconds": milliseconds} | vars(flags) | {"json": None}, flags.json)
    return 0


def make_step(batch_size: int, features: int, policy: str, compiled: str) -> Step:
    """Return a training step on random clips, one part of which is compiled.

    Args:
        batch_size: clips.
        features: of a frame.
        policy: Keras dtype policy.
        compiled: `NOTHING`, or one of `PARTS`.
    """
    random = np.random.default_rng(0)
    clips = random.random((batch_size, FRAMES, features), np.float32).astype(np.float16)
    settings = Settings().replace(batch_size=batch_size)
    trainer = make_trainer(settings, tf.data.Dataset.from_tensors(clips), 100, policy=policy)
    classifier, weights = trainer.classifier, trainer.classifier.trainable_weights
    standardized = [
        classifier.get_layer(name).output for name in ("standardized", "standardized_change")
    ]
    standardize = keras.Model(classifier.input, standardized)
    predict = keras.Model(standardized, classifier.output)
    labels = tf.constant(random.integers(0, 2, (batch_size, 1)), tf.float32)
    values = tf.constant(clips)

    def part(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True) if name == compiled else function

    seen = part("standardizing", standardize)
    loss = part("loss", lambda true, found: tf.reduce_mean(trainer.clip_loss(true, found)))
    penalty = part("penalty", lambda: tf.add_n(classifier.losses))

    def passes() -> list[tf.Tensor]:
        inputs = seen(values)
        with tf.GradientTape() as tape:
            total = loss(labels, predict(inputs, training=True)) + penalty()
        return tape.gradient(total, [weight.value for weight in weights])

    both = part("both passes", passes)
    update = part(
        "optimizer",
        lambda *gradients: trainer.optimizer.apply_gradients(zip(gradients, weights, strict=True)),
    )

    @tf.function
    def step() -> tf.Tensor:
        update(*both())
        return weights[0].value[0, 0]

    return step


def in_turns(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds of each step, by round."""
    milliseconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-1, rounds):  # the first to warm up
        for name in list(steps)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            for _ in range(STEPS_PER_TURN):
                steps[name]().numpy()
            if number >= 0:
                spent = time.process_time() - started
                milliseconds[name].append(1000 * spent / STEPS_PER_TURN)
    return milliseconds


if __name__ == "__main__":
    sys.exit(main())
