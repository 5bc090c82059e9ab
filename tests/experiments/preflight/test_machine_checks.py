"""Checks of the machine: each is made to fail."""

from pathlib import Path

import pytest

from violence_detection.experiments.preflight.checks import FAILED, PASSED, SKIPPED
from violence_detection.experiments.preflight.machine_checks import (
    check_codecs,
    check_libraries,
    check_room,
    check_writable,
)

# As pip installs them.
CUDA_FILES = {
    "cuDNN": "cudnn/lib/libcudnn.so.9",
    "NCCL": "nccl/lib/libnccl.so.2",
    "ptxas": "cuda_nvcc/bin/ptxas",
    "libdevice": "cuda_nvcc/nvvm/libdevice/libdevice.10.bc",
}


@pytest.fixture
def cuda(tmp_path: Path) -> Path:
    """Return a folder with all of CUDA's libraries."""
    for name in CUDA_FILES.values():
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "nvidia"


def test_complete_libraries_pass(cuda: Path) -> None:
    assert check_libraries(True, [cuda.parent / "no such folder", cuda]).state == PASSED
    assert check_libraries(False, []).state == SKIPPED


@pytest.mark.parametrize("hidden", CUDA_FILES)
def test_a_library_that_cannot_be_found_fails(hidden: str, cuda: Path) -> None:
    (cuda / CUDA_FILES[hidden]).unlink()
    check = check_libraries(True, [cuda])
    assert check.state == FAILED
    assert check.detail == f"{hidden} not found: pip install -r requirements-gpu.txt"


def test_too_little_disk_fails(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "made" / "yet"
    assert check_room("disk room", folder, 1e6, "--cache-dir").state == PASSED
    check = check_room("disk room", folder, 1e18, "--cache-dir")
    assert check.state == FAILED
    assert "needs 1,000,000,000.0 GB" in check.detail
    assert check.detail.endswith(f"in {folder}: make room or give another --cache-dir")


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = check_writable("cache", tmp_path / "file" / "cache", "--cache-dir")
    assert check.state == FAILED
    assert check.detail.endswith("change its permissions or give another --cache-dir")


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    assert check_writable("cache", tmp_path / "cache", "--cache-dir").state == PASSED
    assert check_writable("cache", tmp_path, "--cache-dir").state == PASSED
    assert not list(tmp_path.iterdir())


def test_codecs_that_cameras_use_are_there() -> None:
    assert check_codecs().state == PASSED
