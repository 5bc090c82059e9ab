"""What watching a run costs: training with TensorBoard, monitor and progress bar, and without.

    python -m benchmarks.watching --json FILE

Both write checkpoints and CSV, as every run does. Features are random, of fc2 and one stream; an
epoch has as many clips as one of a 10,000 clip data set. Every way takes its turn in every round;
of each epoch, the median over the rounds counts. Beside it stands the share of the CPU time that
the watchers took, in the training's thread and in the one that draws: it can be told also on a
machine that has other work.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, print_report
from benchmarks.timing import in_own_process
from violence_detection.runtime.tensorflow_log import quiet_tensorflow

EPOCHS = 11  # the first is not counted; images and histograms after the 5th, 10th and last
ROUNDS = 5
CLIPS, VALIDATION_CLIPS = 7000, 1500
ACCEPTABLE = 0.02


def main() -> None:
    """Measure, print, and write the file that is asked for."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N")
    parser.add_argument("--replicas", type=int, metavar="N", help="as of the training command")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = in_own_process(measure, Path(folder), flags.rounds, flags.epochs, flags.replicas)
    print_report(report, flags.json)


def measure(folder: Path, rounds: int, epochs: int, replicas: int | None) -> dict[str, Any]:
    """Return the seconds of both ways, and the share by which watching is slower."""
    import keras
    import numpy as np

    from benchmarks.machine import describe_machine
    from benchmarks.training import stored_clips
    from violence_detection.reporting.tensorboard import TensorBoardLog
    from violence_detection.runs.directory import RunDirectory
    from violence_detection.runtime.devices import (
        choose_precision,
        find_devices,
        gpu_names,
        make_strategy,
    )
    from violence_detection.runtime.hardware import HardwareMonitor, hardware_source
    from violence_detection.runtime.progress import Progress
    from violence_detection.runtime.stage_clock import StageClock
    from violence_detection.settings.schema import Settings
    from violence_detection.training.batches import (
        ClipFeatures,
        Supply,
        evaluation_batches,
        sample_features,
        steps_per_epoch,
        training_batches,
    )
    from violence_detection.training.callbacks import FinishEpoch, ShowProgress, TimeStages
    from violence_detection.training.loop import STANDARDIZE_ON, make_order
    from violence_detection.training.trainer import make_trainer

    class Unwatched:
        """Stands in a monitor's place."""

        def take(self) -> dict[str, float | None]:
            return {}

    class Clock(keras.callbacks.Callback):
        """Notes when each epoch began, and when the last ended with all that belongs to it."""

        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []
            self.cpu_times: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.times.append(time.perf_counter())
            self.cpu_times.append(time.process_time())

        def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
            self.on_epoch_begin(0)

    devices = find_devices(replicas)
    precision = choose_precision(True, devices[0].device_type)
    settings = Settings().replace(dataset_path=folder, epochs=epochs)
    stored = stored_clips(folder)

    def repeated(clips: int) -> ClipFeatures:
        places = np.arange(clips) % len(stored)
        return ClipFeatures(stored.stored, places[:, None], stored.labels[places])

    train, validation = repeated(CLIPS), repeated(VALIDATION_CLIPS)
    order = make_order(settings.training, settings.devices.seed, train)
    steps = steps_per_epoch(CLIPS, settings.training.batch_size)
    validation_steps = steps_per_epoch(VALIDATION_CLIPS, settings.training.batch_size)
    strategy = make_strategy(devices, settings.training.batch_size)
    with strategy.scope():
        sample = sample_features(
            train, settings.training.batch_size, settings.devices.seed, STANDARDIZE_ON
        )
        trainer = make_trainer(settings, sample, steps, validation_steps, precision.policy)

    own: dict[str, list[float]] = {"training thread": [], "drawing thread": []}

    def fit(watched: bool) -> list[float]:
        """Return the seconds of each epoch but the first; add to `own` the shares of CPU time."""
        clock = Clock()
        taken = dict.fromkeys(own, 0.0)

        def timed(call: Callable[..., Any], thread: str) -> Callable[..., Any]:
            # All threads compute for the training's, which waits; the drawing one beside them.
            cpu_time = time.process_time if thread == "training thread" else time.thread_time

            def measured(*arguments: Any, **named: Any) -> Any:
                began = cpu_time()
                result = call(*arguments, **named)
                if len(clock.times) > 1:
                    taken[thread] += cpu_time() - began
                return result

            return measured

        supply = Supply()
        with contextlib.ExitStack() as held:
            checkpoints = Path(held.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            run = held.enter_context(RunDirectory(checkpoints))
            run.restore({})
            monitor: Any = Unwatched()
            callbacks: list[keras.callbacks.Callback] = []
            if watched:
                nowhere = held.enter_context(Path(os.devnull).open("w"))
                held.enter_context(contextlib.redirect_stderr(nowhere))
                source = hardware_source(gpu_names(devices))
                monitor = held.enter_context(HardwareMonitor(source))
                progress = Progress("training", epochs * CLIPS, bar=True)
                callbacks = [
                    TimeStages(run, StageClock(), supply),
                    ShowProgress(progress, CLIPS, settings.training.batch_size),
                ]
            callbacks.append(FinishEpoch(run, {}, CLIPS, monitor))
            if watched:
                board = TensorBoardLog(run, validation, settings.training.batch_size)
                callbacks.append(board)
                setattr(board, "_drawn", timed(board._drawn, "drawing thread"))  # noqa: B010
                for watcher in (*callbacks[:2], board):
                    for name in ("on_epoch_begin", "on_train_batch_end", "on_epoch_end"):
                        setattr(watcher, name, timed(getattr(watcher, name), "training thread"))
            trainer.fit(
                training_batches(
                    train, order, settings.training.batch_size, 0, epochs, supply=supply
                ),
                epochs=epochs,
                steps_per_epoch=steps,
                validation_data=evaluation_batches(validation, settings.training.batch_size),
                validation_steps=validation_steps,
                callbacks=[*callbacks, clock],
                shuffle=False,
                verbose=0,
            )
            for thread in own if watched else ():
                own[thread].append(taken[thread] / (clock.cpu_times[-1] - clock.cpu_times[1]))
            return np.diff(clock.times)[1:].tolist()

    for watched in (False, True):  # traced before the clock starts
        fit(watched)
        print("warmed up", file=sys.stderr, flush=True)
    for shares in own.values():
        shares.clear()
    seconds: dict[bool, list[list[float]]] = {True: [], False: []}
    for number in range(rounds):
        for watched in (True, False) if number % 2 == 0 else (False, True):
            seconds[watched].append(fit(watched))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    of_epoch = {watched: np.median(times, axis=0) for watched, times in seconds.items()}
    slower = float(of_epoch[True].sum() / of_epoch[False].sum() - 1)
    return {
        "machine": describe_machine(devices),
        "clips_per_epoch": CLIPS,
        "seconds_of_each_epoch": {
            "watched": of_epoch[True].tolist(),
            "alone": of_epoch[False].tolist(),
        },
        "slower_by": slower,
        "share_of_cpu_time": {thread: float(np.median(s)) for thread, s in own.items()},
        "acceptable": ACCEPTABLE,
        "met": slower <= ACCEPTABLE,
    }


if __name__ == "__main__":
    main()
