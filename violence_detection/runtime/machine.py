"""What a command computes on: workers, devices, precision, and what watches them."""

import logging
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow as tf

from violence_detection.runtime.cluster import Cluster
from violence_detection.runtime.devices import (
    Precision,
    choose_precision,
    describe_devices,
    enough_memory,
    find_devices,
    gpu_names,
    gpus_left_out,
    make_strategy,
    on_this_host,
)
from violence_detection.runtime.hardware import HardwareMonitor, hardware_source, utilization
from violence_detection.runtime.logs import native_messages_to
from violence_detection.runtime.progress import shows_bar
from violence_detection.runtime.stage_clock import StageClock, bottleneck
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """The devices of this worker and of all together, and how they compute."""

    cluster: Cluster
    devices: list[tf.config.LogicalDevice]  # of this worker
    strategy: tf.distribute.Strategy  # over the devices of all workers
    precision: Precision
    monitor: HardwareMonitor
    descriptions: list[str]  # a line per device of all workers
    log_file: Path
    bar: bool  # whether progress is shown as a bar
    started: float = field(default_factory=time.perf_counter)
    clock: StageClock = field(default_factory=StageClock)

    @property
    def worker(self) -> Worker:
        """This process among the workers."""
        return self.cluster.worker

    @property
    def replicas(self) -> int:
        """Replicas of all workers together."""
        return self.strategy.num_replicas_in_sync

    def own_strategy(self) -> tf.distribute.Strategy:
        """Return a strategy over this worker's devices alone."""
        return on_this_host(self.strategy, self.devices)

    def enough_memory(self, doing: str, way_out: str) -> AbstractContextManager[None]:
        """Raise a `RunError` for memory that runs out in the block.

        Args:
            doing: what takes the memory, and how much of it at once.
            way_out: a sentence on the flags that reduce it.
        """
        return enough_memory(self.devices, doing, f"Finished work is kept. {way_out}")

    def report_use_for_features(self) -> None:
        """Warn if GPUs waited while features were computed, and for what."""
        used = utilization(self.monitor.take())
        if reason := bottleneck(used, self.clock.seconds):
            log.warning(
                "GPU utilization in feature extraction %.0f %%; bottleneck: %s", used, reason
            )


def set_up_machine(
    settings: Settings,
    worker: Worker,
    log_file: Path,
    stack: ExitStack,
    *,
    batch_size: int,
    started: float,
    clock: StageClock,
) -> Machine:
    """Find the devices, connect the workers, choose strategy and precision, and log them.

    To be called before TensorFlow has computed anything.

    Args:
        settings: of the devices, and whether bars are shown.
        worker: this process.
        log_file: where TensorFlow's own messages go.
        stack: on its end, the workers part and the monitor stops.
        batch_size: clips of a step, over all replicas.
        started: when the command was, by `time.perf_counter`.
        clock: counts where the time goes.

    Raises:
        UserError: there are fewer GPUs than were asked for; they do not divide the batch.
        RunError: another worker does not come.
    """
    with native_messages_to(log_file):
        tf.get_logger().setLevel("ERROR")  # it warns of a new graph for every fold's model
        if settings.devices.deterministic:
            tf.config.experimental.enable_op_determinism()
        devices = find_devices(settings.devices.replicas, worker.count)
        cluster = stack.enter_context(Cluster(worker, settings.devices.cluster))
        strategy = make_strategy(devices, batch_size, cluster)
    if gpus_left_out(devices):
        log.warning(
            "TensorFlow does not find this machine's NVIDIA GPU:\n"
            "pip install -r requirements-gpu.txt (details: %s)",
            log_file,
        )
    precision = choose_precision(settings.devices.mixed_precision, devices[0].device_type)
    hardware = hardware_source(gpu_names(devices))
    monitor = stack.enter_context(HardwareMonitor(hardware))
    descriptions = cluster.gather_lines(describe_devices(devices, hardware.memory_gib))
    for line in descriptions:
        log.info("device %s", line)
    log.info("%s: %s", precision.computation, precision.reason)
    return Machine(
        *(cluster, devices, strategy, precision, monitor, descriptions, log_file),
        bar=shows_bar(settings.monitoring.quiet),
        started=started,
        clock=clock,
    )
