"""What a run takes of the machine: the GPUs' readings, or CPU and memory; energy and its price."""

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

LOOK_FOR_CHILDREN_EVERY = 10.0  # seconds: it means a look at every process of the machine


class ThisMachine:
    """CPU and memory, where there is no GPU to read. What energy they take is not known."""

    columns: tuple[str, ...] = ("cpu_utilization", "memory_mb")

    def __init__(self) -> None:
        self.memory_gib = [psutil.virtual_memory().total / GIBIBYTE]
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._looked: float | None = None  # for children, when
        self._cpu_before = _cpu_seconds()

    def read(self, now: float) -> Figures:
        """Return what the CPU did since the last reading, and the memory that is taken now.

        By column: `cpu_utilization` in percent of all cores, whatever they ran; None before the
        system's clock ticks (10 ms). `memory_mb` in 10^6 bytes: what is resident of this process
        and those that it has started (decoders; looked for every 10 s). Pages that they share
        count in each.

        Args:
            now: seconds of a clock that is never set back.

        Raises:
            RunError: the system does not tell.
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
            return None  # and this time counts in the next reading
        self._cpu_before = busy, total
        share = (busy - busy_before) / (total - total_before)
        return 100 * min(1.0, max(0.0, share))  # Linux's count of waiting may go back a little

    def _resident(self, now: float) -> int:
        if self._looked is None or now - self._looked >= LOOK_FOR_CHILDREN_EVERY:
            self._children = self._process.children(recursive=True)
            self._looked = now
        resident = self._process.memory_info().rss
        for child in self._children:
            # It may have ended since, or have become another user's.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                resident += child.memory_info().rss
        return resident

    def close(self) -> None:
        """Do nothing: nothing is held."""


def _cpu_seconds() -> tuple[float, float]:
    """Return how long the cores have been busy, and how long they have been, all together.

    `psutil.cpu_percent` would do, but remembers for each thread by itself what was before.
    """
    times = psutil.cpu_times()
    # A guest's time is in the user's already.
    total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
    return total - times.idle - getattr(times, "iowait", 0), total


Source = NvidiaGpus | ThisMachine


def hardware_source(gpu_names: Sequence[str], nvml: Any = None) -> Source:
    """Return what to read: these GPUs; the CPU if there are none, or NVML does not work.

    Args:
        gpu_names: models of TensorFlow's GPUs, in its order.
        nvml: the module pynvml, or what stands in for it.
    """
    if not gpu_names:
        return ThisMachine()
    try:
        return NvidiaGpus(gpu_names, nvml)
    except RunError as error:
        log.warning(
            "the GPUs' use is not tracked, the CPU's is (%s). See that nvidia-smi works here; "
            "a container must be started with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            error,
        )
        return ThisMachine()


class HardwareMonitor:
    """Reads the hardware in the background, from the beginning of its block to the end.

    It never ends a run: if the hardware does not answer any more, that is said once, and the
    figures are None from then on.

    Args:
        source: what is read; it is closed at the end.
        interval: seconds between two readings.
        clock: seconds, never set back.
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
        self._said_so = False
        self._closed = False
        self._last_time: float | None = None
        # Since the last take, by column: sum of value times seconds, seconds, highest value.
        self._seen: dict[str, tuple[float, float, float]] = {}
        self._energy: tuple[float | None, float | None, float | None] = (None, None, None)

    def __enter__(self) -> Self:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        with self._lock:
            self._sample()
            self._closed = True
        self._source.close()
        self._say_if_failed()

    def _watch(self) -> None:
        while self._failure is None and not self._ending.wait(self._interval):
            self.sample()

    def sample(self) -> None:
        """Read the hardware now; the thread calls this every `interval` seconds."""
        with self._lock:
            self._sample()

    def _sample(self) -> None:
        if self._failure or self._closed:
            return
        now = self._clock()
        try:
            figures = self._source.read(now)
        except RunError as failure:
            # Said by the thread that takes the figures: the log may raise, and there it may.
            self._failure = failure
            return
        began, taken, _ = self._energy
        energy = figures.pop(ENERGY, None)
        if self._last_time is None:  # where to count from; what was before is not ours
            self._last_time, self._energy = now, (energy, energy, energy)
            return
        self._energy = (began, taken, energy)
        seconds = now - self._last_time
        self._last_time = now
        for column, value in figures.items():
            if value is not None:
                total, weight, highest = self._seen.get(column, (0.0, 0.0, value))
                self._seen[column] = (
                    total + seconds * value,
                    weight + seconds,
                    max(highest, value),
                )

    def take(self) -> Figures:
        """Return the figures since the last take, or the beginning; reads once more for them.

        By column, as the source reads them: the mean over time (a reading stands for the time
        since the one before it), of memory the highest, of energy what was used in between. None
        is what is not known.
        """
        with self._lock:
            self._sample()
            seen, self._seen = self._seen, {}
            began, taken, energy = self._energy
            self._energy = (began, energy, energy)
            failed = self._failure is not None
        figures: Figures = dict.fromkeys(self._source.columns)
        if not failed:
            for column, (total, weight, highest) in seen.items():
                # Without any time in between there is one reading, which is the highest.
                is_mean = weight > 0 and not column.endswith("memory_mb")
                figures[column] = total / weight if is_mean else highest
            if ENERGY in figures:
                figures[ENERGY] = _difference(energy, taken)
        self._say_if_failed()
        return figures

    @property
    def energy_kwh(self) -> float | None:
        """Return the GPUs' energy in kWh from the beginning to the last reading; None: unknown."""
        with self._lock:
            began, _, energy = self._energy
            used = None if self._failure else _difference(energy, began)
        return None if used is None else used / 1000

    def _say_if_failed(self) -> None:
        if self._failure and not self._said_so:
            self._said_so = True
            log.warning("%s: the hardware's use is unknown from here on", self._failure)


def _difference(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before


def utilization(figures: Mapping[str, float | None]) -> float | None:
    """Return the mean of the GPUs' utilizations in a monitor's figures, in percent.

    None without GPUs, or if none of them tells.
    """
    known = [
        value
        for column, value in figures.items()
        if value is not None and re.fullmatch(r"gpu\d+_utilization", column)
    ]
    return sum(known) / len(known) if known else None
