import os
import time
from collections.abc import Callable

import pynvml
import pytest
import tensorflow as tf

from tests.runtime.nvml import ADA, NEVER, Clock, StandInGpu, StandInNvml, watched
from violence_detection.errors import RunError
from violence_detection.runtime.devices import find_devices
from violence_detection.runtime.gpus import NvidiaGpus
from violence_detection.runtime.hardware import HardwareMonitor, hardware_source, utilization

SMALL = "NVIDIA T400 4GB"
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")  # where the tests run


@pytest.fixture(autouse=True)
def no_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all GPUs of the stand-in visible, whatever is set where the tests run."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


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


def test_energy_is_unknown_once_an_interval_is(clock: Clock) -> None:
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
def test_unsupported_readings_are_unknown_and_the_rest_is_known(
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


def test_instance_has_no_power_of_the_whole_gpu(clock: Clock) -> None:
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


# On the bus: a small GPU (1 MB used), two large ones (2 and 3 MB).
def three_gpus() -> StandInNvml:
    return StandInNvml(
        StandInGpu(SMALL, "GPU-aaaa-1111", memory=1e6),
        StandInGpu(ADA, "GPU-bbbb-2222", memory=2e6),
        StandInGpu(ADA, "GPU-bbbb-3333", memory=3e6),
    )


@pytest.mark.parametrize(
    ("visible", "names", "memories"),
    [
        pytest.param(None, [SMALL, ADA, ADA], [1, 2, 3], id="all"),
        pytest.param(None, [SMALL], [1], id="one replica"),
        pytest.param("2", [ADA], [3], id="number"),
        pytest.param("2,1", [ADA, ADA], [3, 2], id="numbers reversed"),
        pytest.param(" 2 , 1 ", [ADA, ADA], [3, 2], id="spaces"),
        pytest.param("2,-1,1", [ADA], [3], id="up to an invalid number"),
        pytest.param("GPU-bbbb-3333,GPU-bbbb-2222", [ADA, ADA], [3, 2], id="UUIDs"),
        pytest.param("gpu-bbbb-3333", [ADA], [3], id="UUID in small letters"),
        pytest.param("GPU-bbbb-3", [ADA], [3], id="beginning of a UUID"),
        pytest.param(None, ["T400 4GB", "RTX 5000 Ada Generation"], [1, 2], id="without maker"),
        pytest.param(None, ["T400", "nvidia rtx 5000 ada"], [1, 2], id="shorter names"),
    ],
)
def test_gpus_of_tensorflow_are_found(
    visible: str | None, names: list[str], memories: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    figures = NvidiaGpus(names, three_gpus()).read(0.0)
    assert [figures[f"gpu{number}_memory_mb"] for number in range(len(names))] == memories


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        pytest.param(None, [ADA, ADA, SMALL], id="another order"),
        pytest.param(None, [SMALL, ADA, ADA, ADA], id="more than NVML has"),
        pytest.param("GPU-bbbb-3", [SMALL], id="another model"),
        pytest.param("GPU-bbbb", [ADA], id="UUID of two"),
        pytest.param("99", [SMALL], id="number of none"),
    ],
)
def test_gpus_that_are_not_those_of_tensorflow_are_not_read(
    visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings of another GPU would be worse than none."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = three_gpus()
    with pytest.raises(RunError, match=r"where TensorFlow uses .*nvidia-smi -L"):
        NvidiaGpus(names, nvml)
    assert nvml.users == 0


@pytest.mark.parametrize("given", [None, "FASTEST_FIRST"])
def test_cuda_numbers_gpus_by_bus_unless_told_otherwise(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    find_devices(1)
    assert os.environ["CUDA_DEVICE_ORDER"] == (given or "PCI_BUS_ID")


@pytest.mark.parametrize(
    ("visible", "names", "memories"),
    [
        ("MIG-b", ["NVIDIA H100 MIG 1g.10gb"], [12]),
        ("1", ["NVIDIA H100 MIG 1g.10gb"], [11]),  # CUDA takes the first instance
        ("2", ["NVIDIA H100"], [2]),
        (None, ["NVIDIA H100"], [2]),
    ],
)
def test_instances_and_forbidden_gpus_keep_the_numbering(
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
        # A MIG instance has none of the following.
        of_gpu = (figures[f"gpu{number}_{name}"] for name in ("utilization", "temperature"))
        percent, celsius = of_gpu
        assert percent is None or 0 <= percent <= 100
        assert celsius is None or 10 < celsius < 110
        power += figures[f"gpu{number}_power"] or 0
    if of_tensorflow and figures["gpu0_utilization"] is not None:
        assert figures["gpu0_utilization"] > 20
    if figures["energy_wh"] is not None and power:
        # NVML's power is an average over the last second.
        assert figures["energy_wh"] * 3600 == pytest.approx(power * seconds, rel=0.5)
        assert 1000 * monitor.energy_kwh >= figures["energy_wh"]


def test_memory_of_each_gpu() -> None:
    nvml = StandInNvml(StandInGpu(name="A"), StandInGpu(name="B"))
    assert NvidiaGpus(["A", "B"], nvml).memory_gib == [32.0, 32.0]
