"""How a run uses the hardware: readings of the GPUs, or of CPU and memory; energy and its cost."""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import psutil

from violence_detection.errors import RunError
from violence_detection.runtime.gpus import ENERGY, GIBIBYTE, MEGABYTE, Figures, NvidiaGpus

log = logging.getLogger(__name__)

FIND_CHILDREN_EVERY = 10.0  # seconds: it goes through every process of the machine


class ThisMachine:
    """CPU and memory, read where no GPU is used. Their energy is unknown."""

    columns: tuple[str, ...] = ("cpu_utilization", "memory_mb")

    def __init__(self) -> None:
        self.memory_gib = [psutil.virtual_memory().total / GIBIBYTE]
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._children_found: float | None = None  # when
        self._cpu_before = _cpu_seconds()

    def read(self, now: float) -> Figures:
        """Return the CPU utilization since the last reading, and the memory in use now.

        Args:
            now: seconds of a clock that never runs backwards.

        Returns:
            By column: `cpu_utilization` in percent of all cores, other processes included; None
            until the system's clock has ticked (10 ms). `memory_mb` in 10^6 bytes: the resident
            memory of this process and its children (decoders; looked up every 10 s). Shared pages
            count in each process.

        Raises:
            RunError: the system does not provide them.
        """
        try:
            return {
                "cpu_utilization": self._cpu_utilization(),
                "memory_mb": self._resident(now) / MEGABYTE,
            }
        except (psutil.Error, OSError) as error:
            raise RunError(f"CPU and memory use cannot be read: {error}") from error

    def _cpu_utilization(self) -> float | None:
        busy, total = _cpu_seconds()
        busy_before, total_before = self._cpu_before
        if total <= total_before:
            return None  # this interval counts in the next reading
        self._cpu_before = busy, total
        share = (busy - busy_before) / (total - total_before)
        return 100 * min(1.0, max(0.0, share))  # Linux's iowait may decrease a little

    def _resident(self, now: float) -> int:
        if self._children_found is None or now - self._children_found >= FIND_CHILDREN_EVERY:
            self._children = self._process.children(recursive=True)
            self._children_found = now
        resident = self._process.memory_info().rss
        for child in self._children:
            # It may have ended since, or changed its user.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                resident += child.memory_info().rss
        return resident

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _cpu_seconds() -> tuple[float, float]:
    """Return the busy and the total seconds of all cores since the machine started.

    `psutil.cpu_percent` keeps its previous reading per thread, and several threads read here.
    """
    times = psutil.cpu_times()
    # The user's time includes a guest's.
    total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
    return total - times.idle - getattr(times, "iowait", 0), total


Source = NvidiaGpus | ThisMachine


def hardware_source(gpu_names: Sequence[str], nvml: Any = None) -> Source:
    """Return a source of readings: the GPUs; the CPU if there are none or NVML does not work.

    Args:
        gpu_names: the models of TensorFlow's GPUs, in its order.
        nvml: the module pynvml, or a replacement.
    """
    if not gpu_names:
        return ThisMachine()
    try:
        return NvidiaGpus(gpu_names, nvml)
    except RunError as error:
        log.warning(
            "GPU utilization cannot be read (%s);\n"
            "tracking the CPU instead. Does nvidia-smi work here?\n"
            "A container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            error,
        )
        return ThisMachine()


class HardwareMonitor:
    """Reads the hardware in the background, from the beginning of its block to the end.

    It never ends a run: if the hardware no longer responds, a warning is logged once, and the
    readings are None from then on.

    Args:
        source: what is read; closed at the end.
        interval: seconds between two readings.
        clock: returns seconds, and never runs backwards.
    """

    def __init__(
        self,
        source: Source,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._source = source
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hardware", daemon=True)
        self._failure: RunError | None = None
        self._warned = False
        self._closed = False
        self._last_time: float | None = None
        # Since the last take, by column: sum of value times seconds, seconds, maximum.
        self._sums: dict[str, tuple[float, float, float]] = {}
        # Counter in Wh: at the first reading, at the last take, at the last reading.
        self._energy: tuple[float | None, float | None, float | None] = (None, None, None)

    def __enter__(self) -> Self:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        with self._lock:
            self._sample()
            self._closed = True
        self._source.close()
        self._warn_if_failed()

    def _watch(self) -> None:
        while self._failure is None and not self._ending.wait(self._interval):
            self.sample()

    def sample(self) -> None:
        """Read the hardware now; the background thread does so every `interval` seconds."""
        with self._lock:
            self._sample()

    def _sample(self) -> None:
        if self._failure or self._closed:
            return
        now = self._clock()
        try:
            figures = self._source.read(now)
        except RunError as failure:
            # The warning is left to the thread that takes the readings: logging may raise there.
            self._failure = failure
            return
        began, taken, _ = self._energy
        energy = figures.pop(ENERGY, None)
        if self._last_time is None:  # the starting point: earlier use is not the run's
            self._last_time, self._energy = now, (energy, energy, energy)
            return
        self._energy = (began, taken, energy)
        seconds = now - self._last_time
        self._last_time = now
        for column, value in figures.items():
            if value is not None:
                total, weight, highest = self._sums.get(column, (0.0, 0.0, value))
                self._sums[column] = (
                    total + seconds * value,
                    weight + seconds,
                    max(highest, value),
                )

    def take(self) -> Figures:
        """Read once more and sum up the readings since the last call, or since the beginning.

        Returns:
            By column of the source: the mean over time (a reading counts for the time since the
            one before); of memory, the maximum; of energy, the amount used. None: unknown.
        """
        with self._lock:
            self._sample()
            sums, self._sums = self._sums, {}
            began, taken, energy = self._energy
            self._energy = (began, energy, energy)
            failed = self._failure is not None
        figures: Figures = dict.fromkeys(self._source.columns)
        if not failed:
            for column, (total, weight, highest) in sums.items():
                # Two readings at the same moment have no mean over time.
                is_mean = weight > 0 and not column.endswith("memory_mb")
                figures[column] = total / weight if is_mean else highest
            if ENERGY in figures:
                figures[ENERGY] = _difference(energy, taken)
        self._warn_if_failed()
        return figures

    @property
    def energy_kwh(self) -> float | None:
        """Energy of the GPUs in kWh, from the first reading to the last; None: unknown."""
        with self._lock:
            began, _, energy = self._energy
            used = None if self._failure else _difference(energy, began)
        return None if used is None else used / 1000

    def _warn_if_failed(self) -> None:
        if self._failure and not self._warned:
            self._warned = True
            log.warning("%s. Hardware utilization is unknown from now on", self._failure)


def _difference(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before


def utilization(figures: Mapping[str, float | None]) -> float | None:
    """Return the mean utilization of the GPUs in a monitor's readings, in percent.

    None without GPUs, or if it is unknown for all of them.
    """
    known = [
        value
        for column, value in figures.items()
        if value is not None and re.fullmatch(r"gpu\d+_utilization", column)
    ]
    return sum(known) / len(known) if known else None
