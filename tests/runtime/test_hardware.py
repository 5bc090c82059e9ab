import hashlib
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pynvml
import pytest

from tests.runtime.nvml import ADA, NEVER, Clock, StandInGpu, StandInNvml, watched
from violence_detection.runtime.gpus import NvidiaGpus
from violence_detection.runtime.hardware import (
    HardwareMonitor,
    ThisMachine,
    hardware_source,
    utilization,
)


def test_readings_of_an_epoch_are_means_over_its_time(clock: Clock) -> None:
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


def test_lost_gpu_is_reported_once_and_ends_nothing(
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
        gpu.lost = False  # the energy used meanwhile is unknown
        assert set(monitor.take().values()) == {None}
    assert monitor.energy_kwh is None
    (warning,) = warnings()
    assert f"gpu0 ({ADA})" in warning
    assert "GPU is lost" in warning


def test_gpu_lost_after_the_last_epoch_is_reported_at_the_end(
    clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    gpu = StandInGpu()
    with watched(clock, gpu) as monitor:
        gpu.lost = True
    assert "GPU is lost" in warnings()[0]
    assert monitor.energy_kwh is None


@pytest.mark.parametrize(
    "error", [pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded]
)
def test_without_nvml_the_cpu_is_tracked_with_one_warning(
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
    assert nvml.users == 0  # NVML is shut down


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


def test_without_gpus_there_is_no_warning_and_no_energy(
    warnings: Callable[[], list[str]],
) -> None:
    with HardwareMonitor(hardware_source([]), NEVER) as monitor:
        figures = monitor.take()
        assert list(figures) == ["cpu_utilization", "memory_mb"]
        own = psutil.Process()
        resident = sum(p.memory_info().rss for p in [own, *own.children(recursive=True)])
        assert figures["memory_mb"] == pytest.approx(resident / 1e6, rel=0.5)
        assert utilization(figures) is None
    assert monitor.energy_kwh is None
    assert not warnings()


def test_hardware_is_read_in_the_background_until_the_end() -> None:
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
    assert nvml.users == 0  # NVML is shut down


def test_end_does_not_wait_for_the_next_reading(clock: Clock) -> None:
    with watched(clock, StandInGpu()):
        began = time.monotonic()
    assert time.monotonic() - began < 5  # of an hour


def test_takes_of_several_threads_add_up_to_the_energy() -> None:
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


def test_allocated_memory_shows() -> None:
    machine = ThisMachine()
    before = machine.read(0.0)["memory_mb"]
    allocated = np.ones(25_000_000)  # 200 MB
    with_it = machine.read(1.0)["memory_mb"]
    assert with_it - before == pytest.approx(200, abs=40)
    del allocated
    assert machine.read(2.0)["memory_mb"] < with_it - 150


def test_children_count_until_they_end() -> None:
    machine = ThisMachine()
    without = machine.read(0.0)["memory_mb"]
    program = "data = b'x' * 200_000_000; print('ready', flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        assert machine.read(9.0)["memory_mb"] < without + 100  # not looked up yet
        assert machine.read(10.0)["memory_mb"] > without + 190
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert machine.read(11.0)["memory_mb"] < without + 100  # a zombie
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


def test_unreadable_system_is_reported_once_and_ends_nothing(
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


def test_memory_of_the_machine() -> None:
    assert ThisMachine().memory_gib == [pytest.approx(psutil.virtual_memory().total / 2**30)]
