"""What the groups that are proposed without groups.csv find and miss of those that it lists.

    python -m benchmarks.groups --dataset-path DIR

The clips are grouped by names and pictures alone, and split automatically, once with each clip on
its own and once by the proposed groups. Counted is how many of the true groups, which groups.csv
lists, end up in more than one split.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, write_report
from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.decoders import decoder_count
from violence_detection.clips.frames import read_frames
from violence_detection.clips.grouping import looks_of, propose_groups
from violence_detection.clips.splits import count_by_split, split_clips
from violence_detection.clips.streams import thumbnails
from violence_detection.errors import UserError


def main() -> None:
    """Propose, compare, print, and write the file that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--dataset-path", type=Path, required=True, help="a dataset with groups.csv"
    )
    parser.add_argument("--frames", type=int, default=16, help="per clip (default: 16)")
    parser.add_argument("--seeds", type=int, default=5, help="automatic splits (default: 5)")
    flags = parser.parse_args()
    report = measure(flags)
    print(table(report))
    write_report(report, flags.json)


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Return how many of the true groups are in several splits, before and after."""
    clips = find_clips(flags.dataset_path, seed=0)
    truth = {clip.name: clip.group_key for clip in clips}
    if len(set(truth.values())) == len(clips):
        raise UserError(f"{flags.dataset_path} has no groups.csv with groups of several clips")
    clips = [replace(clip, group=None) for clip in clips]
    with ProcessPoolExecutor(decoder_count()) as processes:
        read = partial(look_of, frames=flags.frames)
        looks = np.stack(list(processes.map(read, [clip.path for clip in clips], chunksize=4)))
    report: dict[str, Any] = {"clips": len(clips), "true_groups": len(set(truth.values()))}
    report["true_groups_of_several_clips"] = sum(n > 1 for n in Counter(truth.values()).values())
    report["splits"] = flags.seeds
    for title, numbered in (("proposed", True), ("proposed_without_numbers_in_names", False)):
        unnamed = [replace(clip, file=f"{clip.label}/{index}x") for index, clip in enumerate(clips)]
        compared = clips if numbered else unnamed
        proposal = propose_groups(compared, looks)
        name_of = {shown.name: clip.name for shown, clip in zip(compared, clips, strict=True)}
        groups = {name_of[name]: group for name, group in proposal.group_of.items()}
        report[title] = {
            "groups_by_name": len(proposal.by_name),
            "groups_by_picture": len(proposal.by_picture),
            "clips_in_groups": len(groups),
            "largest_group": max(Counter(groups.values()).values(), default=0),
            **pairs(groups, truth),
            **on_two_sides(clips, groups, truth, flags.seeds),
        }
    report["each_clip_on_its_own"] = on_two_sides(clips, {}, truth, flags.seeds)
    return report


def look_of(path: Path, frames: int) -> np.ndarray:
    """Return `(LOOK_VALUES,)` float32: what a clip looks like."""
    return looks_of(thumbnails(read_frames(path, frames)[np.newaxis]))[0]


def pairs(groups: Mapping[str, str], truth: Mapping[str, str]) -> dict[str, float]:
    """Return precision and recall of pairs of clips that are in one proposed group."""
    both = _pair_count(Counter((groups[name], truth[name]) for name in groups))
    proposed, true = _pair_count(Counter(groups.values())), _pair_count(Counter(truth.values()))
    return {
        "pair_precision": round(both / max(proposed, 1), 3),
        "pair_recall": round(both / max(true, 1), 3),
    }


def _pair_count(sizes: Counter[Any]) -> int:
    return sum(size * (size - 1) // 2 for size in sizes.values())


def on_two_sides(
    clips: Sequence[Clip], groups: Mapping[str, str], truth: Mapping[str, str], seeds: int
) -> dict[str, Any]:
    """Return, for each seed, how many true groups are in several automatic splits.

    Also the share of test clips of whose true group there are clips in training or validation.
    """
    grouped = [replace(clip, group=groups.get(clip.name)) for clip in clips]
    counts, shares, tested = [], [], []
    for seed in range(seeds):
        splits: dict[str, set[str]] = defaultdict(set)
        divided = split_clips(grouped, seed)
        for clip in divided:
            splits[truth[clip.name]].add(clip.split)
        test = [clip for clip in divided if clip.split == "test"]
        counts.append(sum(len(found) > 1 for found in splits.values()))
        shares.append(round(np.mean([len(splits[truth[clip.name]]) > 1 for clip in test]), 3))
        tested.append(sum(count_by_split(divided)["test"].values()))
    return {
        "true_groups_in_several_splits": counts,
        "share_of_test_clips_with_their_source_elsewhere": shares,
        "test_clips": tested,
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the figures before and after as lines."""
    rows = {
        "each clip on its own": report["each_clip_on_its_own"],
        "proposed groups": report["proposed"],
        "proposed, names not numbered": report["proposed_without_numbers_in_names"],
    }
    lines = [
        f"{report['clips']} clips of {report['true_groups']} groups, "
        f"{report['true_groups_of_several_clips']} of them of several clips; "
        f"{report['splits']} automatic splits",
        f"{'':29s}{'groups':>7s}{'clips':>7s}{'pair':>11s}{'pair':>8s}{'in several':>16s}",
        f"{'':29s}{'':7s}{'':7s}{'precision':>11s}{'recall':>8s}{'splits (mean)':>16s}",
    ]
    for title, row in rows.items():
        groups = row.get("groups_by_name", 0) + row.get("groups_by_picture", 0)
        precision, recall = (f"{row[k]:.3f}" if k in row else "" for k in PAIRS)
        split = np.mean(row["true_groups_in_several_splits"])
        lines.append(
            f"{title:29s}{groups:7d}{row.get('clips_in_groups', 0):7d}{precision:>11s}{recall:>8s}"
            f"{split:>16.1f}"
        )
    return "\n".join(lines)


PAIRS = ("pair_precision", "pair_recall")

if __name__ == "__main__":
    main()
