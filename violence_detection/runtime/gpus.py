"""Utilization, memory, temperature, power and energy of NVIDIA GPUs, read with NVML."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from violence_detection.errors import RunError

log = logging.getLogger(__name__)

MEGABYTE = 1e6  # bytes
GIBIBYTE = 2**30
GPU_READINGS = ("utilization", "memory_mb", "temperature", "power")
ENERGY = "energy_wh"

Figures = dict[str, float | None]


class NvidiaGpus:
    """The NVIDIA GPUs that TensorFlow uses, read with NVML, the driver's own library.

    TensorFlow does not say which of NVML's GPUs it uses. NVML numbers them by PCI bus; so does CUDA
    after `number_gpus_by_bus`. CUDA_VISIBLE_DEVICES selects some of them by number or by UUID.

    A reading that a GPU does not support is None. So are power and energy of a MIG instance, where
    NVML returns those of the whole GPU.

    Args:
        names: the models of TensorFlow's GPUs, in its order.
        nvml: the module pynvml, or a replacement.

    Raises:
        RunError: NVML is missing, does not work, or shows other GPUs than TensorFlow.
    """

    def __init__(self, names: Sequence[str], nvml: Any = None):
        if nvml is None:
            import pynvml  # only where there are GPUs

            nvml = pynvml
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            try:
                devices = _devices_of_cuda(
                    _devices_by_gpu(nvml), os.environ.get("CUDA_VISIBLE_DEVICES")
                )[: len(names)]
                _require_same_models(names, devices)
                self._gpus = [_Gpu(nvml, device) for device in devices]
            except (nvml.NVMLError, RunError):
                nvml.nvmlShutdown()
                raise
        except nvml.NVMLError as error:
            raise RunError(f"NVML: {error}") from error
        self._names = list(names)
        for number, gpu in enumerate(self._gpus):
            log.debug("gpu%d (%s) is %s", number, names[number], gpu.description)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of every reading."""
        numbers = range(len(self._gpus))
        return (*(f"gpu{n}_{reading}" for n in numbers for reading in GPU_READINGS), ENERGY)

    @property
    def memory_gib(self) -> list[float | None]:
        """The memory of each GPU in GiB; None: unknown."""
        return [gpu.memory_gib for gpu in self._gpus]

    def read(self, now: float) -> Figures:
        """Return the readings of all GPUs; they include the work of other processes.

        Args:
            now: seconds of a clock that never runs backwards.

        Returns:
            By column: `gpu{n}_utilization`, the percentage of the GPU's last sampling period (1/6
            to 1 s) in which it computed; `gpu{n}_memory_mb` in 10^6 bytes; `gpu{n}_temperature` in
            degrees Celsius; `gpu{n}_power` in watts; `energy_wh`, the watt-hours of all GPUs since
            the first reading. Energy comes from each GPU's own counter (Volta and later), else
            from its power, integrated over time by the trapezoidal rule; None if a GPU has neither.

        Raises:
            RunError: a GPU no longer responds.
        """
        figures: Figures = {}
        joules: list[float | None] = []
        for number, gpu in enumerate(self._gpus):
            try:
                readings = gpu.read()
            except self._nvml.NVMLError as error:
                raise RunError(
                    f"gpu{number} ({self._names[number]}) does not respond: {error} "
                    "(nvidia-smi and dmesg may show why)"
                ) from error
            figures |= {f"gpu{number}_{name}": readings[name] for name in GPU_READINGS}
            joules.append(gpu.joules_since_first(readings, now))
        known = [energy for energy in joules if energy is not None]
        figures[ENERGY] = sum(known) / 3600 if len(known) == len(joules) else None
        return figures

    def close(self) -> None:
        """Shut NVML down."""
        with contextlib.suppress(self._nvml.NVMLError):  # a lost GPU: nothing is left to do
            self._nvml.nvmlShutdown()


def number_gpus_by_bus() -> None:
    """Have CUDA number GPUs as NVML and nvidia-smi do; to be called before it lists them.

    An order that the user has set stays.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


class _Device(NamedTuple):
    """A device that CUDA can compute on: a whole GPU or a MIG instance of one."""

    handle: Any
    name: str
    uuid: str
    is_instance: bool


class _Gpu:
    """The readings of one device."""

    def __init__(self, nvml: Any, device: _Device):
        self._nvml = nvml
        self._first_count: float | None = None
        self._last_power: tuple[float, float] | None = None  # time, watts
        self._joules: float | None = 0.0
        self._readers: dict[str, Callable[[], float]] = {}
        self.memory_gib: float | None = None
        self.description = f"{device.name}, {device.uuid}"
        handle = device.handle
        readers: dict[str, Callable[[], float]] = {
            "utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            # Version 2 excludes the memory that the driver reserves, as nvidia-smi does.
            "memory_mb": lambda: (
                nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2).used / MEGABYTE
            ),
            "temperature": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        }
        if not device.is_instance:
            readers["power"] = lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            readers["energy_counter"] = lambda: (
                nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
            )
        for name, read in readers.items():
            try:
                read()
            except nvml.NVMLError as error:  # not supported: not read again
                self.description += f"; no {name} ({error})"
            else:
                self._readers[name] = read
        with contextlib.suppress(nvml.NVMLError):
            self.memory_gib = (
                nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2).total / GIBIBYTE
            )

    def read(self) -> Figures:
        """Return the readings by name, with "energy_counter" in joules."""
        readings: Figures = dict.fromkeys((*GPU_READINGS, "energy_counter"))
        for name, read in self._readers.items():
            with contextlib.suppress(self._nvml.NVMLError_NotSupported):
                readings[name] = float(read())
        return readings

    def joules_since_first(self, readings: Figures, now: float) -> float | None:
        """Return the energy since the first call; to be called with every reading."""
        if "energy_counter" in self._readers:
            count = readings["energy_counter"]
            if self._first_count is None:
                self._first_count = count
            return None if count is None or self._first_count is None else count - self._first_count
        power = readings["power"]
        if power is None or self._joules is None:
            self._joules = None  # once an interval is unknown, so is the sum
            return None
        if self._last_power:
            before, power_before = self._last_power
            self._joules += (now - before) * (power_before + power) / 2
        self._last_power = now, power
        return self._joules


def _devices_by_gpu(nvml: Any) -> list[list[_Device]]:
    """Return the devices of each GPU in bus order: itself, or its instances if MIG is enabled."""

    def device(handle: Any, is_instance: bool) -> _Device:
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        return _Device(handle, name, uuid, is_instance)

    gpus: list[list[_Device]] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        gpus.append([])
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError_NoPermission:  # not ours, but CUDA numbers it too
            continue
        try:
            has_instances = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            has_instances = False
        if not has_instances:
            gpus[-1].append(device(handle, is_instance=False))
            continue
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError_NotFound, nvml.NVMLError_NoPermission):
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                gpus[-1].append(device(instance, is_instance=True))
    return gpus


def _devices_of_cuda(gpus: Sequence[Sequence[_Device]], visible: str | None) -> list[_Device]:
    """Return the devices that CUDA computes on, in its order.

    As CUDA reads it: numbers, UUIDs or prefixes of UUIDs, up to the first that is not valid. Of a
    GPU that is divided into instances, a number selects the first; without numbers or UUIDs, an
    instance is used only where there is no whole GPU.

    Args:
        gpus: the devices of each GPU, in bus order.
        visible: the value of CUDA_VISIBLE_DEVICES; None: all GPUs.
    """
    if visible is None:
        first = [devices[0] for devices in gpus if devices]
        return [device for device in first if not device.is_instance] or first[:1]
    every = [device for devices in gpus for device in devices]
    selected: list[_Device] = []
    for word in map(str.strip, visible.lower().split(",")):
        if word.isdecimal():
            found = list(gpus[int(word)][:1]) if int(word) < len(gpus) else []
        else:
            found = [device for device in every if word and device.uuid.lower().startswith(word)]
        if len(found) != 1:
            break
        selected += found
    return selected


def _require_same_models(names: Sequence[str], devices: Sequence[_Device]) -> None:
    """Raise a `RunError` unless devices have the names that TensorFlow reports."""
    of_nvml = [device.name for device in devices]
    if len(names) != len(devices) or not all(map(_same_model, names, of_nvml)):
        raise RunError(
            f"NVML shows {', '.join(of_nvml) or 'no GPU'} where TensorFlow uses "
            f"{', '.join(names)}: CUDA_VISIBLE_DEVICES with UUIDs (nvidia-smi -L), or "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID, makes them agree"
        )


def _same_model(name: str, other: str) -> bool:
    """Return whether one name is the other, or a shorter form of it; an instance is no GPU."""
    words, others = (set(re.findall(r"[a-z0-9]+", each.lower())) for each in (name, other))
    shorter = words - {"nvidia"} <= others or others - {"nvidia"} <= words
    return shorter and ("mig" in words) == ("mig" in others)


def driver_version() -> str:
    """Return the version of the NVIDIA driver; raises `RunError` without NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise RunError(f"NVML: {error}") from error
