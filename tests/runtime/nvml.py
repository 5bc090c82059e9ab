"""A replacement for NVML, whose GPUs a test controls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml

from violence_detection.runtime.gpus import NvidiaGpus
from violence_detection.runtime.hardware import HardwareMonitor

ADA = "NVIDIA RTX 5000 Ada Generation"
NEVER = 3600.0  # seconds between two readings in the background


@dataclass
class StandInGpu:
    """The readings of a GPU; a test changes them as time goes on."""

    name: str = ADA
    uuid: str = "GPU-0000"
    utilization: float = 0
    memory: float = 0  # bytes
    temperature: float = 40
    power: float = 100  # watts
    joules: float = 5e6  # since the driver was loaded
    refused: set[str] = field(default_factory=set)  # functions that are not supported
    lost: bool = False
    forbidden: bool = False
    instances: list["StandInGpu"] | None = None  # MIG


class StandInNvml:
    """The functions of pynvml that are used, with its own errors and constants."""

    def __init__(self, *gpus: StandInGpu):
        self.gpus = gpus
        self.users = 0
        self.init_error: pynvml.NVMLError | None = None
        self.on_reading: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> object:
        if not name.startswith(("NVML", "nvmlMemory_v2")):
            raise AttributeError(name)
        return getattr(pynvml, name)

    def _ask(self, gpu: StandInGpu, function: str) -> None:
        if not self.users:
            raise pynvml.NVMLError_Uninitialized
        if gpu.lost:
            raise pynvml.NVMLError_GpuIsLost
        if function in gpu.refused:
            raise pynvml.NVMLError_NotSupported

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's own names, here and below)
        if self.init_error:
            raise self.init_error
        self.users += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> StandInGpu:  # noqa: N802
        if self.gpus[index].forbidden:
            raise pynvml.NVMLError_NoPermission
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu: StandInGpu) -> str:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu: StandInGpu) -> str:  # noqa: N802
        return gpu.uuid

    def nvmlDeviceGetMigMode(self, gpu: StandInGpu) -> list[int]:  # noqa: N802
        if gpu.instances is None:
            raise pynvml.NVMLError_NotSupported
        return [pynvml.NVML_DEVICE_MIG_ENABLE] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: StandInGpu) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(  # noqa: N802
        self, gpu: StandInGpu, index: int
    ) -> StandInGpu:
        if not gpu.instances or index >= len(gpu.instances):
            raise pynvml.NVMLError_NotFound
        return gpu.instances[index]

    def nvmlDeviceGetUtilizationRates(self, gpu: StandInGpu) -> SimpleNamespace:  # noqa: N802
        self._ask(gpu, "nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=gpu.utilization)

    def nvmlDeviceGetMemoryInfo(self, gpu: StandInGpu, version: int) -> SimpleNamespace:  # noqa: N802
        self._ask(gpu, "nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(used=gpu.memory, total=32 * 2**30)

    def nvmlDeviceGetTemperature(self, gpu: StandInGpu, sensor: int) -> float:  # noqa: N802
        self._ask(gpu, "nvmlDeviceGetTemperature")
        return gpu.temperature

    def nvmlDeviceGetPowerUsage(self, gpu: StandInGpu) -> float:  # noqa: N802
        self._ask(gpu, "nvmlDeviceGetPowerUsage")
        return gpu.power * 1000

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: StandInGpu) -> float:  # noqa: N802
        self._ask(gpu, "nvmlDeviceGetTotalEnergyConsumption")
        joules = gpu.joules
        self.on_reading()
        return joules * 1000


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watched(clock: Clock, *gpus: StandInGpu) -> HardwareMonitor:
    """Return a monitor of these GPUs that reads only when a test calls it."""
    source = NvidiaGpus([gpu.name for gpu in gpus], StandInNvml(*gpus))
    return HardwareMonitor(source, NEVER, clock)
