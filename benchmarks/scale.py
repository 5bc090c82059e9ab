"""The costs of clips and steps on this machine, and a projection to many hosts.

    python -m benchmarks.scale --dataset-path DIR --json FILE

Measured: decoding and VGG19 of some clips, training steps of 1, 2 and 4 worker processes on
loopback, the clip list and the index. Projected, and labeled as such: hours and cost of 10^4, 10^6
and 10^8 clips on 1 to 64 hosts. `--from FILE` projects from figures that were measured earlier.
"""

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, write_report
from benchmarks.projection import Costs, Hosts, assumptions, extraction_rates, project
from benchmarks.tables import Table
from benchmarks.timing import in_own_process
from violence_detection.runtime.tensorflow_log import quiet_tensorflow

CLIPS = (10**4, 10**6, 10**8)
HOSTS = (1, 2, 4, 8, 16, 32, 64)
WIDTH = 80  # columns of a terminal
MEASURED = "Measured here"
PROJECTED = "Projected, not measured"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure or read, project, print, and write the file that is asked for."""
    quiet_tensorflow()
    flags = make_flags().parse_args(arguments)
    if flags.from_file:
        measured = json.loads(flags.from_file.read_text())["measured"]
    else:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(flags, Path(folder))
    costs = costs_of(measured, flags.clip_kb)
    each = hosts_of(flags, measured)
    report = {
        "measured": measured,
        "costs": vars(costs),
        "assumed": vars(each),
        "assumptions": assumptions(costs, each),
        "full_at_clips_per_second": extraction_rates(costs, each),
        "projected": project(costs, each, CLIPS, HOSTS),
    }
    tables = measured_tables(measured)
    print("\n\n".join(table.as_text() for table in tables))
    print(f"\n{PROJECTED}. Assumptions:")
    for line in assumptions(costs, each):
        print(textwrap.fill(line, WIDTH, initial_indent="- ", subsequent_indent="  "))
    for table in [rates_table(costs, each), *projected_tables(report["projected"], each)]:
        print(f"\n{table.as_text()}")
    write_report(report, flags.json)


def make_flags() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser(__doc__)
    measuring = parser.add_argument_group("what is measured")
    add = measuring.add_argument
    add("--dataset-path", type=Path, help="real clips (default: drawn ones, small and short)")
    add("--feature-layer", default="fc2", help="of VGG19 (default: fc2)")
    add("--clips", type=int, default=6, help="to decode and run VGG19 on (default: 6)")
    add(
        "--workers",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        help="processes, besides 1 (default: 2 4)",
    )
    add("--batch-size", type=int, default=64, help="of all workers, and of each (default: 64)")
    add("--rounds", type=int, default=5, help="of 16 steps each (default: 5)")
    add("--stored-clips", type=int, default=512, help="to train on (default: 512)")
    add(
        "--listed-clips",
        type=int,
        default=500_000,
        help="in the clip list and the index (default: 500000)",
    )
    add("--from", dest="from_file", type=Path, metavar="FILE", help="measure nothing, read FILE")
    assumed = parser.add_argument_group("assumptions about the hosts")
    add = assumed.add_argument
    add("--host-cores", type=int, help="of a host (default: as many as here)")
    add("--host-memory-gb", type=float, default=64.0, help="(default: 64)")
    add("--host-price", type=float, default=1.0, help="per hour (default: 1, for host hours)")
    add("--network-gbit", type=float, default=10.0, help="of a host's link, Gbit/s (default: 10)")
    add("--latency-us", type=float, default=50.0, help="of a message, microseconds (default: 50)")
    add("--disk-gbit", type=float, default=10.0, help="of the file system, Gbit/s (default: 10)")
    add("--clip-kb", type=float, help="of a clip's file (default: as measured)")
    add("--epochs", type=int, default=100, help="(default: 100)")
    add("--train-share", type=float, default=0.7, help="of the clips (default: 0.7)")
    add("--gpus", type=int, default=0, help="per host (default: 0); requires both rates")
    add("--gpu-extraction", type=float, help="clips/s of one GPU, all streams, by your measurement")
    add("--gpu-training", type=float, help="clips/s of training of one GPU, by your measurement")
    return parser


def hosts_of(flags: argparse.Namespace, measured: dict[str, Any]) -> Hosts:
    """Return the assumptions about the hosts."""
    if flags.gpus and not (flags.gpu_extraction and flags.gpu_training):
        raise SystemExit(
            f"error: --gpus {flags.gpus}: GPUs are not measured here: give --gpu-extraction and "
            "--gpu-training, as measured by python -m benchmarks.speed on such a host"
        )
    return Hosts(
        cores=flags.host_cores or measured["machine"]["cores"],
        memory_gb=flags.host_memory_gb,
        network_gbit=flags.network_gbit,
        disk_gbit=flags.disk_gbit,
        latency_us=flags.latency_us,
        price=flags.host_price,
        batch_size=flags.batch_size,
        epochs=flags.epochs,
        train_share=flags.train_share,
        gpus=flags.gpus,
        gpu_extraction=flags.gpu_extraction,
        gpu_training=flags.gpu_training,
    )


def measure(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return all measurements; `folder` is for temporary files."""
    from benchmarks.clip_costs import WARM_UP, measure_clips, measure_lists

    _log("clips")
    paths = clips_of(flags.dataset_path, folder, flags.clips + WARM_UP)
    clip = in_own_process(measure_clips, paths, flags.feature_layer)
    report: dict[str, Any] = {
        "machine": clip.pop("machine"),
        "real_clips": flags.dataset_path is not None,
        "clip": clip,
    }
    report["training"] = measure_training(flags, folder)
    _log("clip list and index")
    report["lists"] = measure_lists(flags.listed_clips)
    return report


def clips_of(dataset_path: Path | None, folder: Path, count: int) -> list[Path]:
    """Return random clips of the dataset; without one, newly drawn ones."""
    import numpy as np

    from violence_detection.clips.dataset import find_clips
    from violence_detection.clips.demo import draw_clip

    random = np.random.default_rng(0)
    if dataset_path is None:
        paths = [folder / f"{number}.mp4" for number in range(count)]
        for number, path in enumerate(paths):
            draw_clip(path, number % 2 == 0, random)
        return paths
    found = find_clips(dataset_path, seed=0)
    if len(found) < count:
        raise SystemExit(f"error: {dataset_path} has {len(found)} clips, fewer than {count}")
    return [Path(found[number].path) for number in random.permutation(len(found))[:count]]


def measure_training(flags: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of each number of workers, one worker's first.

    The single worker runs first and stores the features. Its batch sizes include the local ones of
    several workers and their global ones, so that the cost of distribution can be separated.
    """
    from benchmarks.worker_steps import Task, measure_workers

    layer, batch = flags.feature_layer, flags.batch_size
    counts = sorted({1, *flags.workers})
    for count in counts:
        if count < 1 or batch % count:
            raise SystemExit(f"error: --batch-size {batch} is not divisible by --workers {count}")
    sizes = {count: sorted({batch, batch * count}) for count in counts}
    sizes[1] = sorted({size for n in counts for size in (batch // n, batch * n)})
    figures = []
    for count in counts:
        _log(f"training steps, {count} worker process{'es' * (count > 1)}")
        task = Task(str(folder), layer, flags.stored_clips, sizes[count], flags.rounds)
        figures.append(measure_workers(count, task))
    return [with_shares(each, figures[0], batch) for each in figures]


def with_shares(figures: dict[str, Any], one: dict[str, Any], batch: int) -> dict[str, Any]:
    """Return the figures of several workers with the cost of distribution.

    Returns:
        Besides the figures, for the global batch size ("strong") and that of each worker ("weak"):
        `all_reduce_share`, the share of the all-reduce alone in a step's seconds, and
        `added_cpu_share`, the share of a step's CPU seconds that one worker would not need.
    """
    workers = figures["workers"]
    if workers == 1:
        return figures
    shares = {}
    for name, size in {"strong": batch, "weak": batch * workers}.items():
        step = figures["steps"][str(size)]
        undivided = workers * one["steps"][str(size // workers)]["cpu_seconds"]
        shares[name] = {
            "batch_size": size,
            "all_reduce_share": figures["all_reduce"]["seconds"] / step["seconds"],
            "added_cpu_share": 1 - undivided / step["cpu_seconds"],
        }
    return figures | shares


def costs_of(measured: dict[str, Any], clip_kb: float | None) -> Costs:
    """Return the costs for the projection: CPU seconds, which other processes hardly affect."""
    import numpy as np

    clip, lists = measured["clip"], measured["lists"]
    one, *several = measured["training"]
    sizes = [int(size) for size in one["steps"]]
    seconds = [step["cpu_seconds"] for step in one["steps"].values()]
    per_clip, fixed = (
        np.polyfit(sizes, seconds, 1) if len(sizes) > 1 else (seconds[0] / sizes[0], 0)
    )
    # Distribution costs more than the all-reduce: what it adds to the steps of weak scaling.
    per_byte = []
    for each in several:
        size = each["weak"]["batch_size"]
        undivided = each["workers"] * one["steps"][str(size // each["workers"])]["cpu_seconds"]
        added = each["steps"][str(size)]["cpu_seconds"] - undivided
        sent = 2 * (each["workers"] - 1) * each["gradient_bytes"]
        per_byte.append(max(added, each["all_reduce"]["cpu_seconds"]) / sent)
    return Costs(
        decoding=clip["decoding"]["cpu_seconds"],
        vgg19=clip["vgg19"]["cpu_seconds"],
        clip_bytes=1e3 * clip_kb if clip_kb else clip["clip_bytes"],
        feature_bytes=clip["feature_bytes"],
        step_fixed=max(0.0, float(fixed)),
        step_per_clip=float(per_clip),
        gradient_bytes=one["gradient_bytes"],
        reduce_per_byte=float(np.mean(per_byte)) if per_byte else 0.0,
        list_seconds=lists["clip_list"]["seconds"] + lists["index"]["seconds"],
        list_bytes=lists["clip_list"]["bytes"] + lists["index"]["bytes"],
    )


def measured_tables(measured: dict[str, Any]) -> list[Table]:
    """Return the tables of the measurements."""
    clip, lists = measured["clip"], measured["lists"]
    kind = "real clips" if measured["real_clips"] else "drawn clips"
    pieces = Table(
        f"{MEASURED}: a clip ({clip['clips']} {kind}, {clip['clip_bytes'] / 1e3:.0f} kB), "
        f"{measured['machine']['cores']} cores",
        ["", "seconds", "CPU seconds"],
        [
            [
                f"decoding, {len(clip['streams'])} streams",
                *_seconds(clip["decoding"]),
            ],
            [f"VGG19 to {clip['layer']}, {clip['dtype']}", *_seconds(clip["vgg19"])],
        ],
    )
    rows = []
    for each in measured["training"]:
        for size, step in each["steps"].items():
            workers = each["workers"]
            scaling = next((each[n] for n in ("strong", "weak") if _is_of(each, n, size)), None)
            rows.append(
                [
                    f"{workers}, {size}",
                    *(f"{1e3 * step[name]:.0f}" for name in ("seconds", "cpu_seconds")),
                    f"{1e3 * each['all_reduce']['seconds']:.0f}" if workers > 1 else "",
                    f"{scaling['all_reduce_share']:.2f}" if scaling else "",
                    f"{scaling['added_cpu_share']:.2f}" if scaling else "",
                ]
            )
    megabytes = measured["training"][0]["gradient_bytes"] / 1e6
    training = Table(
        f"{MEASURED}: a training step, milliseconds; {megabytes:.1f} MB are reduced.\n"
        "The workers share these cores: more of them cannot be faster",
        ["workers, batch", "step", "CPU", "all-reduce", "of step", "CPU added"],
        rows,
    )
    listed = Table(
        f"{MEASURED}: {lists['clips']:,} clips listed",
        ["a clip", "microseconds", "bytes"],
        [
            [title, f"{1e6 * lists[name]['seconds']:.2f}", f"{lists[name]['bytes']:.0f}"]
            for name, title in (("clip_list", "clip list"), ("index", "finding its rows"))
        ],
    )
    return [pieces, training, listed]


def _is_of(figures: dict[str, Any], scaling: str, size: str) -> bool:
    return scaling in figures and str(figures[scaling]["batch_size"]) == size


def _seconds(timing: dict[str, float]) -> list[str]:
    return [f"{timing[name]:.3f}" for name in ("seconds", "cpu_seconds")]


def rates_table(costs: Costs, each: Hosts) -> Table:
    """Return the table of the extraction rates at which each resource is saturated."""
    rates = extraction_rates(costs, each)
    rows = [
        [name, f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"] for name, rate in rates.items()
    ]
    return Table(f"{PROJECTED}: extraction, saturated at", ["", "clips/s"], rows)


def projected_tables(rows: list[dict[str, Any]], each: Hosts) -> list[Table]:
    """Return a table for each number of clips: hours, and what limits them."""
    tables = []
    for count in sorted({row["clips"] for row in rows}):
        chosen = [row for row in rows if row["clips"] == count]
        first = chosen[0]
        fits = "" if first["list_fits"] else ": MORE THAN HALF of it"
        cells = [
            [
                str(row["hosts"]),
                _hours(row["extraction_seconds"]),
                row["extraction_limit"],
                _hours(row["training_seconds"]),
                row["training_limit"],
                _hours(row["training_batch_a_host_seconds"]),
                row["training_batch_a_host_limit"],
                f"{row['cost']:,.0f}" if row["cost"] >= 100 else f"{row['cost']:.3g}",
            ]
            for row in chosen
        ]
        size = each.batch_size
        tables.append(
            Table(
                f"{PROJECTED}: {count:,} clips; hours, what limits them, cost\n"
                f"(each host lists them in {first['listing_seconds']:.3g} s and "
                f"{first['list_gb']:.3g} GB of memory{fits})",
                ["hosts", "extract", "", f"batch {size}", "", f"{size}/host", "", "cost"],
                cells,
            )
        )
    return tables


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g}" if seconds < 3.6e6 else f"{seconds / 3600:,.0f}"


def _log(stage: str) -> None:
    print(f"measuring {stage}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
