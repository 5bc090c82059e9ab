"""What --pretrain gains: the labels of a part of the clips, with and without pretraining on all.

    python -m benchmarks.pretraining --dataset-path DIR --work-dir DIR --json FILE --model 3d

accepts the training command's flags, too. For each seed, sources with about a seventh of the clips
are the test. Of the others, 25, 50 and 100 % of each class have labels, and all are what --pretrain
is given, without labels, once for a seed and task. For each share and variant the training command
runs once. Finished runs are kept in --work-dir and not repeated.

The default variants are none, and both tasks of --pretrain-task; --variant "NAME=FLAGS" replaces
them, and `{clips}` in FLAGS stands for the folder of clips without labels.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from benchmarks.command import make_parser, write_report
from benchmarks.linked_clips import Linked, clips_of, link
from benchmarks.runs import (
    add_flags_of_runs,
    finished_run,
    mean_figures,
    numbers,
    without_folders,
)
from benchmarks.tables import Table
from violence_detection.clips.splits import split_clips
from violence_detection.runs.files import PRETRAINED, RESULTS
from violence_detection.storage.remote_paths import AnyPath

FIGURES = ("accuracy", "roc_auc")
VARIANTS = [
    ("labels alone", ""),
    ("+ contrast", "--pretrain {clips} --pretrain-task contrast"),
    ("+ order", "--pretrain {clips} --pretrain-task order"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on shares of the labels, with and without pretraining; print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--percent", type=numbers, default=[25, 50, 100], help="default: 25,50,100")
    add_flags_of_runs(parser)
    options, flags = parser.parse_known_args(arguments)
    report: dict[str, Any] = {"flags": without_folders(flags), "seeds": options.seeds, "rows": []}
    clips = clips_of(options.dataset_path)
    pretrained: dict[tuple[str, int], Path] = {}
    for percent in options.percent:
        for name, more in options.variant or VARIANTS:
            runs = []
            for seed in options.seeds:
                labelled, whole = divided(clips, percent, seed, options.work_dir)
                source = pretrained.get((name, seed), whole)
                own = shlex.split(more.format(clips=shlex.quote(str(source))))
                command = ["--dataset-path", str(labelled), *flags, *own, "--seed", str(seed)]
                folder = finished_run(options.work_dir, command, RESULTS).folder
                if (folder / PRETRAINED).exists():  # other shares take up what it has learned
                    pretrained[name, seed] = folder / PRETRAINED
                runs.append(json.loads((folder / RESULTS).read_text())["evaluation"])
            row = {"percent": percent, "variant": name, "flags": more}
            row |= mean_figures(runs, FIGURES)
            row["by_seed"] = {figure: [run[figure] for run in runs] for figure in FIGURES}
            report["rows"].append(row)
            write_report(report, options.json)
    print(table(report).as_text(), flush=True)
    return 0


def divided(clips: Sequence[Linked], percent: int, seed: int, work_dir: Path) -> tuple[Path, Path]:
    """Return a folder of labelled clips in splits, and one of all clips but those of the test.

    Args:
        clips: of the data set.
        percent: of the clips of training and validation, of each class, that have labels.
        seed: of the division.
        work_dir: of the folders.
    """
    sides = _split(clips, seed)
    known = [linked for linked in clips if sides[linked.clip.path] != "test"]
    random, chosen = np.random.default_rng(seed), []
    for label in (0, 1):  # labels cost the same, whatever source a clip is of
        own = [linked for linked in known if linked.clip.label == label]
        kept = random.permutation(len(own))[: -(-percent * len(own) // 100)]
        chosen += [own[index] for index in np.sort(kept)]
    inner = _split(chosen, seed)
    labelled = {f"test/{each.path}": each for each in clips if sides[each.clip.path] == "test"}
    for each in chosen:
        labelled[f"{'val' if inner[each.clip.path] == 'val' else 'train'}/{each.path}"] = each
    whole = {each.path: each for each in known}
    return (
        link(labelled, work_dir / f"labelled_{percent}_{seed}"),
        link(whole, work_dir / f"unlabeled_{seed}", with_groups=False),
    )


def _split(clips: Sequence[Linked], seed: int) -> dict[AnyPath, str]:
    """Return the split of each clip, by its path, as the program divides clips by itself."""
    grouped = [replace(linked.clip, split="train", group=linked.group) for linked in clips]
    return {clip.path: clip.split for clip in split_clips(grouped, seed)}


def table(report: dict[str, Any]) -> Table:
    """Return a row for each share and variant; the gain is that over the share's first variant."""
    rows = []
    for row in report["rows"]:
        first = next(each for each in report["rows"] if each["percent"] == row["percent"])
        gains = np.subtract(row["by_seed"]["roc_auc"], first["by_seed"]["roc_auc"])
        chance = "" if row is first or len(gains) < 2 else f"{ttest_1samp(gains, 0).pvalue:.2f}"
        gain = "" if row is first else f"{gains.mean():+.3f}"
        values = [f"{row[name]:.3f}" for name in FIGURES]
        rows.append([f"{row['percent']} % of the labels, {row['variant']}", *values, gain, chance])
    header = ["", "accuracy", "ROC-AUC", "gain", "p"]
    return Table(f"Pretraining, seeds {report['seeds']}", header, rows)


if __name__ == "__main__":
    sys.exit(main())
