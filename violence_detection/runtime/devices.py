"""What a run computes on: devices, distribution strategy, precision, free memory."""

import contextlib
import platform
import re
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from violence_detection.errors import RunError, UserError
from violence_detection.runtime.cluster import Cluster
from violence_detection.runtime.gpus import number_gpus_by_bus
from violence_detection.settings.checks import check_batch_divides

# CPU features with which TensorFlow's bfloat16 kernels are faster than float32.
CPU_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, Arm


@dataclass(frozen=True)
class Precision:
    """The precision of the networks.

    Args:
        computation: dtype of VGG19's arithmetic.
        policy: Keras dtype policy of the classifier, whose weights are float32 in any case.
        reason: why it was chosen, for the log.
    """

    computation: str
    policy: str
    reason: str


def find_devices(replicas: int | None, workers: int = 1) -> list[tf.config.LogicalDevice]:
    """Return one device per replica: GPUs if there are any, else logical devices of the CPU.

    To be called before TensorFlow has computed anything. GPU memory grows as it is needed.

    Args:
        replicas: number of replicas of this worker; None: all GPUs, or the CPU as one.
        workers: number of workers; with several, the CPU is always one device.

    Raises:
        UserError: there are fewer GPUs than `replicas`, or several replicas on the CPU of one of
            several workers.
    """
    number_gpus_by_bus()
    gpus = tf.config.list_physical_devices("GPU")
    if workers > 1 and not gpus and (replicas or 1) > 1:
        raise UserError(
            f"--replicas {replicas}: a worker without GPUs is one replica: start more workers, "
            "or leave it out"
        )
    if not gpus:
        if workers > 1:
            return _named("CPU", 1)
        replicas = replicas or 1
        cpu = tf.config.list_physical_devices("CPU")[0]
        if replicas > len(tf.config.get_logical_device_configuration(cpu) or [cpu]):
            parts = [tf.config.LogicalDeviceConfiguration()] * replicas
            tf.config.set_logical_device_configuration(cpu, parts)
        return tf.config.list_logical_devices("CPU")[:replicas]
    if replicas is not None and replicas > len(gpus):
        there_are = "there is 1 GPU" if len(gpus) == 1 else f"there are {len(gpus)} GPUs"
        raise UserError(f"--replicas {replicas}: {there_are}")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if workers > 1:
        tf.config.set_visible_devices(gpus[:replicas], "GPU")
        return _named("GPU", len(gpus[:replicas]))
    return tf.config.list_logical_devices("GPU")[:replicas]


def _named(kind: str, count: int) -> list[tf.config.LogicalDevice]:
    """Return devices without asking TensorFlow, which would start without the other workers."""
    return [tf.config.LogicalDevice(f"/device:{kind}:{n}", kind) for n in range(count)]


def make_strategy(
    devices: list[tf.config.LogicalDevice], batch_size: int, cluster: Cluster | None = None
) -> tf.distribute.Strategy:
    """Return a distribution strategy with one replica per device.

    Args:
        devices: of this worker.
        batch_size: clips per batch, over all replicas of all workers.
        cluster: the workers of the run; with several, the strategy is over the devices of all,
            which must have equally many.

    Raises:
        UserError: the number of replicas does not divide `batch_size`.
        RunError: another worker did not start.
    """
    workers = cluster.worker.count if cluster else 1
    check_batch_divides(batch_size, workers * len(devices))
    if cluster and workers > 1:
        return cluster.join(len(devices) if devices[0].device_type == "GPU" else 0)
    if len(devices) == 1 and devices[0].device_type == "CPU":
        return tf.distribute.get_strategy()
    # TensorFlow numbers the collectives of every strategy from the same start, and confuses those
    # of a second strategy with the first's. Its own tests move the start in this way.
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def on_this_host(
    strategy: tf.distribute.Strategy, devices: list[tf.config.LogicalDevice]
) -> tf.distribute.Strategy:
    """Return a strategy over this worker's devices alone, which never waits for other workers.

    Args:
        strategy: the run's; returned as it is if there is only one worker.
        devices: of this worker.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return strategy
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(
        [device.name for device in devices], tf.distribute.ReductionToOneDevice()
    )


def choose_precision(
    mixed_precision: bool, device_type: str, cpu_features: Collection[str] | None = None
) -> Precision:
    """Return the fastest precision that a device supports: float16, bfloat16 or float32.

    Args:
        mixed_precision: whether anything but float32 is allowed (`--mixed-precision`).
        device_type: "GPU" or "CPU".
        cpu_features: the CPU's feature flags; None: of this machine.
    """
    if not mixed_precision:
        return Precision("float32", "float32", "--no-mixed-precision")
    if device_type == "GPU":
        return Precision("float16", "mixed_float16", "mixed precision on a GPU, with loss scaling")
    features = cpu_flags() if cpu_features is None else cpu_features
    found = next((flag for flag in CPU_BFLOAT16_FLAGS if flag in features), None)
    if found:
        return Precision("bfloat16", "mixed_bfloat16", f"mixed precision on a CPU with {found}")
    return Precision(
        "float32", "float32", "mixed precision requested, but this CPU has no bfloat16 units"
    )


def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as Linux lists them; empty on other systems."""
    return frozenset((_cpu_info("flags") or _cpu_info("features")).split())


def _cpu_info(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = next((line for line in lines if line.lower().startswith(field)), "")
    return found.partition(":")[2].strip()


def gpus_left_out(devices: list[tf.config.LogicalDevice]) -> bool:
    """Return whether the machine has an NVIDIA GPU although `devices` are the CPU's."""
    return devices[0].device_type == "CPU" and Path("/dev/nvidia0").exists()


def gpu_names(devices: list[tf.config.LogicalDevice]) -> list[str]:
    """Return the model name of each GPU among the devices, as TensorFlow reports it."""
    physical = tf.config.list_physical_devices("GPU")
    gpus = [device for device in devices if device.device_type == "GPU"]
    return [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu, _ in zip(physical, gpus, strict=False)
    ]


def describe_devices(
    devices: list[tf.config.LogicalDevice], memory: Sequence[float | None] = ()
) -> list[str]:
    """Return a line per device: its name, its model and, if known, its memory.

    Args:
        devices: of this worker.
        memory: of each device in GiB; None: unknown.
    """
    models = gpu_names(devices) or [_cpu_info("model name") or platform.machine()] * len(devices)
    lines = []
    for number, (device, model) in enumerate(zip(devices, models, strict=True)):
        size = memory[number] if number < len(memory) else None
        lines.append(f"{device.name} ({model}{'' if size is None else f', {size:.1f} GiB'})")
    return lines


@contextlib.contextmanager
def enough_memory(
    devices: list[tf.config.LogicalDevice], doing: str, advice: str
) -> Iterator[None]:
    """Raise a `RunError` if the block runs out of memory, with what is free and what helps.

    Args:
        devices: whose free memory is named in the message.
        doing: the stage, with the size of its batches.
        advice: what reduces the memory, or what else helps: one or more sentences.
    """
    try:
        yield
    except (tf.errors.OpError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not _says_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory in {doing}; {'; '.join(map(free_memory, devices))}.\n{advice}"
        ) from error


def _says_out_of_memory(error: tf.errors.OpError) -> bool:
    # A full disk is a ResourceExhaustedError, too; XLA and cuDNN have messages of their own.
    words = r"\boom\b|out of memory|bad_alloc|memoryerror|unable to allocate"
    return re.search(words, str(error), re.IGNORECASE) is not None


def free_memory(device: tf.config.LogicalDevice) -> str:
    """Return a description of the free memory of a device."""
    if device.device_type == "GPU":
        own = tf.config.experimental.get_memory_info(device.name)["current"] / 2**30
        query = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader"]
        try:
            listing = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            listing = ""
        rest = ", ".join(line.strip() for line in listing.splitlines()) or "unknown"
        return f"{device.name}: this run uses {own:.1f} GiB; free (GPU, memory): {rest}"
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return f"{device.name}: free memory unknown"
    available = next((line for line in lines if line.startswith("MemAvailable")), "0 0")
    return f"{device.name}: {int(available.split()[1]) / 2**20:.1f} GiB free"
