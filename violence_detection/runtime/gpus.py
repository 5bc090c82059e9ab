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

    TensorFlow does not expose which of NVML's GPUs it uses: NVML numbers them by PCI bus, CUDA by
    speed (unless CUDA_DEVICE_ORDER is PCI_BUS_ID). UUIDs in CUDA_VISIBLE_DEVICES settle it. If it
    holds numbers or is not set, GPUs are matched by model name, those of one model in bus order;
    if a name matches none, by order alone. One case can confuse two GPUs of the same model: a
    number selects one of them, and a third GPU is of another model. UUIDs avoid it.

    A reading that a GPU does not support is None. So are power and energy of a MIG instance, where
    NVML returns those of the whole GPU.

    Args:
        names: the models of TensorFlow's GPUs, in its order.
        nvml: the module pynvml, or a replacement.

    Raises:
        RunError: NVML is missing, does not work, or shows no GPU.
    """

    def __init__(self, names: Sequence[str], nvml: Any = None):
        if nvml is None:
            import pynvml  # only where there are GPUs

            nvml = pynvml
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            try:
                devices = _devices_of_tensorflow(
                    names, _devices_by_gpu(nvml), os.environ.get("CUDA_VISIBLE_DEVICES")
                )
                if not any(devices):
                    raise nvml.NVMLError_NotFound()
                self._gpus = [_Gpu(nvml, device) for device in devices]
            except nvml.NVMLError:
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


class _Device(NamedTuple):
    """A device that CUDA can compute on: a whole GPU or a MIG instance of one."""

    handle: Any
    name: str
    uuid: str
    is_instance: bool


class _Gpu:
    """The readings of one device; all None without a device."""

    def __init__(self, nvml: Any, device: _Device | None):
        self._nvml = nvml
        self._first_count: float | None = None
        self._last_power: tuple[float, float] | None = None  # time, watts
        self._joules: float | None = 0.0
        self._readers: dict[str, Callable[[], float]] = {}
        self.memory_gib: float | None = None
        if device is None:
            self.description = "unknown to NVML"
            return
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


def _devices_of_tensorflow(
    names: Sequence[str], gpus: Sequence[Sequence[_Device]], visible: str | None
) -> list[_Device | None]:
    """Return the device of each of TensorFlow's GPUs; None where NVML has no more.

    Args:
        names: the models of TensorFlow's GPUs.
        gpus: the devices of each GPU, in bus order.
        visible: the value of CUDA_VISIBLE_DEVICES.
    """
    every = [device for devices in gpus for device in devices]
    named, by_uuid = _visible_devices(gpus, visible or "")
    if by_uuid and len(named) >= len(names):
        return list(named[: len(names)])
    in_order = [*named, *(device for device in every if device not in named)]
    for matches in (_same_words, _words_within):
        if len(in_order) >= len(names) and all(map(matches, names, (d.name for d in in_order))):
            break
        if found := _by_name(names, every, matches):
            return list(found)
    return [*in_order, *[None] * len(names)][: len(names)]


def _by_name(
    names: Sequence[str], devices: Sequence[_Device], matches: Callable[[str, str], bool]
) -> list[_Device]:
    """Return a different device for each name, the first that matches; empty if one has none."""
    left, found = list(devices), []
    for name in names:
        device = next((device for device in left if matches(name, device.name)), None)
        if device is None:
            return []
        left.remove(device)
        found.append(device)
    return found


def _visible_devices(gpus: Sequence[Sequence[_Device]], setting: str) -> tuple[list[_Device], bool]:
    """Return the devices that CUDA_VISIBLE_DEVICES selects, and whether all by their UUIDs.

    As CUDA reads it: numbers, UUIDs or prefixes of UUIDs, up to the first that is not valid.
    """
    words = [word.strip().lower() for word in setting.split(",")]
    devices: list[_Device] = []
    by_uuid = True
    for word in words:
        if word.isdecimal():
            by_uuid = False
            found = list(gpus[int(word)][:1]) if int(word) < len(gpus) else []
        else:
            every = (device for devices_of_gpu in gpus for device in devices_of_gpu)
            found = [device for device in every if word and device.uuid.lower().startswith(word)]
        if len(found) != 1:
            break
        devices += found
    return devices, by_uuid


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower())) - {"nvidia"}


def _same_words(name: str, other: str) -> bool:
    return _words(name) == _words(other)


def _words_within(name: str, other: str) -> bool:
    """Return whether one name is a longer form: "RTX 5000 Ada" and "RTX 5000 Ada Generation"."""
    words, others = _words(name), _words(other)
    return bool(words and others) and (words <= others or others <= words)
