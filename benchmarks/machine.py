"""A description of the machine that figures were measured on."""

import os
import platform
import time
from typing import Any

import numpy as np

from violence_detection.runs.versions import versions
from violence_detection.runtime.devices import CPU_BFLOAT16_FLAGS, cpu_flags, describe_devices

COPY_BYTES = 256 * 2**20


def describe_machine(devices: list[Any]) -> dict[str, Any]:
    """Return devices, cores, memory, bfloat16 instructions, copy rate and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "devices": describe_devices(devices),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**30, 1),
        "cpu_bfloat16": [flag for flag in CPU_BFLOAT16_FLAGS if flag in cpu_flags()],
        "cpu_copy_gb_per_second": round(copy_rate() / 1e9, 1),
        "system": platform.platform(),
        "versions": versions(),
    }


def copy_rate() -> float:
    """Return the bytes per second that one core copies: the best of five."""
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        best = max(best, COPY_BYTES / (time.perf_counter() - started))
    return best
