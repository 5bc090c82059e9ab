"""Timing side by side: every workload takes its turn in every round, so that drift cancels out."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from violence_detection.runtime.logs import native_messages_to

Result = TypeVar("Result")


@dataclass(frozen=True)
class Workload:
    """Something to be timed, in parts.

    Args:
        parts: functions to call; one may return its own seconds, where not all of them count.
        amount: of what all parts together process, such as clips.
    """

    parts: Sequence[Callable[[], float | None]]
    amount: float = 1.0


@dataclass(frozen=True)
class Rates:
    """What each workload processes per second, by round."""

    per_second: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median rate of a workload."""
        return statistics.median(self.per_second[name])

    def ratio(self, name: str, over: str) -> float:
        """Return how many times as fast `name` is as `over`: the median of the rounds' ratios."""
        pairs = zip(self.per_second[name], self.per_second[over], strict=True)
        return statistics.median(own / other for own, other in pairs)


def side_by_side(workloads: Mapping[str, Workload], rounds: int) -> Rates:
    """Run every workload once per round, taking turns part by part; warm them up first."""
    per_second: dict[str, list[float]] = {name: [] for name in workloads}
    for number in range(rounds):
        seconds = dict.fromkeys(workloads, 0.0)
        for part in range(max(len(workload.parts) for workload in workloads.values())):
            for name in list(workloads) if (number + part) % 2 == 0 else list(workloads)[::-1]:
                if part < len(workloads[name].parts):
                    started = time.perf_counter()
                    own_seconds = workloads[name].parts[part]()
                    seconds[name] += own_seconds or time.perf_counter() - started
        for name, workload in workloads.items():
            per_second[name].append(workload.amount / seconds[name])
    return Rates(per_second)


def in_own_process(
    function: Callable[..., Result], *arguments: object, tensorflow: bool = True
) -> Result:
    """Call a function in a new process, and return its result.

    Args:
        function: of a module that the process imports.
        *arguments: of `function`.
        tensorflow: load TensorFlow first; its messages at its start are not shown.
    """
    spawn = multiprocessing.get_context("spawn")
    initializer = _load_tensorflow if tensorflow else None
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=initializer) as process:
        return process.submit(function, *arguments).result()


def _load_tensorflow() -> None:
    with native_messages_to(Path(os.devnull)):
        import tensorflow as tf

        tf.config.list_physical_devices()
