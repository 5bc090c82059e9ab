"""What it costs to watch a training: with TensorBoard, monitor and progress bar, and without.

    python -m benchmarks.watching --json FILE

Both write checkpoints and CSV, as every run does. Features are random, of fc2 and one stream; an
epoch has as many clips as one of a data set of 10,000. The two take turns in every round, and of
each epoch the median over the rounds counts. The share of the CPU time that the watchers take, in
the training thread and in the one that draws, is meaningful even on a machine that is busy with
other work.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, print_report
from benchmarks.timing import in_own_process
from violence_detection.runtime.tensorflow_log import quiet_tensorflow

EPOCHS = 11  # the first is not counted; images and histograms after the 5th, 10th and last
ROUNDS = 5


def main() -> None:
    """Measure, print, and write the file that is asked for."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, metavar="N", help=f"(default: {ROUNDS})"
    )
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, metavar="N", help=f"of a run (default: {EPOCHS})"
    )
    parser.add_argument("--replicas", type=int, metavar="N", help="as for the training command")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = in_own_process(measure, Path(folder), flags.rounds, flags.epochs, flags.replicas)
    print_report(report, flags.json)


def measure(folder: Path, rounds: int, epochs: int, replicas: int | None) -> dict[str, Any]:
    """Return the figures of `measure_watching`, whose module imports TensorFlow."""
    from benchmarks.watched_training import measure_watching

    return measure_watching(folder, rounds, epochs, replicas)


if __name__ == "__main__":
    main()
