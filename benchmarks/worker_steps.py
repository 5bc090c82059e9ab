"""Training steps of worker processes on this machine: seconds, CPU seconds, the all-reduce's share.

A process of its own for each worker, on loopback, as several hosts would be. They share the
machine's cores: more of them cannot be faster, and what counts is the CPU's work.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from violence_detection.runtime.worker import TF_CONFIG

ROOT = Path(__file__).parent.parent
EPOCHS = 10_000  # more than are timed
PATIENCE = 300  # seconds that the workers may take together


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
        together, in which they do not wait. Of several workers also the all-reduce alone.

    Raises:
        RuntimeError: a worker failed.
    """
    addresses = free_addresses(count)
    command = [sys.executable, "-m", __spec__.name, json.dumps(asdict(task))]
    with ExitStack() as held:
        said = [held.enter_context(tempfile.TemporaryFile("w+")) for _ in addresses]
        workers = []
        for number, errors in enumerate(said):
            own = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
            worker = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {TF_CONFIG: json.dumps(own), "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            held.callback(worker.wait)
            held.callback(worker.kill)
            workers.append(worker)
        deadline = time.monotonic() + PATIENCE
        told = []
        for worker, errors in zip(workers, said, strict=True):
            output, _ = worker.communicate(timeout=max(1, deadline - time.monotonic()))
            if worker.returncode:
                errors.seek(0)
                raise RuntimeError(f"a worker of {count} failed: {errors.read()[-2000:]}")
            told.append(json.loads(output.splitlines()[-1]))
    return _together(told)


def free_addresses(count: int) -> list[str]:
    """Return addresses on loopback whose ports nobody has."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def _together(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all workers: the chief's seconds, the CPU seconds of all."""

    def combined(timings: list[dict[str, float]]) -> dict[str, float]:
        cpu_seconds = sum(timing["cpu_seconds"] for timing in timings)
        return {"seconds": timings[0]["seconds"], "cpu_seconds": cpu_seconds}

    steps = {
        size: combined([worker["steps"][size] for worker in told]) for size in told[0]["steps"]
    }
    result = told[0] | {"workers": len(told), "steps": steps}
    if told[0]["all_reduce"]:
        result["all_reduce"] = combined([worker["all_reduce"] for worker in told])
    return result


def time_steps(task: Task) -> dict[str, Any]:
    """Return one worker's figures; to be called in the process of that worker."""
    import numpy as np
    import tensorflow as tf

    from benchmarks.training import stored_clips
    from violence_detection.models.classifier import feature_size
    from violence_detection.runtime.cluster import Cluster
    from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy
    from violence_detection.runtime.worker import find_worker
    from violence_detection.settings.schema import Settings
    from violence_detection.training.batches import (
        ClipFeatures,
        Share,
        for_workers,
        sample_features,
        training_batches,
    )
    from violence_detection.training.order import ClipOrder
    from violence_detection.training.trainer import STEPS_PER_EXECUTION, make_trainer

    settings = Settings().replace(dataset_path=Path(task.folder))
    worker = find_worker("tf-config")
    with Cluster(worker) as cluster:
        devices = find_devices(None, worker.count)
        strategy = make_strategy(devices, task.batch_sizes[0], cluster)
        precision = choose_precision(settings.devices.mixed_precision, devices[0].device_type)
        # One file stands for all streams: a step reads as many bytes, and no fewer are drawn.
        one = stored_clips(Path(task.folder), task.clips, feature_size(task.layer))
        streams = len(settings.features.streams)
        rows = np.repeat(one.rows, streams, axis=1)
        clips = ClipFeatures(one.stored * streams, rows, one.labels)
        with strategy.scope():
            sample = sample_features(clips, 32, settings.devices.seed, 64)
            trainer = make_trainer(settings, sample, STEPS_PER_EXECUTION, policy=precision.policy)
        trainer.make_train_function()

        def timed(run: Callable[[], Any], what: str) -> dict[str, float]:
            run()  # traced before the clock starts
            cluster.gather(what, None)
            seconds, used = [], time.process_time()
            for _ in range(task.rounds):
                started = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - started)
            used = time.process_time() - used
            return {
                "seconds": statistics.median(seconds) / STEPS_PER_EXECUTION,
                "cpu_seconds": used / task.rounds / STEPS_PER_EXECUTION,
            }

        def make_steps(batches: Iterator[Any]) -> float:
            return float(trainer.train_function(batches)["loss"])  # waits for them

        steps = {}
        for size in task.batch_sizes:
            share = Share(worker, len(devices)) if worker.count > 1 else None
            order = ClipOrder(clips.labels, settings.devices.seed)
            batches = training_batches(clips, order, size, 0, EPOCHS, share=share)
            endless = iter(for_workers(batches, strategy))
            steps[str(size)] = timed(partial(make_steps, endless), f"steps of {size}")

        weights = trainer.classifier.trainable_weights
        zeros = [tf.zeros(weight.shape) for weight in weights]

        def reduced(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
            replica = tf.distribute.get_replica_context()
            here = [tf.identity(gradient) for gradient in gradients]  # on the replica's device
            return list(replica.all_reduce(tf.distribute.ReduceOp.SUM, here))

        @tf.function
        def reduce_often() -> tf.Tensor:
            gradients = zeros
            for _ in tf.range(STEPS_PER_EXECUTION):  # each waits for the one before, as in training
                gradients = strategy.run(reduced, args=(gradients,))
            return tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])

        several = worker.count > 1
        return {
            "dtype": precision.computation,
            "parameters": trainer.classifier.count_params(),
            "gradient_bytes": sum(4 * zero.shape.num_elements() for zero in zeros),
            "gradients": len(zeros),
            "steps": steps,
            "all_reduce": timed(lambda: reduce_often().numpy(), "all-reduces") if several else None,
        }


if __name__ == "__main__":
    print(json.dumps(time_steps(Task(**json.loads(sys.argv[1])))))
