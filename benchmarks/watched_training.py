"""A training that is run again and again, with TensorBoard, monitor and progress bar or without."""

import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from violence_detection.training.order import ClipOrder
from violence_detection.training.trainer import Trainer, make_trainer

CLIPS, VALIDATION_CLIPS = 7000, 1500
TRAINING_THREAD, DRAWING_THREAD = "training thread", "drawing thread"
ACCEPTABLE = 0.02  # by which watching may slow an epoch down

Shares = dict[str, float]  # of the CPU time that watchers take, by thread


class NoMonitor(HardwareMonitor):
    """A monitor that reads nothing."""

    def __init__(self) -> None:
        pass

    def take(self) -> dict[str, float | None]:
        """Return no readings."""
        return {}


class EpochTimes(keras.callbacks.Callback):
    """Records when each epoch began, and when the last one ended with all that belongs to it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the beginning of an epoch."""
        self.seconds.append(time.perf_counter())
        self.cpu_seconds.append(time.process_time())

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Record the end of the last epoch."""
        self.on_epoch_begin(0)


class WatcherTimes:
    """The CPU seconds that calls of watchers take after the first epoch, by thread."""

    def __init__(self, epochs: EpochTimes):
        self.epochs = epochs
        self.cpu_seconds = {TRAINING_THREAD: 0.0, DRAWING_THREAD: 0.0}

    def measure(self, watcher: keras.callbacks.Callback, method: str, thread: str) -> None:
        """Replace a method of a watcher by one that is measured."""
        call = getattr(watcher, method)
        # The training thread waits for those that compute for it; the drawing thread runs beside.
        cpu_time = time.process_time if thread == TRAINING_THREAD else time.thread_time

        def measured(*arguments: Any, **named: Any) -> Any:
            began = cpu_time()
            result = call(*arguments, **named)
            if len(self.epochs.seconds) > 1:
                self.cpu_seconds[thread] += cpu_time() - began
            return result

        setattr(watcher, method, measured)

    def shares(self) -> Shares:
        """Return the shares of the process's CPU time after the first epoch."""
        total = self.epochs.cpu_seconds[-1] - self.epochs.cpu_seconds[1]
        return {thread: seconds / total for thread, seconds in self.cpu_seconds.items()}


@dataclass(frozen=True)
class Training:
    """What every run of the training has in common."""

    trainer: Trainer
    train: ClipFeatures
    validation: ClipFeatures
    order: ClipOrder
    batch_size: int
    epochs: int
    gpus: list[str]

    def run(self, folder: Path, watched: bool) -> tuple[list[float], Shares]:
        """Train once more, the weights going on from where they are.

        Args:
            folder: for the checkpoints, which are removed afterwards.
            watched: whether with TensorBoard, monitor and progress bar.

        Returns:
            The seconds of each epoch but the first, and the watchers' shares of the CPU time.
        """
        times, supply = EpochTimes(), Supply()
        watcher_times = WatcherTimes(times)
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
            run = stack.enter_context(RunDirectory(Path(checkpoints)))
            run.restore({})
            if watched:
                devnull = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(contextlib.redirect_stderr(devnull))  # the progress bar
                callbacks = self._watchers(run, supply, watcher_times, stack)
            else:
                callbacks = [FinishEpoch(run, {}, CLIPS, NoMonitor())]
            self.trainer.fit(
                training_batches(
                    self.train, self.order, self.batch_size, 0, self.epochs, supply=supply
                ),
                epochs=self.epochs,
                steps_per_epoch=steps_per_epoch(CLIPS, self.batch_size),
                validation_data=evaluation_batches(self.validation, self.batch_size),
                validation_steps=steps_per_epoch(VALIDATION_CLIPS, self.batch_size),
                callbacks=[*callbacks, times],
                shuffle=False,
                verbose=0,
            )
        return np.diff(times.seconds)[1:].tolist(), watcher_times.shares()

    def _watchers(
        self,
        run: RunDirectory,
        supply: Supply,
        times: WatcherTimes,
        stack: contextlib.ExitStack,
    ) -> list[keras.callbacks.Callback]:
        """Return the callbacks of a watched run, whose CPU times are added to `times`."""
        monitor = stack.enter_context(HardwareMonitor(hardware_source(self.gpus)))
        stages = TimeStages(run, StageClock(), supply)
        progress = ShowProgress(
            Progress("training", self.epochs * CLIPS, bar=True), CLIPS, self.batch_size
        )
        board = TensorBoardLog(run, self.validation, self.batch_size)
        times.measure(board, "_drawn", DRAWING_THREAD)
        for watcher in (stages, progress, board):
            for method in ("on_epoch_begin", "on_train_batch_end", "on_epoch_end"):
                times.measure(watcher, method, TRAINING_THREAD)
        return [stages, progress, FinishEpoch(run, {}, CLIPS, monitor), board]


def make_training(folder: Path, epochs: int, replicas: int | None) -> Training:
    """Return a training of the default settings on random features, stored in `folder`."""
    devices = find_devices(replicas)
    precision = choose_precision(True, devices[0].device_type)
    settings = Settings().replace(dataset_path=folder, epochs=epochs)
    batch_size = settings.training.batch_size
    stored = stored_clips(folder)
    train, validation = repeated(stored, CLIPS), repeated(stored, VALIDATION_CLIPS)
    with make_strategy(devices, batch_size).scope():
        trainer = make_trainer(
            settings,
            sample_features(train, batch_size, settings.devices.seed, STANDARDIZE_ON),
            steps_per_epoch(CLIPS, batch_size),
            steps_per_epoch(VALIDATION_CLIPS, batch_size),
            precision.policy,
        )
    order = make_order(settings.training, settings.devices.seed, train)
    return Training(trainer, train, validation, order, batch_size, epochs, gpu_names(devices))


def repeated(clips: ClipFeatures, count: int) -> ClipFeatures:
    """Return `count` clips: the given ones, again and again."""
    indices = np.arange(count) % len(clips)
    return ClipFeatures(clips.stored, indices[:, None], clips.labels[indices])


def measure_watching(
    folder: Path, rounds: int, epochs: int, replicas: int | None
) -> dict[str, Any]:
    """Return the seconds of epochs with and without watchers, and the watchers' CPU time.

    Args:
        folder: for the features and, meanwhile, the checkpoints.
        rounds: of one run of each kind, which take turns in going first.
        epochs: of a run; the first one is not counted.
        replicas: as the training command's flag.
    """
    training = make_training(folder, epochs, replicas)
    for watched in (False, True):  # traced before the clock starts
        training.run(folder, watched)
        print("warmed up", file=sys.stderr, flush=True)
    seconds: dict[bool, list[list[float]]] = {True: [], False: []}
    shares: list[Shares] = []
    for number in range(rounds):
        for watched in (True, False) if number % 2 == 0 else (False, True):
            of_epochs, of_watchers = training.run(folder, watched)
            seconds[watched].append(of_epochs)
            if watched:
                shares.append(of_watchers)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    of_epoch = {watched: np.median(times, axis=0) for watched, times in seconds.items()}
    slower = float(of_epoch[True].sum() / of_epoch[False].sum() - 1)
    return {
        "machine": describe_machine(find_devices(replicas)),
        "clips_per_epoch": CLIPS,
        "seconds_of_each_epoch": {
            "watched": of_epoch[True].tolist(),
            "alone": of_epoch[False].tolist(),
        },
        "slower_by": slower,
        "share_of_cpu_time": {
            thread: float(np.median([share[thread] for share in shares])) for thread in shares[0]
        },
        "acceptable": ACCEPTABLE,
        "met": slower <= ACCEPTABLE,
    }
