"""A cell of a table: a rate, or why there is none. Nothing that fails in one ends the others."""

import gc
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

OUT_OF_MEMORY = (
    r"\boom\b|out of memory|resource_?exhausted|bad_alloc|memoryerror|unable to allocate"
)
LONGEST_NOTE = 70  # characters of a framework's error


@dataclass(frozen=True)
class Cell:
    """A measured rate per second, or the reason why there is none."""

    rate: float | None
    note: str = ""
    failed: bool = False  # by an error other than too little memory

    def __str__(self) -> str:
        return self.note if self.rate is None else figure(self.rate)

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


class Budget:
    """The seconds that a measurement may take in all.

    Args:
        seconds: from now on.
        after_cell: called after each cell, such as to save it: the next may never end.
    """

    def __init__(self, seconds: float, after_cell: Callable[[], None] = lambda: None):
        self.after_cell = after_cell
        self.began = time.perf_counter()
        self.end = self.began + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; below 0: none."""
        return self.end - time.perf_counter()

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    def share(self, part: float) -> "Budget":
        """Return a budget of a part, 0 to 1, of what is left."""
        return Budget(max(0.0, self.left) * part, self.after_cell)


def figure(rate: float) -> str:
    """Return a rate with three digits, as a person writes it: 0.123, 12.3, 12,345."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def rate_of(work: Callable[[], object], amount: float, seconds: float) -> float:
    """Return the amount per second of a function that returns when its work is done.

    Args:
        work: called once before, as it may be compiled then.
        amount: of what a call processes.
        seconds: to repeat it for; it is called at least once more.
    """
    work()
    began, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - began < seconds:
        work()
        calls += 1
    return amount * calls / (time.perf_counter() - began)


def measure_into(
    cells: dict[Any, Cell], key: Any, name: str, budget: Budget, measure: Callable[[], float]
) -> None:
    """Store what `measure` returns, or why it returns nothing; print it.

    Args:
        cells: where it is stored.
        key: as what it is stored.
        name: of the cell, for the screen.
        budget: without any left, the cell stays empty.
        measure: returns a rate per second.
    """
    cell = cells[key] = _attempt(budget, measure)
    if cell.rate is None:
        gc.collect()  # the memory of what failed
    print(f"  {name}: {cell}  ({budget.used:.0f} s)", flush=True)
    budget.after_cell()


def _attempt(budget: Budget, measure: Callable[[], float]) -> Cell:
    if budget.left <= 0:
        return Cell(None, "no time left")
    try:
        return Cell(measure())
    except Exception as error:  # the backends' errors have no class of their own in common
        words = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, words, re.IGNORECASE):
            return Cell(None, "out of memory")
        first = next((line.strip() for line in words.splitlines() if line.strip()), words)
        return Cell(None, f"failed: {first[:LONGEST_NOTE]}".replace("|", "/"), failed=True)
