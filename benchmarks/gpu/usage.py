"""Utilization and memory of the GPUs, by NVML, as nvidia-smi reads it: no package is needed."""

import subprocess
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

FIELDS = "index,name,driver_version,memory.total,utilization.gpu,memory.used"
PERIOD = 200  # milliseconds between readings


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it."""

    number: str
    name: str
    driver: str
    memory_mib: float


@dataclass
class Used:
    """What was read of all GPUs in a stage: their mean utilization and their most memory."""

    utilization: list[float] = field(default_factory=list)  # percent
    memory_mib: list[float] = field(default_factory=list)

    def describe(self) -> tuple[str, str]:
        """Return utilization and memory in words; empty where nothing was read."""
        if not self.utilization:
            return "", ""
        mean = sum(self.utilization) / len(self.utilization)
        return f"{mean:.0f} %", f"{max(self.memory_mib) / 1024:.1f} GiB"


def find_gpus(command: str = "nvidia-smi") -> tuple[list[Gpu], str]:
    """Return the machine's GPUs, and why there are none to be read.

    Args:
        command: that reads NVML.
    """
    query = [command, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"NVML is not available: {command}: {error}"
    if answer.returncode:
        words = (answer.stdout + answer.stderr).strip().splitlines() or ["no answer"]
        return [], f"NVML is not available: {command}: {words[0]}"
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines()]
    gpus = [Gpu(row[0], row[1], row[2], _number(row[3]) or 0.0) for row in rows if len(row) == 6]
    return gpus, "" if gpus else f"NVML is not available: {command} lists no GPU"


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:  # [N/A]
        return None


class UsageOf:
    """Reads GPUs while a block runs.

    Args:
        gpus: the numbers of those that are read; none: nothing is.
        command: that reads NVML.
    """

    def __init__(self, gpus: list[str], command: str = "nvidia-smi"):
        self.used = Used()
        self._query = [
            *(command, f"--id={','.join(gpus)}", "--query-gpu=utilization.gpu,memory.used"),
            *("--format=csv,noheader,nounits", f"--loop-ms={PERIOD}"),
        ]
        self._reads = bool(gpus)

    def __enter__(self) -> Self:
        if self._reads:
            self._process = subprocess.Popen(
                self._query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
        return self

    def _read(self) -> None:
        for line in self._process.stdout or ():
            values = [_number(cell.strip()) for cell in line.split(",")]
            if len(values) == 2 and values[0] is not None and values[1] is not None:
                self.used.utilization.append(values[0])
                self.used.memory_mib.append(values[1])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._reads:
            self._process.kill()
            self._process.wait()
            self._thread.join()
