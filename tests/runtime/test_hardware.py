import hashlib
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import psutil
import pynvml
import pytest
import tensorflow as tf

from violence_detection.runtime.hardware import (
    HardwareMonitor,
    NvidiaGpus,
    ThisMachine,
    hardware_source,
    utilization,
)
from violence_detection.runtime.logs import package_log

ADA = "NVIDIA RTX 5000 Ada Generation"
SMALL = "NVIDIA T400 4GB"
TURING = "NVIDIA RTX 5000"
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")  # where the tests run
NEVER = 3600.0  # seconds between two readings in the background


@dataclass
class StandInGpu:
    """What NVML says of a GPU; a test changes it as time goes on."""

    name: str = ADA
    uuid: str = "GPU-0000"
    utilization: float = 0
    memory: float = 0  # bytes
    temperature: float = 40
    power: float = 100  # watts
    joules: float = 5e6  # since the driver was loaded
    refused: set[str] = field(default_factory=set)  # functions that it does not support
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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-in's GPUs be all visible, whatever is set where the tests run."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Return a function that returns the warnings so far; a run's log need not reach pytest."""
    package_log.addHandler(caplog.handler)

    def so_far() -> list[str]:
        found = {id(r): r.getMessage() for r in caplog.records if r.levelname == "WARNING"}
        return list(found.values())

    yield so_far
    package_log.removeHandler(caplog.handler)


def watched(clock: Clock, *gpus: StandInGpu) -> HardwareMonitor:
    """Return a monitor of stand-ins that reads when told."""
    source = NvidiaGpus([gpu.name for gpu in gpus], StandInNvml(*gpus))
    return HardwareMonitor(source, NEVER, clock)


def test_figures_of_an_epoch_are_means_over_its_time(clock: Clock) -> None:
    first, second = StandInGpu(uuid="GPU-a"), StandInGpu(uuid="GPU-b", utilization=50)
    with watched(clock, first, second) as monitor:
        clock.now += 1
        first.utilization, first.memory, first.temperature, first.power = 20, 3e9, 50, 100
        monitor.sample()
        clock.now += 3
        first.utilization, first.memory, first.temperature, first.power = 80, 1e9, 70, 200
        figures = monitor.take()
        assert list(figures) == [
            *("gpu0_utilization", "gpu0_memory_mb", "gpu0_temperature", "gpu0_power"),
            *("gpu1_utilization", "gpu1_memory_mb", "gpu1_temperature", "gpu1_power"),
            "energy_wh",
        ]
        assert figures["gpu0_utilization"] == (1 * 20 + 3 * 80) / 4
        assert figures["gpu0_memory_mb"] == 3000  # the peak
        assert figures["gpu0_temperature"] == (1 * 50 + 3 * 70) / 4
        assert figures["gpu0_power"] == (1 * 100 + 3 * 200) / 4
        assert figures["gpu1_utilization"] == 50
        assert utilization(figures) == (65 + 50) / 2

        clock.now += 0.1  # an epoch shorter than the interval
        first.utilization, first.memory = 10, 2e9
        figures = monitor.take()
        assert figures["gpu0_utilization"] == pytest.approx(10)
        assert figures["gpu0_memory_mb"] == 2000
        first.utilization = 30
        assert monitor.take()["gpu0_utilization"] == 30  # at the same moment


def test_energy_by_the_counter(clock: Clock) -> None:
    first, second = StandInGpu(uuid="GPU-a", joules=7e8), StandInGpu(uuid="GPU-b")
    with watched(clock, first, second) as monitor:
        clock.now += 1
        first.joules += 3600
        second.joules += 1800
        monitor.sample()
        first.joules += 3600
        assert monitor.take()["energy_wh"] == pytest.approx(2.5)
        assert monitor.take()["energy_wh"] == 0
        first.joules += 7200
        assert monitor.take()["energy_wh"] == pytest.approx(2)
        second.joules += 360
    assert monitor.energy_kwh == pytest.approx(4.6e-3)  # with what came after the last take


def test_energy_integrated_where_a_gpu_has_no_counter(clock: Clock) -> None:
    old = StandInGpu(power=100, refused={"nvmlDeviceGetTotalEnergyConsumption"})
    new = StandInGpu(uuid="GPU-b")
    with watched(clock, old, new) as monitor:
        clock.now += 10
        old.power = 300
        monitor.sample()  # 10 s of 200 W on average
        clock.now += 4
        new.joules += 400
        assert monitor.take()["energy_wh"] == pytest.approx((10 * 200 + 4 * 300 + 400) / 3600)
        clock.now += 2
        old.power = 0
        assert monitor.take()["energy_wh"] == pytest.approx(2 * 150 / 3600)
        assert monitor.energy_kwh == pytest.approx((2000 + 1200 + 400 + 300) / 3.6e6)


def test_energy_is_unknown_once_a_stretch_of_it_is(clock: Clock) -> None:
    gpu = StandInGpu(refused={"nvmlDeviceGetTotalEnergyConsumption"})
    with watched(clock, gpu) as monitor:
        clock.now += 1
        assert monitor.take()["energy_wh"] == pytest.approx(100 / 3600)
        gpu.refused |= {"nvmlDeviceGetPowerUsage"}
        clock.now += 1
        monitor.sample()
        gpu.refused -= {"nvmlDeviceGetPowerUsage"}
        clock.now += 1
        figures = monitor.take()
        assert figures["gpu0_power"] == 100
        assert figures["energy_wh"] is None
    assert monitor.energy_kwh is None


@pytest.mark.parametrize(
    ("refused", "unknown"),
    [
        ({"nvmlDeviceGetUtilizationRates"}, {"gpu0_utilization"}),
        ({"nvmlDeviceGetMemoryInfo"}, {"gpu0_memory_mb"}),
        ({"nvmlDeviceGetTemperature"}, {"gpu0_temperature"}),
        ({"nvmlDeviceGetPowerUsage"}, {"gpu0_power"}),  # the counter is still there
        (
            {"nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption"},
            {"gpu0_power", "energy_wh"},
        ),
    ],
)
@pytest.mark.parametrize("from_the_start", [True, False])
def test_what_a_gpu_does_not_support_is_unknown_and_the_rest_is_known(
    refused: set[str],
    unknown: set[str],
    from_the_start: bool,
    clock: Clock,
    warnings: Callable[[], list[str]],
) -> None:
    gpu, other = StandInGpu(utilization=30), StandInGpu(uuid="GPU-b", utilization=50)
    gpu.refused = refused if from_the_start else set()
    with watched(clock, gpu, other) as monitor:
        gpu.refused = refused
        clock.now += 1
        figures = monitor.take()
        assert {column for column, value in figures.items() if value is None} == unknown
        assert (monitor.energy_kwh is None) == ("energy_wh" in unknown)
        assert utilization(figures) == (50 if "gpu0_utilization" in unknown else 40)
    assert not warnings()


def test_instance_of_a_gpu_is_not_given_the_whole_gpus_power(clock: Clock) -> None:
    def instance(uuid: str, memory: float) -> StandInGpu:
        refused = {"nvmlDeviceGetUtilizationRates"}
        name = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
        return StandInGpu(name, uuid, memory=memory, power=600, refused=refused)

    instances = [instance("MIG-a", 1e9), instance("MIG-b", 2e9)]
    whole = StandInGpu("NVIDIA H100 80GB HBM3", "GPU-a", memory=9e9, instances=instances)
    source = NvidiaGpus([instances[0].name], StandInNvml(whole))
    with HardwareMonitor(source, NEVER, clock) as monitor:
        clock.now += 1
        instances[0].joules += 600
        assert monitor.take() == {
            "gpu0_utilization": None,
            "gpu0_memory_mb": 1000,
            "gpu0_temperature": 40,
            "gpu0_power": None,
            "energy_wh": None,
        }
        assert monitor.energy_kwh is None


def test_lost_gpu_is_said_once_and_ends_nothing(
    clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    gpu = StandInGpu()
    with watched(clock, gpu) as monitor:
        clock.now += 1
        assert None not in monitor.take().values()
        gpu.lost = True
        for _ in range(3):
            clock.now += 1
            monitor.sample()
            assert set(monitor.take().values()) == {None}
        gpu.lost = False  # what was used meanwhile is not known
        assert set(monitor.take().values()) == {None}
    assert monitor.energy_kwh is None
    (warning,) = warnings()
    assert f"gpu0 ({ADA})" in warning
    assert "GPU is lost" in warning


def test_gpu_lost_after_the_last_epoch_is_said_at_the_end(
    clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    gpu = StandInGpu()
    with watched(clock, gpu) as monitor:
        gpu.lost = True
    assert "GPU is lost" in warnings()[0]
    assert monitor.energy_kwh is None


@pytest.mark.parametrize(
    ("visible", "names", "memories"),
    [
        # On the bus: a small GPU (1 MB used), two large ones (2 and 3 MB).
        pytest.param(None, [ADA, ADA, SMALL], [2, 3, 1], id="by speed"),
        pytest.param(None, [SMALL, ADA, ADA], [1, 2, 3], id="by bus"),
        pytest.param(None, [ADA], [2], id="one replica"),
        pytest.param("2", [ADA], [3], id="number"),
        pytest.param("2,1", [ADA, ADA], [3, 2], id="numbers turned round"),
        pytest.param(" 2 , 1 ", [ADA, ADA], [3, 2], id="spaces"),
        pytest.param("2,-1,1", [ADA], [3], id="up to an invalid number"),
        pytest.param("2", [SMALL], [1], id="number in the order of speed"),
        pytest.param("GPU-bbbb-3333,GPU-bbbb-2222", [ADA, ADA], [3, 2], id="UUIDs"),
        pytest.param("gpu-bbbb-3333", [ADA], [3], id="UUID in small letters"),
        pytest.param("GPU-bbbb-3", [ADA], [3], id="beginning of a UUID"),
        pytest.param("GPU-bbbb-3", [SMALL], [3], id="UUID before name"),
        pytest.param("GPU-bbbb", [ADA], [2], id="UUID of two: as if not set"),
        pytest.param("GPU-cccc", [ADA], [2], id="UUID of none: as if not set"),
        pytest.param("99", [SMALL], [1], id="number of none: as if not set"),
        pytest.param(None, ["RTX 5000 Ada Generation", "T400 4GB"], [2, 1], id="without maker"),
        pytest.param(None, ["nvidia rtx 5000 ada", "T400"], [2, 1], id="shorter names"),
        pytest.param(None, ["Device 2bb1", "Device 2bb2"], [1, 2], id="by order"),
        pytest.param("2,1", ["Device 2bb1", "Device 2bb2"], [3, 2], id="numbers, no name fits"),
        pytest.param(None, [ADA] * 3 + [SMALL], [1, 2, 3, None], id="more than NVML has"),
    ],
)
def test_gpus_of_tensorflow_are_found(
    visible: str | None,
    names: list[str],
    memories: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = StandInNvml(
        StandInGpu(SMALL, "GPU-aaaa-1111", memory=1e6),
        StandInGpu(ADA, "GPU-bbbb-2222", memory=2e6),
        StandInGpu(ADA, "GPU-bbbb-3333", memory=3e6),
    )
    figures = NvidiaGpus(names, nvml).read(0.0)
    assert [figures[f"gpu{number}_memory_mb"] for number in range(len(names))] == memories
    assert (figures["energy_wh"] is None) == (None in memories)


def test_name_that_is_the_same_goes_before_one_that_says_more() -> None:
    nvml = StandInNvml(
        StandInGpu(TURING, "GPU-a", memory=1e6), StandInGpu(ADA, "GPU-b", memory=2e6)
    )
    figures = NvidiaGpus([ADA, TURING], nvml).read(0.0)
    assert [figures["gpu0_memory_mb"], figures["gpu1_memory_mb"]] == [2, 1]


@pytest.mark.parametrize(
    ("visible", "names", "memories"),
    [
        ("MIG-b", ["NVIDIA H100 MIG 1g.10gb"], [12]),
        ("1", ["NVIDIA H100 MIG 1g.10gb"], [11]),  # CUDA takes the first instance
        ("2", ["NVIDIA H100"], [2]),
        (None, ["NVIDIA H100"], [2]),
    ],
)
def test_instances_and_forbidden_gpus_do_not_shift_the_numbers(
    visible: str | None,
    names: list[str],
    memories: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    instances = [
        StandInGpu("NVIDIA H100 MIG 1g.10gb", "MIG-a", memory=11e6),
        StandInGpu("NVIDIA H100 MIG 1g.10gb", "MIG-b", memory=12e6),
    ]
    nvml = StandInNvml(
        StandInGpu("NVIDIA H100", "GPU-0", forbidden=True),
        StandInGpu("NVIDIA H100", "GPU-1", instances=instances),
        StandInGpu("NVIDIA H100", "GPU-2", memory=2e6),
    )
    figures = NvidiaGpus(names, nvml).read(0.0)
    assert [figures["gpu0_memory_mb"]] == memories


@pytest.mark.parametrize(
    "error", [pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded]
)
def test_without_nvml_the_cpu_is_tracked_and_it_is_said_once(
    error: type[pynvml.NVMLError], warnings: Callable[[], list[str]]
) -> None:
    nvml = StandInNvml()
    nvml.init_error = error()
    with HardwareMonitor(hardware_source([ADA], nvml), NEVER) as monitor:
        assert list(monitor.take()) == ["cpu_utilization", "memory_mb"]
        assert monitor.energy_kwh is None
    (warning,) = warnings()
    assert str(error()) in warning
    assert "nvidia-smi" in warning


@pytest.mark.parametrize("gpus", [[], [StandInGpu(forbidden=True)]])
def test_gpus_that_nvml_does_not_show(
    gpus: list[StandInGpu], warnings: Callable[[], list[str]]
) -> None:
    nvml = StandInNvml(*gpus)
    assert isinstance(hardware_source([ADA], nvml), ThisMachine)
    assert len(warnings()) == 1
    assert nvml.users == 0  # NVML is let go of


def test_without_a_driver_here(warnings: Callable[[], list[str]]) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        assert isinstance(hardware_source([ADA]), ThisMachine)
        (warning,) = warnings()
        assert str(error) in warning
    else:
        pynvml.nvmlShutdown()
        pytest.skip("this machine has NVIDIA's driver")


def test_without_gpus_nothing_is_said_and_no_energy_is_given(
    warnings: Callable[[], list[str]],
) -> None:
    with HardwareMonitor(hardware_source([]), NEVER) as monitor:
        figures = monitor.take()
        assert list(figures) == ["cpu_utilization", "memory_mb"]
        assert figures["memory_mb"] == pytest.approx(
            psutil.Process().memory_info().rss / 1e6, rel=0.5
        )
        assert utilization(figures) is None
    assert monitor.energy_kwh is None
    assert not warnings()


def test_hardware_is_read_in_the_background_and_no_more_after_the_end() -> None:
    nvml = StandInNvml(StandInGpu())
    read_often = threading.Event()
    readings = 0

    def count() -> None:
        nonlocal readings
        readings += 1
        if readings == 10:
            read_often.set()

    with HardwareMonitor(NvidiaGpus([ADA], nvml), interval=0.01):
        nvml.on_reading = count
        assert read_often.wait(30)
    assert not any(thread.name == "hardware" for thread in threading.enumerate())
    assert nvml.users == 0  # NVML is let go of


def test_end_does_not_wait_for_the_next_reading(clock: Clock) -> None:
    with watched(clock, StandInGpu()):
        began = time.monotonic()
    assert time.monotonic() - began < 5  # of an hour


def test_takes_of_several_threads_share_the_energy_without_loss() -> None:
    gpu = StandInGpu()
    nvml = StandInNvml(gpu)

    def use() -> None:
        gpu.joules += 3600
        time.sleep(1e-4)  # another thread's turn, in the middle of a reading

    with HardwareMonitor(NvidiaGpus([ADA], nvml), interval=0.001) as monitor:
        nvml.on_reading = use
        with ThreadPoolExecutor(8) as threads:
            takes = list(threads.map(lambda _: monitor.take()["energy_wh"], range(400)))
        nvml.on_reading = lambda: None
        takes.append(monitor.take()["energy_wh"])
    assert min(takes) >= 0
    assert sum(takes) == pytest.approx(1000 * monitor.energy_kwh)
    assert sum(takes) >= 400


def test_busy_cores_show() -> None:
    machine = ThisMachine()
    psutil.cpu_percent()
    machine.read(0.0)
    until = time.perf_counter() + 0.5

    def work(_: int) -> None:
        while time.perf_counter() < until:
            hashlib.sha256(bytes(10_000_000))  # without holding up the other threads

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(work, range(os.cpu_count())))
    measured, expected = machine.read(1.0)["cpu_utilization"], psutil.cpu_percent()
    assert measured > 60
    assert measured == pytest.approx(expected, abs=15)


def test_memory_that_is_taken_shows() -> None:
    machine = ThisMachine()
    before = machine.read(0.0)["memory_mb"]
    taken = np.ones(25_000_000)  # 200 MB
    with_it = machine.read(1.0)["memory_mb"]
    assert with_it - before == pytest.approx(200, abs=40)
    del taken
    assert machine.read(2.0)["memory_mb"] < with_it - 150


def test_children_count_until_they_end() -> None:
    machine = ThisMachine()
    without = machine.read(0.0)["memory_mb"]
    program = "taken = b'x' * 200_000_000; print('taken', flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"taken\n"
        assert machine.read(9.0)["memory_mb"] < without + 100  # not looked for yet
        assert machine.read(10.0)["memory_mb"] > without + 190
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert machine.read(11.0)["memory_mb"] < without + 100  # dead, not yet buried
    assert machine.read(12.0)["memory_mb"] < without + 100  # gone
    assert machine.read(20.0)["memory_mb"] < without + 100


def test_reading_cpu_and_memory_is_cheap() -> None:
    machine = ThisMachine()
    machine.read(0.0)
    costs = []
    for _ in range(100):
        began = time.perf_counter()
        machine.read(1.0)
        costs.append(time.perf_counter() - began)
    assert statistics.median(costs) < 2e-3


def test_system_that_does_not_tell_is_said_once_and_ends_nothing(
    warnings: Callable[[], list[str]],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with HardwareMonitor(ThisMachine(), NEVER) as monitor:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # no file can be opened
        try:
            monitor.sample()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(2):
            assert monitor.take() == {"cpu_utilization": None, "memory_mb": None}
    assert len(warnings()) == 1


def test_real_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    if VISIBLE is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"there is no NVIDIA GPU that can be read here ({error})")
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    of_nvml = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    pynvml.nvmlShutdown()
    of_tensorflow = [
        tf.config.experimental.get_device_details(gpu)["device_name"]
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    names = of_tensorflow or of_nvml
    source = hardware_source(names)
    assert isinstance(source, NvidiaGpus)
    with HardwareMonitor(source, interval=0.1) as monitor:
        monitor.take()
        began = time.monotonic()
        if of_tensorflow:
            with tf.device("/GPU:0"):
                matrix = tf.random.normal((4096, 4096))
        while time.monotonic() - began < 3:
            if of_tensorflow:
                with tf.device("/GPU:0"):
                    tf.reduce_sum(matrix @ matrix).numpy()
            else:
                monitor.sample()
        figures, seconds = monitor.take(), time.monotonic() - began
    power = 0.0
    for number in range(len(names)):
        assert figures[f"gpu{number}_memory_mb"] > 0
        # A part of a GPU (MIG) does not tell the following.
        of_gpu = (figures[f"gpu{number}_{name}"] for name in ("utilization", "temperature"))
        percent, celsius = of_gpu
        assert percent is None or 0 <= percent <= 100
        assert celsius is None or 10 < celsius < 110
        power += figures[f"gpu{number}_power"] or 0
    if of_tensorflow and figures["gpu0_utilization"] is not None:
        assert figures["gpu0_utilization"] > 20
    if figures["energy_wh"] is not None and power:
        # What NVML calls power is of the second before.
        assert figures["energy_wh"] * 3600 == pytest.approx(power * seconds, rel=0.5)
        assert 1000 * monitor.energy_kwh >= figures["energy_wh"]


def test_memory_of_each_device_is_told() -> None:
    assert NvidiaGpus(
        ["A", "B"], StandInNvml(StandInGpu(name="A"), StandInGpu(name="B"))
    ).memory_gib == [
        32.0,
        32.0,
    ]
    assert ThisMachine().memory_gib == [pytest.approx(psutil.virtual_memory().total / 2**30)]
