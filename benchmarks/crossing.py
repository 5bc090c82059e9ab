"""What a detector is worth on cameras of another kind: trained on one data set, tested on another.

    python -m benchmarks.crossing --dataset-path A --dataset-path B --work-dir DIR --json FILE
    python -m benchmarks.crossing … --variant "defaults=" --variant "rgb=--streams rgb"

accepts the training command's flags, too. For each variant, seed and ordered pair of data sets the
training command runs once on a folder of links: all clips of the one are for training and
validation, all of the other are the test. With --together, it is also cross-validated on the clips
of both: what a user gets who adds clips of other cameras to those of their own. Finished runs are
kept in --work-dir and not repeated.
"""

import csv
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.linked_clips import clips_of, link
from benchmarks.runs import (
    DEFAULTS,
    add_flags_of_runs,
    finished_run,
    mean_figures,
    without_folders,
)
from benchmarks.tables import Table
from violence_detection.clips.splits import split_clips
from violence_detection.evaluation.metrics import evaluate
from violence_detection.experiments.cross_validation import CSV
from violence_detection.runs.files import RESULTS
from violence_detection.settings.constants import CLASS_NAMES

FIGURES = ("accuracy", "roc_auc", "violent_accuracy", "nonviolent_accuracy", "brier", "ece")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on each data set, test on the others; print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, action="append", required=True)
    parser.add_argument(
        "--together",
        type=int,
        nargs="?",
        const=5,
        metavar="K",
        help="cross-validate on all of them, too, in K folds (default: 5)",
    )
    add_flags_of_runs(parser)
    options, flags = parser.parse_known_args(arguments)
    if len(options.dataset_path) < 2:
        parser.error("--dataset-path: give two or more")
    seeds = options.seeds
    report: dict[str, Any] = {"seeds": seeds, "flags": without_folders(flags), "rows": []}
    for name, more in options.variant or DEFAULTS:
        own = [*flags, *shlex.split(more)]
        for trained_on, tested_on in permutations(options.dataset_path, 2):
            folder = crossed(trained_on, tested_on, options.work_dir)
            runs = [tested(options.work_dir, folder, [*own, "--seed", str(s)]) for s in seeds]
            sides = {"trained_on": trained_on.name, "tested_on": tested_on.name}
            report["rows"].append({"variant": name, "flags": more, **sides, **mean_of(runs)})
            write_report(report, options.json)
        if options.together:
            both = together(options.dataset_path, options.work_dir, own, seeds, options.together)
            report["rows"] += [{"variant": name, "flags": more, **row} for row in both]
            write_report(report, options.json)
        print(table(report).as_text(), flush=True)
    return 0


def crossed(trained_on: Path, tested_on: Path, work_dir: Path) -> Path:
    """Return a folder in which one data set is for training and validation, another the test."""
    known = clips_of(trained_on)
    # The program's own split, of which the test's part is trained on, too.
    split = split_clips([replace(linked.clip, split="train") for linked in known], seed=0)
    sides = {clip.path: "val" if clip.split == "val" else "train" for clip in split}
    placed = [(sides[linked.clip.path], linked) for linked in known]
    placed += [("test", linked) for linked in clips_of(tested_on)]
    name = f"{trained_on.name}_to_{tested_on.name}"
    return link({f"{side}/{linked.path}": linked for side, linked in placed}, work_dir / name)


def tested(work_dir: Path, dataset: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Return the test's figures of a training on a folder made by `crossed`."""
    command = ["--dataset-path", str(dataset), *flags]
    folder = finished_run(work_dir, command, RESULTS).folder
    return json.loads((folder / RESULTS).read_text())["evaluation"]


def together(
    datasets: Sequence[Path],
    work_dir: Path,
    flags: Sequence[str],
    seeds: Sequence[int],
    folds: int,
) -> list[dict[str, Any]]:
    """Return a row for each data set, of detectors that are trained on clips of all of them.

    Args:
        datasets: the folders.
        work_dir: of the links and the finished runs.
        flags: of the training command.
        seeds: one cross-validation each.
        folds: of a cross-validation.
    """
    clips = {linked.path: linked for dataset in datasets for linked in clips_of(dataset)}
    folder = link(clips, work_dir / "_and_".join(dataset.name for dataset in datasets))
    figures: dict[str, list[dict[str, Any]]] = {dataset.name: [] for dataset in datasets}
    for seed in seeds:
        command = ["--dataset-path", str(folder), *flags, "--seed", str(seed)]
        command += ["--cross-validate", str(folds)]
        with (finished_run(work_dir, command, CSV).folder / CSV).open(newline="") as file:
            rows = list(csv.DictReader(file))
        for dataset, found in figures.items():
            own = [row for row in rows if clips[row["clip"]].dataset == dataset]
            found.append(figures_of(own, seed))
    return [
        {"trained_on": "both", "tested_on": dataset, **mean_of(found)}
        for dataset, found in figures.items()
    ]


def figures_of(rows: Sequence[dict[str, str]], seed: int) -> dict[str, Any]:
    """Return the metrics of rows of a cross-validation's CSV."""
    labels = np.array([CLASS_NAMES.index(row["label"]) for row in rows])
    probabilities = np.array([float(row["probability"]) for row in rows])
    # Each fold has its own threshold: what was predicted is kept, whatever the probability.
    predicted = np.array([row["predicted"] == CLASS_NAMES[1] for row in rows])
    thresholds = np.where(predicted, 0.0, 1.1)
    return evaluate(labels, probabilities, thresholds, [row["group"] for row in rows], seed)


def mean_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures' means over the seeds, and each seed's accuracy and ROC-AUC."""
    return {
        **mean_figures(runs, FIGURES),
        "by_seed": {name: [run[name] for run in runs] for name in ("accuracy", "roc_auc")},
        "clips": runs[0]["clips"],
    }


def table(report: dict[str, Any]) -> Table:
    """Return a row for each variant and pair of data sets."""
    header = ["", "trained on", "tested on", "accuracy", "ROC-AUC", "violent", "nonviol."]
    rows = [
        [row["variant"], row["trained_on"], row["tested_on"]]
        + ["n/a" if row[name] is None else f"{row[name]:.3f}" for name in FIGURES[:4]]
        for row in report["rows"]
    ]
    return Table(f"Across data sets, seeds {report['seeds']}", header, rows)


if __name__ == "__main__":
    sys.exit(main())
