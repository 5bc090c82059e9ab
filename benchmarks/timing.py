"""Timing side by side: every way takes its turn in every round, so that drift cancels out."""

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
class Way:
    """One way to do something, in as many parts as there are functions to call.

    A function may return its own seconds, where not all of it counts.
    """

    parts: Sequence[Callable[[], float | None]]
    amount: float = 1.0  # of what all parts together do: clips, say


@dataclass(frozen=True)
class Rates:
    """What each way does per second, round by round."""

    per_second: dict[str, list[float]]

    def median(self, way: str) -> float:
        """Return the median rate of a way."""
        return statistics.median(self.per_second[way])

    def ratio(self, way: str, over: str) -> float:
        """Return how many times faster `way` is than `over`: the median of the rounds' ratios."""
        pairs = zip(self.per_second[way], self.per_second[over], strict=True)
        return statistics.median(own / other for own, other in pairs)


def side_by_side(ways: Mapping[str, Way], rounds: int) -> Rates:
    """Run every way once per round, part by part in turn; they are to be warmed up beforehand."""
    per_second: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        seconds = dict.fromkeys(ways, 0.0)
        for part in range(max(len(way.parts) for way in ways.values())):
            for name in list(ways) if (number + part) % 2 == 0 else list(ways)[::-1]:
                if part < len(ways[name].parts):
                    started = time.perf_counter()
                    told = ways[name].parts[part]()
                    seconds[name] += told or time.perf_counter() - started
        for name, way in ways.items():
            per_second[name].append(way.amount / seconds[name])
    return Rates(per_second)


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function where nothing else has been loaded, and return its result.

    TensorFlow's notes on how it starts are kept off the screen.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_load_tensorflow) as process:
        return process.submit(function, *arguments).result()


def _load_tensorflow() -> None:
    with native_messages_to(Path(os.devnull)):
        import tensorflow as tf

        tf.config.list_physical_devices()
