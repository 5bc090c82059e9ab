"""How many wrong labels a cross-validation finds: labels of a data set are flipped.

    python -m benchmarks.label_issues --dataset-path DIR --flip 0.1 --work-dir DIR

accepts the training command's flags, too. Of each class the same share of clips, drawn with --seed,
is linked under the other label, and the training command runs with `--cross-validate`. Printed is
the share of the flipped labels among the first 20 % of `label_issues.csv`, and among the labels
that it calls suspect. A finished cross-validation is kept in --work-dir and not repeated.
"""

import csv
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, print_report
from benchmarks.linked_clips import Linked, clips_of, link
from benchmarks.runs import finished_run, without_folders
from violence_detection.clips.dataset import GROUPS_CSV
from violence_detection.runs.files import LABEL_ISSUES
from violence_detection.runs.label_issues import YES
from violence_detection.settings.constants import CLASS_NAMES

FOLDS = 5
FIRST = (0.05, 0.1, 0.2)  # of the list


def main(arguments: Sequence[str] | None = None) -> int:
    """Flip labels, cross-validate, and print what the list finds."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True, help="keeps what is finished")
    parser.add_argument("--flip", type=float, default=0.1, help="of each class (default: 0.1)")
    parser.add_argument("--seed", type=int, default=1, help="of flips and training (default: 1)")
    parser.add_argument("--cross-validate", type=int, default=FOLDS, help="folds (default: 5)")
    options, flags = parser.parse_known_args(arguments)
    clips = clips_of(options.dataset_path)
    flipped = choose_flipped(clips, options.flip, options.seed)
    name = f"{options.dataset_path.name}_flipped_{options.flip:g}_seed_{options.seed}"
    folder = link(
        with_flipped_labels(clips, flipped),
        options.work_dir / name,
        with_groups=(options.dataset_path / GROUPS_CSV).exists(),
    )
    command = ["--dataset-path", str(folder), *flags, "--seed", str(options.seed)]
    command += ["--cross-validate", str(options.cross_validate)]
    run = finished_run(options.work_dir, command, LABEL_ISSUES)
    with (run.folder / LABEL_ISSUES).open(newline="") as file:
        listed = list(csv.DictReader(file))
    report = {
        "dataset": options.dataset_path.name,
        "flip": options.flip,
        "seed": options.seed,
        "folds": options.cross_validate,
        "flags": without_folders(flags),
        **what_is_found(listed, {flipped_path(clips[index]) for index in flipped}),
        "seconds": round(run.seconds, 1),
    }
    print_report(report, options.json)
    return 0


def choose_flipped(clips: Sequence[Linked], share: float, seed: int) -> set[int]:
    """Return the indices of the clips to flip: the same share of each class."""
    random = np.random.default_rng(seed)
    chosen: set[int] = set()
    for label in range(len(CLASS_NAMES)):
        own = [index for index, linked in enumerate(clips) if linked.clip.label == label]
        chosen.update(random.permutation(own)[: round(share * len(own))].tolist())
    return chosen


def flipped_path(linked: Linked) -> str:
    """Return the path of the link to a clip under the other label."""
    _, _, name = linked.path.partition("/")
    return f"{CLASS_NAMES[1 - linked.clip.label]}/{name}"


def with_flipped_labels(clips: Sequence[Linked], flipped: Collection[int]) -> dict[str, Linked]:
    """Return clips by the paths of their links, some of them under the other label."""
    return {
        flipped_path(linked) if index in flipped else linked.path: linked
        for index, linked in enumerate(clips)
    }


def what_is_found(listed: Sequence[dict[str, str]], flipped: Collection[str]) -> dict[str, Any]:
    """Return the share of flipped labels among the first of a list, and among its suspects.

    Args:
        listed: the rows of `label_issues.csv`, the most suspect label first.
        flipped: names of the clips with a flipped label; those that could not be read do not count.
    """
    is_flipped = np.array([row["clip"] in flipped for row in listed])
    suspect = np.array([row["suspect"] == YES for row in listed])
    wrong, found = int(is_flipped.sum()), int(is_flipped[suspect].sum())
    return {
        "clips": len(listed),
        "flipped": wrong,
        "found_among_first": {
            f"{share:.0%}": round(is_flipped[: round(share * len(listed))].sum() / wrong, 3)
            for share in FIRST
        },
        "suspects": int(suspect.sum()),
        "flipped_among_suspects": found,
    }


if __name__ == "__main__":
    sys.exit(main())
