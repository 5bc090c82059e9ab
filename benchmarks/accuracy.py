"""What the training command gives on clips of sources it has not seen: its own cross-validation.

    python -m benchmarks.accuracy --dataset-path DIR --seeds 1,2,3 --work-dir DIR --json FILE
    python -m benchmarks.accuracy … --variant "rgb=--streams rgb" --variant "all=--streams rgb,flow"

accepts the training command's flags, too. For each variant and seed the command runs once with
`--cross-validate`: in every fold all its choices are made anew, without the held-out clips. The
figures are means over the seeds. Finished runs are kept in --work-dir and not repeated.
`--random-folds` ignores groups.csv, as the published figures for some data sets do: clips of one
source are then on both sides.
"""

import contextlib
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.tables import Table
from violence_detection.experiments.cross_validation import JSON

FOLDS = 5
FIGURES = ("accuracy", "roc_auc", "violent_accuracy", "nonviolent_accuracy", "precision", "f1")
CALIBRATION = ("ece", "brier")


def main(arguments: Sequence[str] | None = None) -> int:
    """Cross-validate each variant with each seed; print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3", help="separated by commas (default: 1,2,3)")
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the test (default: 5)")
    parser.add_argument(
        "--work-dir", type=Path, required=True, help="finished cross-validations are kept here"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=FLAGS",
        help="flags of the training command to compare (default: its defaults)",
    )
    parser.add_argument("--random-folds", action="store_true", help="ignore groups.csv")
    options, flags = parser.parse_known_args(arguments)
    flags += ["--groups", "none"] if options.random_folds else []
    report: dict[str, Any] = {
        "dataset": options.dataset_path.name,
        "folds": "random" if options.random_folds else "by source",
        "seeds": [int(seed) for seed in options.seeds.split(",")],
        "flags": [Path(word).name if "/" in word else word for word in flags],
        "variants": [],
    }
    with dataset(options.dataset_path, options.work_dir, options.random_folds) as clips:
        for variant in options.variant or ["defaults="]:
            name, _, more = variant.partition("=")
            runs = []
            for seed in report["seeds"]:
                own = [*flags, *shlex.split(more), "--seed", str(seed)]
                command = ["--dataset-path", str(clips), *own]
                command += ["--cross-validate", str(options.folds)]
                runs.append(cross_validation(options.work_dir, command))
            report["variants"].append({"name": name, "flags": more, **mean_of(runs)})
            write_report(report, options.json)
            print(table(report).as_text(), flush=True)
    return 0


@contextlib.contextmanager
def dataset(path: Path, work_dir: Path, without_groups: bool) -> Iterator[Path]:
    """Yield the folder of the clips; a folder of links to its classes if groups are ignored."""
    if not without_groups:
        yield path
        return
    linked = work_dir / f"{path.name}_without_groups"
    linked.mkdir(parents=True, exist_ok=True)
    for entry in path.iterdir():
        if entry.is_dir() and not (linked / entry.name).exists():
            (linked / entry.name).symlink_to(entry.resolve())
    yield linked


def cross_validation(work_dir: Path, command: Sequence[str]) -> dict[str, Any]:
    """Return what the training command writes of a cross-validation, and its seconds.

    Args:
        work_dir: has a folder for each command; what is finished there is not repeated.
        command: the flags of the training command.
    """
    name = hashlib.blake2b(shlex.join(command).encode(), digest_size=6).hexdigest()
    folder = work_dir / name
    path, timed = folder / JSON, folder / "seconds.json"
    if not path.exists():
        from train_rtx5000_dual_optimized import main as train

        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        (folder / "command.txt").write_text(shlex.join(command) + "\n")
        with (folder / "screen.txt").open("w") as screen, contextlib.redirect_stdout(screen):
            status = train([*command, "--checkpoint-dir", str(folder), "--quiet"])
        if status:
            raise SystemExit(f"error: {shlex.join(command)} failed: {folder / 'screen.txt'}")
        timed.write_text(json.dumps(time.perf_counter() - started))
    return json.loads(path.read_text()) | {"seconds": json.loads(timed.read_text())}


def mean_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return figures pooled over the folds, their mean over the seeds, and each seed's accuracy."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    gaps = [fold["promised_accuracy"] - fold["accuracy"] for run in runs for fold in run["folds"]]
    return {
        **{name: mean([run["pooled"][name] for run in runs]) for name in (*FIGURES, *CALIBRATION)},
        "uncalibrated": {
            name: mean([run["uncalibrated"][name] for run in runs]) for name in CALIBRATION
        },
        "promised_accuracy": mean([run["mean"]["promised_accuracy"] for run in runs]),
        "gap": mean(gaps),
        "mean_absolute_gap_of_a_fold": float(np.mean(np.abs(gaps))),
        "by_seed": {
            name: [run["pooled"][name] for run in runs] for name in ("accuracy", "roc_auc")
        },
        "intervals_of_first_seed": {
            name: runs[0]["pooled"]["intervals"][name] for name in ("accuracy", "roc_auc")
        },
        "confusion_matrix": np.sum([run["pooled"]["confusion_matrix"] for run in runs], 0).tolist(),
        "seconds": round(sum(run["seconds"] for run in runs), 1),
    }


def table(report: dict[str, Any]) -> Table:
    """Return a row for each variant."""
    header = ["", "accuracy", "ROC-AUC", "violent", "nonviol.", "ECE", "(raw)", "gap"]

    def cells(row: dict[str, Any]) -> list[str]:
        values = [row[name] for name in (*FIGURES[:4], "ece")]
        values += [row["uncalibrated"]["ece"], row["gap"]]
        return [row["name"], *("n/a" if value is None else f"{value:.3f}" for value in values)]

    title = f"{report['dataset']}, folds {report['folds']}, seeds {report['seeds']}"
    return Table(title, header, [cells(row) for row in report["variants"]])


if __name__ == "__main__":
    sys.exit(main())
