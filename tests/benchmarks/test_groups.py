from pathlib import Path

from benchmarks.groups import on_two_sides, pairs
from violence_detection.clips.clip import Clip

CLIPS = [Clip(Path("/"), f"{label}/{n}", label, "train") for label in (0, 1) for n in range(20)]
TRUTH = {clip.name: clip.file.split("/")[1] for clip in CLIPS}  # a clip of each class


def test_groups_are_compared_by_pairs() -> None:
    assert pairs(TRUTH, TRUTH) == {"pair_precision": 1, "pair_recall": 1}
    assert pairs({}, TRUTH)["pair_recall"] == 0
    everything = dict.fromkeys(TRUTH, "one")
    assert pairs(everything, TRUTH) == {"pair_precision": round(20 / 780, 3), "pair_recall": 1}


def test_groups_in_several_splits_are_counted() -> None:
    assert on_two_sides(CLIPS, TRUTH, TRUTH, 2)["true_groups_in_several_splits"] == [0, 0]
    alone = on_two_sides(CLIPS, {}, TRUTH, 2)
    assert min(alone["true_groups_in_several_splits"]) > 0
    assert alone["test_clips"] == [6, 6]
