"""The bench for GPUs, on the CPU with small sizes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.cells import Budget, Cell, measure_into, rate_of
from benchmarks.gpu.clips import draw_clips, read_clip
from benchmarks.gpu.end_to_end import Work, end_to_end
from benchmarks.gpu.networks import build_classifier
from benchmarks.gpu.tables import bottleneck_table
from benchmarks.gpu.usage import UsageOf, find_gpus
from tests.conftest import ROOT
from tests.waiting import wait_until
from violence_detection.models.networks import build_classifier as build_programs_classifier
from violence_detection.settings.schema import Settings

TOO_MANY = 10**12  # frames: petabytes
SMALL = [
    *("--layer", "block1_conv1", "--dtypes", "float32", "--batches", "2", str(TOO_MANY)),
    *("--frames", "2", "--features", "8", "--streams", "rgb", "--stage-seconds", "0.1"),
    *("--nvidia-smi", "/nowhere/nvidia-smi"),
]
STAND_IN = """#!/bin/sh
case "$*" in
*loop-ms*) while :; do echo "50, 2048"; echo "[N/A], 4096"; echo "70, 3072"; sleep 0.01; done;;
*) echo "0, NVIDIA RTX 5000, 550.1, 32760, 0, 1"; echo "1, NVIDIA RTX 5000, 550.1, 32760, 0, 1";;
esac
"""


@pytest.mark.slow
def test_one_command_measures_everything_and_survives_a_size_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    stages = report["stages"]
    for name in ("decoding", "end to end, 1 device", "copies to the device, GB/s"):
        assert stages[name]["rate"] > 0
    assert stages["end to end, 2 devices"] == Cell(None, "no GPU that NVML lists").as_json()
    whole = report["extraction"]["float32"], report["training"]["not compiled, unrolled"]
    for row in (*whole, report["training"]["compiled, unrolled"]):
        assert row["2"]["rate"] > 0
        assert row[str(TOO_MANY)] == Cell(None, "out of memory").as_json()
    assert report["training"]["compiled, cuDNN"]["2"]["note"] == "no GPU"
    page = (tmp_path / "out.md").read_text()
    assert "NVML is not available: /nowhere/nvidia-smi" in page
    assert page in capsys.readouterr().out
    assert page.count("the lowest") == 1


def test_bench_needs_no_tensorflow_and_no_other_library_of_the_program() -> None:
    """It is imported where only Keras, NumPy and OpenCV are, with another backend."""
    missing = ("av", "pebble", "filelock", "sklearn", "psutil", "pynvml", "tensorflow", "tqdm")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
        "import benchmarks.gpu.__main__, benchmarks.gpu.clips, benchmarks.gpu.end_to_end\n"
        "sys.modules['cv2'] = None\n"  # PyAV alone will do, too
        "import violence_detection.models.onnx_backbone, violence_detection.settings.schema\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_classifier_is_the_programs() -> None:
    def shapes(model: object) -> list[tuple[str, tuple[int | None, ...]]]:
        return [(layer.name, tuple(layer.output.shape)) for layer in model.layers]

    ours = build_classifier(4, 16, "float32", cudnn=True)
    programs = build_programs_classifier(Settings(), 4, 16)
    assert ours.count_params() == programs.count_params()
    assert shapes(ours) == shapes(programs)


def test_a_cell_says_why_it_is_empty() -> None:
    cells: dict[str, Cell] = {}
    saved: list[list[str]] = []
    budget = Budget(60, lambda: saved.append([*cells]))

    def broken() -> float:
        raise ValueError("first line\nsecond")

    def too_large() -> float:
        return float(np.zeros(10**6 * TOO_MANY, np.uint8)[0])

    for name, work in (("broken", broken), ("large", too_large), ("fine", lambda: 2.0)):
        measure_into(cells, name, name, budget, work)
    measure_into(cells, "late", "late", Budget(0), lambda: 1.0)
    assert cells["broken"] == Cell(None, "failed: ValueError: first line", failed=True)
    assert cells["large"] == Cell(None, "out of memory")
    assert cells["fine"] == Cell(2.0)
    assert cells["late"] == Cell(None, "no time left")
    assert saved[-1] == ["broken", "large", "fine"]


def test_rate_counts_calls_after_the_first() -> None:
    calls: list[int] = []
    rate_of(lambda: calls.append(1), 10, seconds=0)
    assert len(calls) == 2


def test_gpus_are_read_by_nvml(tmp_path: Path) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(STAND_IN)
    command.chmod(0o755)
    gpus, reason = find_gpus(str(command))
    assert [gpu.number for gpu in gpus] == ["0", "1"]
    assert (gpus[0].name, gpus[0].memory_mib, reason) == ("NVIDIA RTX 5000", 32760, "")
    with UsageOf(["0"], str(command)) as usage:
        wait_until(lambda: len(usage.used.utilization) >= 2)
    utilization, memory = usage.used.describe()
    assert 50 <= float(utilization.removesuffix(" %")) <= 70
    assert memory == "3.0 GiB"


@pytest.mark.parametrize("by", ["opencv", "pyav"])
def test_either_library_draws_and_reads_the_clips(by: str, tmp_path: Path) -> None:
    (path,) = draw_clips(tmp_path, 1, by)
    (own, other) = (read_clip(path, 4, reader) for reader in ("opencv", "pyav"))
    assert own.shape == (4, 224, 224, 3)
    assert np.abs(own.astype(float) - other).mean() < 12  # of 255: they convert colours otherwise
    assert np.abs(own[0].astype(float) - own[-1]).mean() > 20  # it moves


@pytest.mark.slow
def test_two_processes_share_the_cores_and_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = draw_clips(tmp_path, 2)
    work = Work(clips, 2, ("rgb",), "block1_conv1", "float32", 4, 0.1)
    assert end_to_end(work, [None, "0"], cores=2) > 0
    shutil.copy(os.devnull, clips[1])
    with pytest.raises(RuntimeError, match="no frame can be decoded"):
        end_to_end(work, [None], cores=1)


def test_the_lowest_rate_holds_the_box_up() -> None:
    report = {
        "stages": {"decoding": Cell(50.0).as_json(), "decoding and streams": Cell(9.0).as_json()},
        "extraction": {"float16": {"64": Cell(320.0).as_json(), "128": Cell(None, "x").as_json()}},
        "training": {},
        "training_dtype": "mixed_float16",
        "frames": 16,
        "streams": ["rgb", "flow"],
        "used": {"VGG19, 1 device": ("97 %", "11.0 GiB")},
    }
    rows = {row[0]: row[1:] for row in bottleneck_table(report).rows}
    assert rows["decoding and streams"][:2] == ["9", "the lowest"]
    assert rows["VGG19, 1 device"] == ["10", "", "97 %", "11.0 GiB"]  # of 32 frames
