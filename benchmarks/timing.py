"""Timing side by side: every way takes its turn in every round, so that drift cancels out."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds of each way, round by round."""

    seconds: dict[str, list[float]]

    def median(self, way: str) -> float:
        """Return the median seconds of a way."""
        return statistics.median(self.seconds[way])

    def speedup(self, way: str, over: str) -> float:
        """Return how many times faster `way` is than `over`: the median of the rounds' ratios."""
        pairs = zip(self.seconds[way], self.seconds[over], strict=True)
        return statistics.median(other / own for own, other in pairs)


def side_by_side(ways: Mapping[str, Callable[[], object]], rounds: int) -> Timings:
    """Call every way once per round, in turn, and time each call; warm them up beforehand."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in names:
            started = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
    return Timings(seconds)
