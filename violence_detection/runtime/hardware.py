"""What a run takes of the machine: the GPUs' readings, or CPU and memory; energy and its price."""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict

import psutil

from violence_detection.errors import RunError

log = logging.getLogger(__name__)

MEGABYTE = 1e6  # bytes
GIBIBYTE = 2**30
GPU_READINGS = ("utilization", "memory_mb", "temperature", "power")
ENERGY = "energy_wh"
LOOK_FOR_CHILDREN_EVERY = 10.0  # seconds: it means a look at every process of the machine

Figures = dict[str, float | None]


class NvidiaGpus:
    """The NVIDIA GPUs that TensorFlow uses, read by NVML, the driver's own library.

    TensorFlow does not tell which of NVML's GPUs are its own: NVML numbers them by bus, CUDA by
    speed, unless CUDA_DEVICE_ORDER is PCI_BUS_ID. If CUDA_VISIBLE_DEVICES gives UUIDs, it is
    those. If it gives numbers, or is not set, they are found by model name, those of one model in
    the order of the bus; if a name fits none, by order alone. This may take one GPU for another
    of the same model in one case: where a number chooses among them, and another model is there,
    too. Then give UUIDs.

    A reading that a GPU does not give is None. So are power and energy of a part of a GPU (MIG):
    what NVML gives there is the whole GPU's.

    Args:
        names: the models of TensorFlow's GPUs, in its order.
        nvml: the module pynvml, or what stands in for it.

    Raises:
        RunError: there is no NVML, it does not work, or shows no GPU.
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
        """Return the names of the figures, the same in every reading."""
        numbers = range(len(self._gpus))
        return (*(f"gpu{n}_{reading}" for n in numbers for reading in GPU_READINGS), ENERGY)

    @property
    def memory_gib(self) -> list[float | None]:
        """Return the memory of each GPU, in GiB; None: it does not tell."""
        return [gpu.memory_gib for gpu in self._gpus]

    def read(self, now: float) -> Figures:
        """Return what the GPUs do, whoever has them do it.

        By column: `gpu{n}_utilization`, the percentage of time in which anything was computed,
        over what the GPU takes as one period (1/6 s to 1 s); `gpu{n}_memory_mb` in 10^6 bytes;
        `gpu{n}_temperature` in degrees Celsius; `gpu{n}_power` in watts; and `energy_wh`, the
        watt-hours of all GPUs since the first reading. These come from each GPU's own counter
        (Volta and later), else from its power, integrated over time by the trapezoidal rule;
        None if one GPU tells neither.

        Args:
            now: seconds of a clock that is never set back.

        Raises:
            RunError: a GPU does not answer any more.
        """
        figures: Figures = {}
        joules: list[float | None] = []
        for number, gpu in enumerate(self._gpus):
            try:
                readings = gpu.read()
            except self._nvml.NVMLError as error:
                raise RunError(
                    f"gpu{number} ({self._names[number]}) does not answer: {error} "
                    "(nvidia-smi and dmesg may say why)"
                ) from error
            figures |= {f"gpu{number}_{name}": readings[name] for name in GPU_READINGS}
            joules.append(gpu.joules_since_first(readings, now))
        known = [energy for energy in joules if energy is not None]
        figures[ENERGY] = sum(known) / 3600 if len(known) == len(joules) else None
        return figures

    def close(self) -> None:
        """Let go of NVML."""
        with contextlib.suppress(self._nvml.NVMLError):  # of a lost GPU: nothing is left to do
            self._nvml.nvmlShutdown()


class _Device(NamedTuple):
    """What CUDA may compute on: a GPU, or an instance, a part of one (MIG)."""

    handle: Any
    name: str
    uuid: str
    is_instance: bool


class _Gpu:
    """The readings of one device; of none, they are all None."""

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
            # Its version 2 leaves out what the driver keeps for itself, as nvidia-smi does.
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
            except nvml.NVMLError as error:  # not asked again
                self.description += f"; no {name} ({error})"
            else:
                self._readers[name] = read
        with contextlib.suppress(nvml.NVMLError):
            self.memory_gib = (
                nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2).total / GIBIBYTE
            )

    def read(self) -> Figures:
        """Return each reading by its name, and the "energy_counter" in joules."""
        readings: Figures = dict.fromkeys((*GPU_READINGS, "energy_counter"))
        for name, read in self._readers.items():
            with contextlib.suppress(self._nvml.NVMLError_NotSupported):
                readings[name] = float(read())
        return readings

    def joules_since_first(self, readings: Figures, now: float) -> float | None:
        """Return the energy since the first of these calls; to be called with every reading."""
        if "energy_counter" in self._readers:
            count = readings["energy_counter"]
            if self._first_count is None:
                self._first_count = count
            return None if count is None or self._first_count is None else count - self._first_count
        power = readings["power"]
        if power is None or self._joules is None:
            self._joules = None  # once a stretch is unknown, so is the sum
            return None
        if self._last_power:
            before, power_before = self._last_power
            self._joules += (now - before) * (power_before + power) / 2
        self._last_power = now, power
        return self._joules


def _devices_by_gpu(nvml: Any) -> list[list[_Device]]:
    """Return, of each GPU in the order of the bus, itself, or its instances if it has MIG on."""

    def device(handle: Any, is_instance: bool) -> _Device:
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        return _Device(handle, name, uuid, is_instance)

    gpus: list[list[_Device]] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        gpus.append([])
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError_NoPermission:  # another's; it is counted all the same
            continue
        try:
            has_instances = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            has_instances = False
        if not has_instances:
            gpus[-1].append(device(handle, is_instance=False))
            continue
        for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError_NotFound, nvml.NVMLError_NoPermission):
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                gpus[-1].append(device(instance, is_instance=True))
    return gpus


def _devices_of_tensorflow(
    names: Sequence[str], gpus: Sequence[Sequence[_Device]], visible: str | None
) -> list[_Device | None]:
    """Return the device of each of TensorFlow's GPUs; None where NVML has none left.

    Args:
        names: of TensorFlow's GPUs.
        gpus: of each GPU in the order of the bus, what CUDA may compute on.
        visible: CUDA_VISIBLE_DEVICES.
    """
    every = [device for devices in gpus for device in devices]
    named, by_uuid = _visible_devices(gpus, visible or "")
    if by_uuid and len(named) >= len(names):
        return list(named[: len(names)])
    in_order = [*named, *(device for device in every if device not in named)]
    for fits in (_same_words, _words_within):
        if len(in_order) >= len(names) and all(map(fits, names, (d.name for d in in_order))):
            break
        if found := _by_name(names, every, fits):
            return list(found)
    return [*in_order, *[None] * len(names)][: len(names)]


def _by_name(
    names: Sequence[str], devices: Sequence[_Device], fits: Callable[[str, str], bool]
) -> list[_Device]:
    """Return the first device that is left for each name; none at all if one has none."""
    left, found = list(devices), []
    for name in names:
        device = next((device for device in left if fits(name, device.name)), None)
        if device is None:
            return []
        left.remove(device)
        found.append(device)
    return found


def _visible_devices(gpus: Sequence[Sequence[_Device]], setting: str) -> tuple[list[_Device], bool]:
    """Return the devices that CUDA_VISIBLE_DEVICES names, and whether all by their UUIDs.

    As CUDA reads it: numbers, UUIDs or the beginnings of UUIDs, up to the first that names none.
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
    """Return whether one of two names only says more: "RTX 5000 Ada" and "… Ada Generation"."""
    words, others = _words(name), _words(other)
    return bool(words and others) and (words <= others or others <= words)


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


class Usage(TypedDict):
    """What a run has used and cost; costs and prices are in the user's own currency."""

    seconds: float
    energy_kwh: float | None  # of its GPUs alone
    electricity_price: float  # of a kWh
    electricity_cost: float | None
    cloud_price: float | None  # of an hour
    cloud_cost: float | None


def usage(
    seconds: float,
    energy_kwh: float | None,
    electricity_price: float,
    cloud_price: float | None,
) -> Usage:
    """Return what a run has used and cost, for the results.

    Args:
        seconds: that it took.
        energy_kwh: of its GPUs; None if unknown, and so is then what it cost.
        electricity_price: of a kWh.
        cloud_price: of an hour of such a machine in a cloud; None: there is none to compare with.
    """
    return {
        "seconds": seconds,
        "energy_kwh": energy_kwh,
        "electricity_price": electricity_price,
        "electricity_cost": None if energy_kwh is None else energy_kwh * electricity_price,
        "cloud_price": cloud_price,
        "cloud_cost": None if cloud_price is None else seconds / 3600 * cloud_price,
    }


def describe_usage(used: Usage) -> str:
    """Return `usage` in a line; energy that is not known is not mentioned."""
    words = _duration(used["seconds"])
    energy, cost = used["energy_kwh"], used["electricity_cost"]
    if energy is not None and cost is not None:
        amount = f"{energy:.2f} kWh" if energy >= 0.1 else f"{1000 * energy:.3g} Wh"
        words += f", {amount}, {_cost(cost)} at {_price(used['electricity_price'])} per kWh"
    price, cost = used["cloud_price"], used["cloud_cost"]
    if price is not None and cost is not None:
        words += f"; the cloud at {_price(price)} per hour: {_cost(cost)}"
    return words


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _cost(amount: float) -> str:
    return "under 0.01" if 0 < amount < 0.005 else f"{amount:.2f}"


def _price(price: float) -> str:
    return f"{price:.2f}" if price == round(price, 2) else f"{price:g}"
