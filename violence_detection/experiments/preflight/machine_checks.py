"""Checks of the machine: GPUs, CUDA's libraries, codecs, disks."""

import ctypes.util
import shutil
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import tensorflow as tf

from violence_detection.errors import RunError
from violence_detection.experiments.preflight.checks import FAILED, PASSED, SKIPPED, Check
from violence_detection.runtime.devices import gpu_names, gpus_left_out
from violence_detection.runtime.gpus import driver_version

NO_GPU = "no NVIDIA GPU here: the CPU computes"
INSTALL = "pip install -r requirements-gpu.txt"
# What is searched for below the folders of CUDA, and in which of the loader's libraries.
LIBRARIES = {
    "cuDNN": ("**/libcudnn.so*", "cudnn"),
    "NCCL": ("**/libnccl.so*", "nccl"),
    "ptxas": ("**/bin/ptxas", None),
    "libdevice": ("**/libdevice/libdevice*.bc", None),
}
CODECS = {"H.264": "h264", "H.265": "hevc", "MPEG-4": "mpeg4", "VP9": "vp9", "AV1": "libdav1d"}
GIGABYTE = 1e9


def check_gpus(devices: Sequence[tf.config.LogicalDevice]) -> Check:
    """Check that TensorFlow sees the machine's GPUs, and name the driver."""
    name = "GPUs and driver"
    if gpus_left_out(list(devices)):
        return Check(name, FAILED, f"TensorFlow does not find this machine's GPU: {INSTALL}")
    names = gpu_names(list(devices))
    if not names:
        return Check(name, SKIPPED, NO_GPU)
    try:
        driver = f"driver {driver_version()}"
    except RunError as error:
        driver = f"driver unknown ({error})"
    return Check(name, PASSED, f"{', '.join(names)}; {driver}")


def cuda_folders() -> list[Path]:
    """Return where CUDA's libraries may be: pip's packages, the usual folder, the command's."""
    packages = {Path(sysconfig.get_paths()[kind]) / "nvidia" for kind in ("purelib", "platlib")}
    program = shutil.which("ptxas")
    beside = [Path(program).resolve().parent.parent] if program else []
    return [*sorted(packages), *beside, Path("/usr/local/cuda")]


def check_libraries(has_gpu: bool, folders: Sequence[Path]) -> Check:
    """Check that the libraries are there that TensorFlow loads when it needs them.

    Args:
        has_gpu: without one, none is needed.
        folders: where they are searched, beside where the system's loader looks.
    """
    name = "CUDA libraries"
    if not has_gpu:
        return Check(name, SKIPPED, NO_GPU)
    missing = [
        library
        for library, (pattern, loaded) in LIBRARIES.items()
        if not (loaded and ctypes.util.find_library(loaded))
        and not any(next(folder.glob(pattern), None) for folder in folders if folder.is_dir())
    ]
    if missing:
        return Check(name, FAILED, f"{', '.join(missing)} not found: {INSTALL}")
    return Check(name, PASSED, f"{', '.join(LIBRARIES)} found")


def check_memory_growth(devices: Sequence[tf.config.LogicalDevice]) -> Check:
    """Check that TensorFlow takes a GPU's memory as it needs it, not all at once."""
    name = "memory growth"
    if devices[0].device_type != "GPU":
        return Check(name, SKIPPED, NO_GPU)
    gpus = tf.config.list_physical_devices("GPU")
    without = [gpu.name for gpu in gpus if not tf.config.experimental.get_memory_growth(gpu)]
    if without:
        return Check(name, FAILED, f"off on {', '.join(without)}: unset TF_FORCE_GPU_ALLOW_GROWTH")
    return Check(name, PASSED, "on")


def check_codecs() -> Check:
    """Check that FFmpeg can decode what cameras and phones write."""
    missing = [title for title, codec in CODECS.items() if codec not in av.codecs_available]
    if missing:
        words = f"no decoder of {', '.join(missing)}: pip install --force-reinstall av"
        return Check("codecs", FAILED, words)
    return Check("codecs", PASSED, ", ".join(CODECS))


def check_room(name: str, folder: Path, needed: float, flag: str) -> Check:
    """Check that a disk has room.

    Args:
        name: of the check.
        folder: on the disk; it need not exist.
        needed: bytes.
        flag: that names the folder.
    """
    free = shutil.disk_usage(_existing(folder)).free
    found = f"needs {needed / GIGABYTE:,.1f} GB, {free / GIGABYTE:,.1f} GB are free"
    if needed > free:
        return Check(name, FAILED, f"{found} in {folder}: make room or give another {flag}")
    return Check(name, PASSED, found)


def check_writable(name: str, folder: Path, flag: str) -> Check:
    """Check with a probe file, which is removed, that a folder can be written or made.

    Args:
        name: of the check.
        folder: need not exist: then the one that it would be made in is tried.
        flag: that names the folder.
    """
    existing = _existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".preflight-") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
    except OSError as error:
        words = f"{existing}: {error.strerror}: change its permissions or give another {flag}"
        return Check(name, FAILED, words)
    return Check(name, PASSED, str(folder) if existing == folder else f"{folder}, not made yet")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    path = folder.expanduser().absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
