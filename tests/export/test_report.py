import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from violence_detection.export.report import (
    ExportedFile,
    Original,
    format_table,
    with_speeds,
    write_results,
)
from violence_detection.export.runtimes import Comparison, Speed

SAME = Comparison(8, 0.0, 0.0, 0, 0.875)
ORIGINAL = Original(12_300_000, SAME, "bfloat16", replace(SAME, largest_difference=0.004))
DETECTOR: Any = SimpleNamespace(
    model_path=Path("best_model.keras"),
    model_checksum="abc",
    threshold=0.4,
    temperature=1.5,
    streams=("rgb",),
    frames=4,
    features_per_frame=64,
)


def exported(path: Path, kind: str = "onnx", difference: float = 0.001) -> ExportedFile:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    comparison = replace(SAME, largest_difference=difference, changed_predictions=1)
    metadata = {"calibrated": True, "inputs": []}
    return ExportedFile(kind, "none", False, None, path, 2_500_000, 0.02, comparison, metadata)


def files_in(results: Path) -> list[str]:
    return [item["file"] for item in json.loads(results.read_text())["exports"]]


@pytest.mark.parametrize(
    ("difference", "passed"), [(0.0, True), (0.02, True), (0.021, False), (math.nan, False)]
)
def test_a_file_passes_within_the_tolerance(
    tmp_path: Path, difference: float, passed: bool
) -> None:
    assert exported(tmp_path / "a.onnx", difference=difference).passed == passed


def test_results_have_the_figures_of_the_file_and_of_the_original(tmp_path: Path) -> None:
    speeds = {"original": Speed(2.0, 500.0), "onnx": Speed(1.0, 1000.0)}
    original, files = with_speeds(ORIGINAL, [exported(tmp_path / "a.onnx")], speeds)
    write_results(tmp_path / "export.json", DETECTOR, original, files)
    results = json.loads((tmp_path / "export.json").read_text())
    assert (results["model"], results["values"]) == ("best_model.keras", 64)
    (item,) = results["exports"]
    assert item["changed_verdicts"] == 1
    assert item["clips_per_second"] == 1000
    assert item["original"]["clips_per_second"] == 500
    assert item["as_trained"]["largest_difference"] == 0.004
    assert item["runtime"].startswith("onnxruntime ")
    assert item["metadata"] == {"calibrated": True, "inputs": []}


def test_earlier_exports_of_the_model_stay_listed_while_their_files_exist(tmp_path: Path) -> None:
    results = tmp_path / "export.json"
    for name in ("a.onnx", "b.onnx", "a.onnx"):
        write_results(results, DETECTOR, ORIGINAL, [exported(tmp_path / name)])
    assert files_in(results) == ["b.onnx", "a.onnx"]
    (tmp_path / "b.onnx").unlink()
    write_results(results, DETECTOR, ORIGINAL, [exported(tmp_path / "c.onnx")])
    assert files_in(results) == ["a.onnx", "c.onnx"]
    other = SimpleNamespace(**vars(DETECTOR) | {"model_checksum": "def"})
    write_results(results, other, ORIGINAL, [exported(tmp_path / "d.onnx")])
    assert files_in(results) == ["d.onnx"]


def test_damaged_results_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text("{")
    write_results(tmp_path / "export.json", DETECTOR, ORIGINAL, [exported(tmp_path / "a.onnx")])
    assert files_in(tmp_path / "export.json") == ["a.onnx"]


def test_table_has_a_row_for_each_and_fits_a_terminal(tmp_path: Path) -> None:
    failed = replace(exported(tmp_path / "b.tflite", "litert", 0.5), quantize="dynamic")
    lines = format_table(ORIGINAL, [exported(tmp_path / "a.onnx"), failed]).splitlines()
    assert all(len(line) <= 80 for line in lines)
    names = ["original, float32", "as trained, bfloat16", "onnx", "litert dynamic FAILED"]
    assert [line[:22].strip() for line in lines[2:]] == names
    assert "0.500000" in lines[-1]
