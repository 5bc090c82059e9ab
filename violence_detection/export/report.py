"""The results of an export: a table, and `export.json`."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError
from violence_detection.export.onnx import OPSET
from violence_detection.export.runtimes import Comparison, Speed
from violence_detection.inference.detector import Detector
from violence_detection.storage.files import read_json, write_json

RESULTS = "export.json"
RUNTIMES = {
    "saved_model": "tensorflow",
    "litert": "ai-edge-litert",
    "onnx": "onnxruntime",
    "keras": "keras",
    "openvino": "openvino",
}
MEGABYTE = 1e6


@dataclass(frozen=True)
class ExportedFile:
    """An exported file, and how it compares with the original."""

    format: str
    quantize: str
    end_to_end: bool
    batch: int | None  # clips per call; None: any number
    path: Path
    size: int  # bytes
    tolerance: float  # of the largest difference of a probability
    comparison: Comparison
    metadata: dict[str, Any]  # how it is fed, see `metadata.describe`
    speed: Speed | None = None  # None: not measured yet

    @property
    def passed(self) -> bool:
        """Whether no probability differs by more than the tolerance; NaN does."""
        return self.comparison.largest_difference <= self.tolerance


@dataclass(frozen=True)
class Original:
    """The detector that files are compared with, in float32, and in the precision of training."""

    size: int  # bytes
    comparison: Comparison  # with itself
    trained_in: str  # number format
    as_trained: Comparison | None  # None: trained in float32, or its features are not cached
    speed: Speed | None = None


def with_speeds(
    original: Original, exported: Sequence[ExportedFile], speeds: Mapping[str, Speed]
) -> tuple[Original, list[ExportedFile]]:
    """Return both with their speeds, which are given by format and for "original"."""
    return (
        replace(original, speed=speeds["original"]),
        [replace(item, speed=speeds[item.format]) for item in exported],
    )


def write_results(
    path: Path, detector: Detector, original: Original, exported: Sequence[ExportedFile]
) -> None:
    """Write `export.json`: these files, and those of earlier exports that still exist.

    Args:
        path: of `export.json`, in the folder of the files.
        detector: that was exported; earlier exports of another one are dropped.
        original: what the files are compared with.
        exported: the files of this export.

    Raises:
        RunError: it cannot be written.
    """
    new = [_as_json(item, path.parent, original) for item in exported]
    files = {item["file"] for item in new}
    earlier = [
        item
        for item in _earlier_exports(path, detector)
        if item["file"] not in files and (path.parent / item["file"]).exists()
    ]
    results = {
        "model": detector.model_path.name,
        "model_checksum": detector.model_checksum,
        "threshold": detector.threshold,
        "temperature": detector.temperature,
        "streams": list(detector.streams),
        "frames": detector.frames,
        "values": detector.features_per_frame,
        "exports": [*earlier, *new],
    }
    write_json(path, results)


def _earlier_exports(path: Path, detector: Detector) -> list[dict[str, Any]]:
    try:
        results = read_json(path) if path.exists() else {}
    except UserError:  # damaged, and about to be replaced
        return []
    same = results.get("model_checksum") == detector.model_checksum
    return results["exports"] if same else []


def _as_json(item: ExportedFile, folder: Path, original: Original) -> dict[str, Any]:
    package = RUNTIMES[item.format]
    return {
        "file": item.path.relative_to(folder).as_posix(),
        "format": item.format,
        "quantize": item.quantize,
        "end_to_end": item.end_to_end,
        "calibrated": item.metadata["calibrated"],
        "batch": item.batch,
        "opset": OPSET if item.format == "onnx" else None,
        "runtime": f"{package} {importlib.metadata.version(package)}",
        "size": item.size,
        "tolerance": item.tolerance,
        "passed": item.passed,
        **_figures(item.comparison, item.speed),
        "original": {"size": original.size, **_figures(original.comparison, original.speed)},
        "trained_in": original.trained_in,
        "as_trained": original.as_trained and _figures(original.as_trained, None),
        "metadata": item.metadata,
    }


def _figures(comparison: Comparison, speed: Speed | None) -> dict[str, Any]:
    return {
        "clips": comparison.clips,
        "largest_difference": comparison.largest_difference,
        "largest_attention_difference": comparison.largest_attention_difference,
        "changed_verdicts": comparison.changed_predictions,
        "accuracy": comparison.accuracy,
        **(asdict(speed) if speed else {}),
    }


def format_table(original: Original, exported: Sequence[ExportedFile]) -> str:
    """Return a table with a row for the original, one in training's precision, and the files."""
    rows = [
        ("", "largest", "predictions", "", "size", "latency", ""),
        ("", "difference", "changed", "accuracy", "MB", "ms", "clips/s"),
        _row("original, float32", original.comparison, original.size, original.speed),
    ]
    if original.as_trained:
        rows.append(_row(f"as trained, {original.trained_in}", original.as_trained))
    for item in exported:
        quantized = "" if item.quantize == "none" else f" {item.quantize}"
        failed = "" if item.passed else " FAILED"
        name = f"{item.format}{quantized}{failed}"
        rows.append(_row(name, item.comparison, item.size, item.speed))
    widths = (22, 11, 13, 10, 8, 8, 8)
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def _row(
    name: str, comparison: Comparison, size: int | None = None, speed: Speed | None = None
) -> tuple[str, ...]:
    return (
        name,
        f"{comparison.largest_difference:.6f}",
        str(comparison.changed_predictions),
        f"{comparison.accuracy:.3f}",
        "" if size is None else f"{size / MEGABYTE:.2f}",
        "" if speed is None else _short(speed.latency_ms),
        "" if speed is None else _short(speed.clips_per_second),
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
