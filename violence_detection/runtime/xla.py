"""What XLA compiles: on a GPU the whole forward and backward pass, on a CPU what is faster so.

A CPU multiplies matrices by oneDNN; what is compiled has XLA's own, slower products. Of the rest
of a step, only standardizing the features gains: `python -m benchmarks.xla` shows it. It is not
measured as a run starts: two runs of the same command could then compute differently.
"""

import logging

from violence_detection.settings.constants import XLA_ALL

log = logging.getLogger(__name__)

OFF_ON_CPU = "off, except to standardize the features, where it is faster"
ON_CPU = f"""on to standardize the features, where it is faster on a CPU.
Left out: forward and backward pass, slower compiled (its matrix products are
not oneDNN's), loss and Adam's update, no faster. --xla={XLA_ALL} compiles both passes"""
ALL_ON_CPU = "on: forward and backward pass; on a CPU, training is faster with --xla alone"
ON_GPU = "on: forward and backward pass"


def compiles_passes(xla: bool | str, device_type: str) -> bool:
    """Return whether the forward and backward pass of a training step is compiled.

    Args:
        xla: the setting: False, True or `XLA_ALL`.
        device_type: of the devices that train, "GPU" or "CPU".
    """
    return xla == XLA_ALL or (bool(xla) and device_type == "GPU")


def log_xla(xla: bool | str, device_type: str) -> None:
    """Log what XLA compiles, what it leaves out, and why; arguments as of `compiles_passes`."""
    if device_type == "GPU":
        state = ON_GPU if xla else "off"
    elif compiles_passes(xla, device_type):
        state = ALL_ON_CPU
    else:
        state = ON_CPU if xla else OFF_ON_CPU
    log.info("XLA %s", state)
