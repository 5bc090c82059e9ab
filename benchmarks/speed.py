"""How fast each stage is, beside the plain way and beside its limit, in one run.

    python -m benchmarks.speed --dataset-path DIR --json FILE

Without `--dataset-path`, clips are drawn. Decoding, extraction and training are measured; every
way takes its turn in every round, so that a drifting machine slows them all alike.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

from benchmarks.decoding import measure_decoding
from benchmarks.extraction import measure_extraction
from benchmarks.training import measure_training
from clips import Clip, find_clips
from demo_clips import draw_demo_clips
from devices import choose_precision, describe_devices, find_devices, make_strategy
from feature_extraction import CLIPS_PER_REPLICA

DECODED_CLIPS = 16
FRAMES = 16


def main() -> None:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--dataset-path", type=Path, help="real clips (default: drawn ones)")
    parser.add_argument("--feature-layer", default="fc2", help="of extraction (default: fc2)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(flags.dataset_path, flags.feature_layer, Path(folder))
    print_report(report)
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(dataset_path: Path | None, feature_layer: str, folder: Path) -> dict[str, Any]:
    """Return the figures of all stages; `folder` is for what has to lie on disk meanwhile."""
    if dataset_path is None:
        dataset_path = folder / "drawn"
        draw_demo_clips(dataset_path)
    clips = find_clips(dataset_path, seed=0)
    devices = find_devices(None)
    strategy = make_strategy(devices, len(devices))
    precisions = {"float32": "float32"}
    mixed = choose_precision(True, devices[0].device_type)
    if mixed.computation != "float32":
        precisions["mixed"] = mixed.computation
    decoding = measure_decoding([clip.path for clip in spread(clips, DECODED_CLIPS)], FRAMES)
    batches = spread(clips, 2 * CLIPS_PER_REPLICA * len(devices))
    extraction = measure_extraction(batches, strategy, feature_layer, FRAMES, precisions)
    if "mixed" not in extraction:
        extraction["mixed"] = {"left_out": mixed.reason}
    return {
        "devices": describe_devices(devices),
        "cores": os.cpu_count(),
        "tensorflow": tf.__version__,
        "decode": decoding,
        "extraction": extraction,
        "training": {"float32": measure_training(folder)},
    }


def spread(clips: list[Clip], count: int) -> list[Clip]:
    """Return `count` clips from all over the list; raises if there are fewer."""
    if len(clips) < count:
        raise SystemExit(f"error: {len(clips)} clips are too few: {count} are needed")
    return [clips[len(clips) * number // count] for number in range(count)]


def print_report(report: dict[str, Any]) -> None:
    """Print a table: each stage's plain way, ours, and its limit."""
    decode, extraction, training = (report[k] for k in ("decode", "extraction", "training"))
    print(", ".join(report["devices"]), f"({report['cores']} cores), TensorFlow", tf.__version__)
    print(
        f"{'clips per second':<28}{'plain':>9}{'ours':>9}{'limit':>9}{'/ plain':>9}{'/ limit':>9}"
    )
    speeds = decode["clips_per_second"]
    row("decoding, one core", speeds["seeking"], speeds["ours"], speeds["limit"], decode)
    for name in ("float32", "mixed"):
        measured = extraction[name]
        if "left_out" in measured:
            print(f"{'extraction, ' + name:<28}no device: {measured['left_out']}")
            continue
        own, limit = measured["clips_per_second"], measured["limit_clips_per_second"]
        row(f"extraction, {name}", extraction["plain_clips_per_second"], own, limit, measured)
    float32 = training["float32"]
    speeds = float32["clips_per_second"]
    row(
        "training, float32",
        speeds["plain"],
        speeds["ours"],
        float32["limit_clips_per_second"],
        float32,
    )
    if decode["two_cores_over_one"]:
        print(f"decoding on two cores over one: {decode['two_cores_over_one']:.2f}")


def row(name: str, plain: float, ours: float, limit: float, ratios: dict[str, Any]) -> None:
    """Print one row of the table."""
    print(
        f"{name:<28}{plain:>9.3g}{ours:>9.3g}{limit:>9.3g}"
        f"{ratios['ours_over_plain']:>9.2f}{ratios['ours_over_limit']:>9.2f}"
    )


if __name__ == "__main__":
    main()
