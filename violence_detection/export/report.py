"""What exported files are and how they compare with the original: a table, and `export.json`."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError
from violence_detection.export.formats import OPSET
from violence_detection.export.runtimes import Agreement, Speed
from violence_detection.inference.detector import Detector
from violence_detection.storage.files import read_json, write_json

RESULTS = "export.json"
RUNTIMES = {"saved_model": "tensorflow", "litert": "ai-edge-litert", "onnx": "onnxruntime"}
MEGABYTE = 1e6


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares with the original."""

    format: str
    quantize: str
    end_to_end: bool
    batch: int | None  # clips at once; None: any number
    path: Path
    size: int  # bytes
    tolerance: float
    agreement: Agreement
    speed: Speed | None = None  # None: not measured yet

    @property
    def passed(self) -> bool:
        """Whether its probabilities are near enough to the original's; no number is not."""
        return self.agreement.largest_difference <= self.tolerance


@dataclass(frozen=True)
class Original:
    """What files are compared with: the detector in float32, and as it was trained."""

    size: int  # bytes
    agreement: Agreement  # with itself
    trained_in: str
    as_trained: Agreement | None  # None: there is nothing to tell it from, or it is the same
    speed: Speed | None = None


def with_speeds(
    original: Original, exported: Sequence[Exported], speeds: Mapping[str, Speed]
) -> tuple[Original, list[Exported]]:
    """Return the same with the speeds of "original" and of each format."""
    return (
        replace(original, speed=speeds["original"]),
        [replace(item, speed=speeds[item.format]) for item in exported],
    )


def write_results(
    path: Path, detector: Detector, original: Original, exported: Sequence[Exported]
) -> None:
    """Write `export.json`: what was exported now, and what is left of earlier exports.

    Raises:
        RunError: it cannot be written.
    """
    now = [_as_json(item, path.parent, original) for item in exported]
    files = {item["file"] for item in now}
    earlier = [
        item
        for item in _earlier(path, detector)
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
        "exports": [*earlier, *now],
    }
    write_json(path, results)


def _earlier(path: Path, detector: Detector) -> list[dict[str, Any]]:
    try:
        results = read_json(path) if path.exists() else {}
    except UserError:  # damaged: it is written anew
        return []
    same = results.get("model_checksum") == detector.model_checksum
    return results["exports"] if same else []


def _as_json(item: Exported, folder: Path, original: Original) -> dict[str, Any]:
    def figures(agreement: Agreement, speed: Speed | None) -> dict[str, Any]:
        return asdict(agreement) | (asdict(speed) if speed else {})

    package = RUNTIMES[item.format]
    return {
        "file": item.path.relative_to(folder).as_posix(),
        "format": item.format,
        "quantize": item.quantize,
        "end_to_end": item.end_to_end,
        "batch": item.batch,
        "opset": OPSET if item.format == "onnx" else None,
        "runtime": f"{package} {importlib.metadata.version(package)}",
        "size": item.size,
        "tolerance": item.tolerance,
        "passed": item.passed,
        **figures(item.agreement, item.speed),
        "original": {"size": original.size, **figures(original.agreement, original.speed)},
        "trained_in": original.trained_in,
        "as_trained": original.as_trained and asdict(original.as_trained),
    }


def table(original: Original, exported: Sequence[Exported]) -> str:
    """Return a line for the original, one for it as it was trained, and one for each file."""
    rows = [
        ("", "largest", "verdicts", "", "size", "one clip", "clips"),
        ("", "difference", "changed", "accuracy", "MB", "ms", "a second"),
        _row("original, float32", original.agreement, original.size, original.speed),
    ]
    if original.as_trained:
        rows.append(_row(f"as trained, {original.trained_in}", original.as_trained))
    for item in exported:
        quantized = "" if item.quantize == "none" else f" {item.quantize}"
        failed = "" if item.passed else " FAILED"
        name = f"{item.format}{quantized}{failed}"
        rows.append(_row(name, item.agreement, item.size, item.speed))
    widths = (24, 11, 9, 9, 8, 9, 9)
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def _row(
    name: str, agreement: Agreement, size: int | None = None, speed: Speed | None = None
) -> tuple[str, ...]:
    return (
        name,
        f"{agreement.largest_difference:.6f}",
        str(agreement.changed_verdicts),
        f"{agreement.accuracy:.3f}",
        "" if size is None else f"{size / MEGABYTE:.2f}",
        "" if speed is None else _short(speed.latency_ms),
        "" if speed is None else _short(speed.clips_per_second),
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
