"""Training steps of worker processes on this machine: seconds, CPU seconds, the all-reduce alone.

Each worker has a process of its own, on loopback, as it would on several hosts. They share the
machine's cores, so that more workers cannot be faster; what counts is the CPU time.
"""

import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from violence_detection.runtime.worker import TF_CONFIG

if TYPE_CHECKING:
    import tensorflow as tf

    from violence_detection.training.batches import ClipFeatures
    from violence_detection.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
EPOCHS = 10_000  # more than are timed
TIMEOUT = 300  # seconds for all workers together


@dataclass(frozen=True)
class Task:
    """What each worker does."""

    folder: str  # of the features
    layer: str
    clips: int
    batch_sizes: Sequence[int]  # global
    rounds: int


def measure_workers(count: int, task: Task) -> dict[str, Any]:
    """Return the figures of `count` worker processes that train together.

    Returns:
        By global batch size, of a step: wall `seconds` (median), and `cpu_seconds` of all workers
        together, which do not include waiting. Of several workers also the all-reduce alone.

    Raises:
        RuntimeError: a worker failed.
        subprocess.TimeoutExpired: the workers take too long.
    """
    addresses = free_addresses(count)
    command = [sys.executable, "-m", __spec__.name, json.dumps(asdict(task))]
    with ExitStack() as stack:
        error_files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in addresses]
        workers = []
        for index, errors in enumerate(error_files):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            worker = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {TF_CONFIG: json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            workers.append(worker)
        deadline = time.monotonic() + TIMEOUT
        figures = []
        for worker, errors in zip(workers, error_files, strict=True):
            output, _ = worker.communicate(timeout=max(1, deadline - time.monotonic()))
            if worker.returncode:
                errors.seek(0)
                raise RuntimeError(f"a worker of {count} failed: {errors.read()[-2000:]}")
            figures.append(json.loads(output.splitlines()[-1]))
    return combine_workers(figures)


def free_addresses(count: int) -> list[str]:
    """Return addresses on loopback whose ports are free."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def combine_workers(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all workers: the chief's seconds, the CPU seconds of all."""

    def combine(timings: list[dict[str, float]]) -> dict[str, float]:
        cpu_seconds = sum(timing["cpu_seconds"] for timing in timings)
        return {"seconds": timings[0]["seconds"], "cpu_seconds": cpu_seconds}

    chief = figures[0]
    steps = {
        size: combine([worker["steps"][size] for worker in figures]) for size in chief["steps"]
    }
    combined = chief | {"workers": len(figures), "steps": steps}
    if chief["all_reduce"]:
        combined["all_reduce"] = combine([worker["all_reduce"] for worker in figures])
    return combined


def time_worker(task: Task) -> dict[str, Any]:
    """Return one worker's figures; to be called in the process of that worker."""
    from benchmarks.training import stored_clips
    from violence_detection.models.vgg19_weights import feature_size
    from violence_detection.runtime.cluster import Cluster
    from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy
    from violence_detection.runtime.worker import find_worker
    from violence_detection.settings.schema import Settings
    from violence_detection.training.batches import (
        Share,
        for_workers,
        sample_features,
        training_batches,
    )
    from violence_detection.training.order import ClipOrder
    from violence_detection.training.trainer import STEPS_PER_EXECUTION, make_trainer

    settings = Settings().replace(dataset_path=Path(task.folder))
    seed = settings.devices.seed
    worker = find_worker("tf-config")
    with Cluster(worker) as cluster:
        devices = find_devices(None, worker.count)
        strategy = make_strategy(devices, task.batch_sizes[0], cluster)
        precision = choose_precision(settings.devices.mixed_precision, devices[0].device_type)
        stored = stored_clips(Path(task.folder), task.clips, feature_size(task.layer))
        clips = with_streams(stored, len(settings.features.streams))
        with strategy.scope():
            sample = sample_features(clips, 32, seed, 64)
            trainer = make_trainer(settings, sample, STEPS_PER_EXECUTION, policy=precision.policy)
        trainer.make_train_function()

        def timed(run: Callable[[], object], barrier: str) -> dict[str, float]:
            run()  # traced before the clock starts
            cluster.gather(barrier, None)
            return time_rounds(run, task.rounds, STEPS_PER_EXECUTION)

        steps = {}
        for size in task.batch_sizes:
            share = Share(worker, len(devices)) if worker.count > 1 else None
            order = ClipOrder(clips.labels, seed)
            batches = training_batches(clips, order, size, 0, EPOCHS, share=share)
            run = partial(run_steps, trainer, iter(for_workers(batches, strategy)))
            steps[str(size)] = timed(run, f"steps of {size}")
        shapes = [weight.shape for weight in trainer.classifier.trainable_weights]
        all_reduce = None
        if worker.count > 1:
            all_reduce = timed(
                make_all_reduce(strategy, shapes, STEPS_PER_EXECUTION), "all-reduces"
            )
        return {
            "dtype": precision.computation,
            "parameters": trainer.classifier.count_params(),
            "gradient_bytes": sum(4 * math.prod(shape) for shape in shapes),
            "gradients": len(shapes),
            "steps": steps,
            "all_reduce": all_reduce,
        }


def with_streams(clips: "ClipFeatures", streams: int) -> "ClipFeatures":
    """Return clips whose one stored stream stands for all: as many bytes are read in a step."""
    import numpy as np

    from violence_detection.training.batches import ClipFeatures

    rows = np.repeat(clips.rows, streams, axis=1)
    return ClipFeatures(clips.stored * streams, rows, clips.labels)


def run_steps(trainer: "Trainer", batches: Any) -> float:
    """Run the steps of one execution and wait for them; return the loss."""
    return float(trainer.train_function(batches)["loss"])


def time_rounds(run: Callable[[], object], rounds: int, steps: int) -> dict[str, float]:
    """Return the median seconds and the mean CPU seconds per step of `run`, which does `steps`."""
    seconds, cpu_began = [], time.process_time()
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    cpu_seconds = time.process_time() - cpu_began
    return {
        "seconds": statistics.median(seconds) / steps,
        "cpu_seconds": cpu_seconds / rounds / steps,
    }


def make_all_reduce(
    strategy: "tf.distribute.Strategy", shapes: Sequence[Sequence[int]], count: int
) -> Callable[[], object]:
    """Return a function that sums gradients of these shapes over all replicas `count` times."""
    import tensorflow as tf

    zeros = [tf.zeros(shape) for shape in shapes]

    def all_reduce(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        replica = tf.distribute.get_replica_context()
        local = [tf.identity(gradient) for gradient in gradients]  # on the replica's device
        return list(replica.all_reduce(tf.distribute.ReduceOp.SUM, local))

    @tf.function
    def repeat() -> tf.Tensor:
        gradients = zeros
        for _ in tf.range(count):  # each waits for the one before, as in training
            gradients = strategy.run(all_reduce, args=(gradients,))
        return tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])

    return lambda: repeat().numpy()


if __name__ == "__main__":
    print(json.dumps(time_worker(Task(**json.loads(sys.argv[1])))))
