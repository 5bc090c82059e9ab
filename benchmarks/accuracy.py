"""What the training command gives on clips of sources it has not seen: its own cross-validation.

    python -m benchmarks.accuracy --dataset-path DIR --seeds 1,2,3 --work-dir DIR --json FILE
    python -m benchmarks.accuracy … --variant "rgb=--streams rgb" --variant "all=--streams rgb,flow"

accepts the training command's flags, too. For each variant and seed the command runs once with
`--cross-validate`: in every fold all its choices are made anew, without the held-out clips. The
figures are means over the seeds. Finished runs are kept in --work-dir and not repeated.
`--random-folds` ignores groups.csv, as the published figures for some data sets do: clips of one
source are then on both sides. `--violent-share 0.78` leaves out nonviolent clips of every source.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.linked_clips import clips_of, link, thinned
from benchmarks.runs import (
    DEFAULTS,
    add_flags_of_runs,
    finished_run,
    mean_figures,
    without_folders,
)
from benchmarks.tables import Table
from violence_detection.experiments.cross_validation import JSON

FOLDS = 5
FIGURES = ("accuracy", "roc_auc", "violent_accuracy", "nonviolent_accuracy", "precision", "f1")
CALIBRATION = ("ece", "brier")


def main(arguments: Sequence[str] | None = None) -> int:
    """Cross-validate each variant with each seed; print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True)
    add_flags_of_runs(parser)
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the test (default: 5)")
    parser.add_argument("--random-folds", action="store_true", help="ignore groups.csv")
    parser.add_argument("--violent-share", type=float, help="leave out nonviolent clips")
    options, flags = parser.parse_known_args(arguments)
    flags += ["--groups", "none"] if options.random_folds else []
    report: dict[str, Any] = {
        "dataset": options.dataset_path.name,
        "folds": "random" if options.random_folds else "by source",
        "violent_share": options.violent_share,
        "seeds": options.seeds,
        "flags": without_folders(flags),
        "variants": [],
    }
    share = options.violent_share
    folder = dataset(options.dataset_path, options.work_dir, options.random_folds, share)
    for name, more in options.variant or DEFAULTS:
        runs = []
        for seed in options.seeds:
            command = ["--dataset-path", str(folder), *flags, *shlex.split(more)]
            command += ["--seed", str(seed), "--cross-validate", str(options.folds)]
            runs.append(cross_validation(options.work_dir, command))
        report["variants"].append({"name": name, "flags": more, **mean_of(runs)})
        write_report(report, options.json)
        print(table(report).as_text(), flush=True)
    return 0


def dataset(path: Path, work_dir: Path, without_groups: bool, violent_share: float | None) -> Path:
    """Return the folder of the clips, or one of links to those that are asked for.

    Args:
        path: of all clips.
        work_dir: of the links.
        without_groups: leave out groups.csv.
        violent_share: leave out nonviolent clips of every source, drawn with seed 0, until this
            share of the clips is violent; None: take all.
    """
    if not without_groups and violent_share is None:
        return path
    clips = clips_of(path)
    name = path.name + ("_without_groups" if without_groups else "")
    if violent_share is not None:
        clips = thinned(clips, violent_share)
        name += f"_{violent_share:g}_violent"
    return link({c.path: c for c in clips}, work_dir / name, with_groups=not without_groups)


def cross_validation(work_dir: Path, command: Sequence[str]) -> dict[str, Any]:
    """Return what the training command writes of a cross-validation, and its seconds.

    Args:
        work_dir: finished ones are kept there.
        command: the flags of the training command.
    """
    run = finished_run(work_dir, command, JSON)
    return json.loads((run.folder / JSON).read_text()) | {"seconds": run.seconds}


def mean_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return figures pooled over the folds, their mean over the seeds, and each seed's accuracy."""
    pooled = [run["pooled"] for run in runs]
    gaps = [fold["promised_accuracy"] - fold["accuracy"] for run in runs for fold in run["folds"]]
    return {
        **mean_figures(pooled, (*FIGURES, *CALIBRATION)),
        "uncalibrated": mean_figures([run["uncalibrated"] for run in runs], CALIBRATION),
        **mean_figures([run["mean"] for run in runs], ["promised_accuracy"]),
        "gap": float(np.mean(gaps)),
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
