"""The speed of each stage, compared with a plain implementation and with its limit.

    python -m benchmarks.speed --dataset-path DIR --json FILE --markdown FILE

Without `--dataset-path`, clips are drawn. The implementations take turns in every round, so that a
drifting machine slows all of them down alike, and every stage has processes of its own. A target
that is missed is printed as such, with the best that this machine allows.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import make_parser, write_report
from benchmarks.tables import figure_at, make_tables
from benchmarks.timing import in_own_process
from violence_detection.runtime.tensorflow_log import quiet_tensorflow

if TYPE_CHECKING:
    from violence_detection.clips.clip import Clip

DECODED_CLIPS = 24
FRAMES = 16
STAGES = ("decode", "extraction", "training", "startup", "memory")

# Targets for a two-core CPU.
AT_LEAST = {
    "decode.ours_over_opencv": 1.0,
    "decode.long_over_opencv": 10.0,
    "decode.two_cores_over_one": 1.8,
    "extraction.mixed.ours_over_limit": 0.95,
    "extraction.mixed.ours_over_plain": 2.6,
    "extraction.float32.ours_over_limit": 0.97,
    "training.float32.ours_over_plain": 2.2,
    "training.float32.ours_over_limit": 0.8,
    "training.mixed.ours_over_plain_float32": 4.0,
}
AT_MOST = {
    "startup.help_seconds": 0.5,
    "startup.first_step_seconds": 12.0,
    "memory.large_over_small": 1.2,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the files that are asked for."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, help="real clips (default: drawn ones)")
    parser.add_argument("--feature-layer", default="fc2", help="of extraction (default: fc2)")
    parser.add_argument("--replicas", type=int, metavar="N", help="as for the training command")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="(default: all)"
    )
    parser.add_argument(
        "--long-seconds", type=int, default=300, help="length of long clips, 0: none (default: 300)"
    )
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(flags, Path(folder))
    tables = make_tables(report)
    print("\n\n".join(table.as_text() for table in tables))
    write_report(report, flags.json)
    if flags.markdown:
        flags.markdown.write_text("\n\n".join(table.as_markdown() for table in tables) + "\n")


def measure(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures of the stages; `folder` is for temporary files."""
    # Not at the top, here and below: decoder processes import this file, TensorFlow takes seconds.
    from benchmarks.cached_run import measure_memory, measure_startup
    from benchmarks.decoding import measure_decoding
    from benchmarks.training import measure_training

    clips = find_shuffled_clips(flags.dataset_path, folder)
    decoded = [clip.path for clip in clips[:DECODED_CLIPS]]
    layer, replicas = flags.feature_layer, flags.replicas
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "decode": lambda: in_own_process(
            measure_decoding, decoded, FRAMES, folder, flags.long_seconds, tensorflow=False
        ),
        "extraction": lambda: {
            name: in_own_process(extraction, clips, layer, replicas, name == "mixed")
            for name in ("float32", "mixed")
        },
        "training": lambda: measure_training(folder, replicas),
        "startup": lambda: measure_startup(folder),
        "memory": lambda: measure_memory(folder),
    }
    report: dict[str, Any] = {"machine": in_own_process(machine, replicas)}
    for name in flags.stages:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        report[name] = stages[name]()
    report["targets"] = compare_with_targets(report)
    return report


def machine(replicas: int | None) -> dict[str, Any]:
    """Return a description of the machine."""
    from benchmarks.machine import describe_machine
    from violence_detection.runtime.devices import find_devices

    return describe_machine(find_devices(replicas))


def extraction(
    clips: "list[Clip]", layer: str, replicas: int | None, mixed_precision: bool
) -> dict[str, Any]:
    """Return the figures in one precision, on all devices and, if there are several, on one."""
    from benchmarks.extraction import measure_extraction
    from violence_detection.runtime.devices import choose_precision, find_devices

    devices = find_devices(replicas)
    precision = choose_precision(mixed_precision, devices[0].device_type)
    if mixed_precision and precision.computation == "float32":
        return {"no_device": precision.reason, "ours_over_limit": None, "ours_over_plain": None}
    report = measure_extraction(clips, devices, layer, FRAMES, precision)
    if len(devices) > 1:
        one = measure_extraction(clips, devices[:1], layer, FRAMES, precision)
        report["one_device"] = one
    return report


def find_shuffled_clips(dataset_path: Path | None, folder: Path) -> "list[Clip]":
    """Return the shuffled clips of a dataset; without one, drawn ones."""
    import numpy as np

    from violence_detection.clips.dataset import find_clips
    from violence_detection.clips.demo import draw_demo_clips

    if dataset_path is None:
        dataset_path = folder / "drawn"
        draw_demo_clips(dataset_path)
    clips = find_clips(dataset_path, seed=0)
    if len(clips) < DECODED_CLIPS:
        raise SystemExit(
            f"error: {len(clips)} clips are too few: at least {DECODED_CLIPS} are needed"
        )
    return [clips[number] for number in np.random.default_rng(0).permutation(len(clips))]


def compare_with_targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each target whose stage was measured; its figure is None if no device can do it."""
    targets = [(name, target, True) for name, target in AT_LEAST.items()]
    targets += [(name, target, False) for name, target in AT_MOST.items()]
    rows = []
    for name, target, at_least in targets:
        if name.partition(".")[0] not in report:
            continue
        figure = figure_at(report, name)
        met = None if figure is None else figure >= target if at_least else figure <= target
        bound = "at_least" if at_least else "at_most"
        rows.append(
            {"name": name, "figure": figure, bound: target, "met": met}
            | {"at_best": at_best(report, name)}
        )
    return rows


def at_best(report: dict[str, Any], name: str) -> float | None:
    """Return the best possible ratio on this machine; None where that is unknown.

    Extraction has to decode besides running the network, and a training step has to pass over
    features and weights besides its matrix products.
    """
    stage, _, ratio = name.rpartition(".")
    figures = figure_at(report, stage)
    if figures is None or figures.get(ratio) is None:
        return None
    rates = figures.get("clips_per_second")
    if stage.startswith("extraction"):
        over = "plain" if "plain" in ratio else "limit"
        return figures["shared_limit_clips_per_second"] / rates[over]
    if stage.startswith("training") and figures["milliseconds_at_best"]:
        best = 1000 * figures["batch_size"] / figures["milliseconds_at_best"]
        return best / (rates["plain"] if "plain" in ratio else figures["limit_clips_per_second"])
    return None


if __name__ == "__main__":
    main()
