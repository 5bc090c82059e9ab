"""Clips that are all but the same in two splits: a test on them says nothing.

Compared are the clips' mean features (`feature_survey`), every one of a later split with every one
of the earlier splits, block by block, by scikit-learn's neighbour search. A pair counts if the
cosine of the two, standardized over all clips, is at least `SIMILAR`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.neighbors import NearestNeighbors

from violence_detection.clips.clip import Clip
from violence_detection.features.survey import Survey
from violence_detection.settings.constants import SPLITS
from violence_detection.storage.files import write_csv

SIMILAR = 0.99  # `benchmarks/leakage.py` measures what it finds and what it does not
BLOCK = 2048  # clips compared at once, on each side
PAIRS_PER_CLIP = 10  # listed; that there are more changes nothing
NEAR_DUPLICATE, SAME_GROUP = "near duplicate", "same group"


@dataclass(frozen=True)
class Leak:
    """A clip that a later split's clip repeats."""

    clip: Clip  # of the earlier split: train before val before test
    repeated: Clip  # of the later one
    similarity: float | None
    reason: str

    def __str__(self) -> str:
        near = "" if self.similarity is None else f" {self.similarity:.3f}"
        return f"{self.clip.name} and {self.repeated.name} ({self.reason}{near})"

    def as_json(self) -> dict[str, Any]:
        """Return the two names, the similarity and the reason."""
        names = {"clip": self.clip.name, "repeated": self.repeated.name}
        return names | {"similarity": self.similarity, "reason": self.reason}


def find_leaks(clips: Mapping[Clip, int], survey: Survey) -> list[Leak]:
    """Return the pairs of clips that are nearly the same, or of one group, in different splits.

    Args:
        clips: with the row of each one's features.
    """
    by_split = {split: [clip for clip in clips if clip.split == split] for split in SPLITS}
    mean = survey.summaries.mean(axis=0, dtype=np.float64)
    deviation = survey.summaries.std(axis=0, dtype=np.float64)
    scale = deviation + 0.1 * deviation.mean() + 1e-12

    def directions(chosen: Sequence[Clip]) -> np.ndarray:
        """Return `(clips, values)` float32: standardized summaries of length 1."""
        summaries = survey.summaries[survey.places([clips[clip] for clip in chosen])]
        standardized = (summaries - mean) / scale
        lengths = np.linalg.norm(standardized, axis=1, keepdims=True)
        return (standardized / np.maximum(lengths, 1e-12)).astype(np.float32)

    leaks: list[Leak] = []
    for place, later in enumerate(SPLITS):
        earlier = [clip for split in SPLITS[:place] for clip in by_split[split]]
        for clip, repeated, similarity in _similar_pairs(earlier, by_split[later], directions):
            leaks.append(Leak(clip, repeated, similarity, NEAR_DUPLICATE))
    leaks.sort(key=lambda leak: (-(leak.similarity or 0), leak.clip.name, leak.repeated.name))
    return leaks + list(_groups_on_two_sides(clips))


def _similar_pairs(
    earlier: Sequence[Clip],
    later: Sequence[Clip],
    directions: Callable[[Sequence[Clip]], np.ndarray],
) -> Iterator[tuple[Clip, Clip, float]]:
    """Yield every earlier clip that is similar to a later one, with its nearest such ones."""
    for block in _blocks(later):
        search = NearestNeighbors(metric="cosine", algorithm="brute").fit(directions(block))
        for queries in _blocks(earlier):
            with config_context(working_memory=64):  # MB
                nearest = search.kneighbors(directions(queries), min(PAIRS_PER_CLIP, len(block)))
            for clip, distances, places in zip(queries, *nearest, strict=True):
                for distance, place in zip(distances, places, strict=True):
                    if 1 - distance >= SIMILAR:
                        yield clip, block[place], float(1 - distance)


def _blocks(clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
    for start in range(0, len(clips), BLOCK):
        yield clips[start : start + BLOCK]


def _groups_on_two_sides(clips: Mapping[Clip, int]) -> Iterator[Leak]:
    """Yield the clips of a group that has others in a later split, each with one of those."""
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.group:
            groups[clip.group].append(clip)
    for members in groups.values():
        last = max(members, key=lambda clip: SPLITS.index(clip.split))
        for clip in members:
            if clip.split != last.split:
                yield Leak(clip, last, None, SAME_GROUP)


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """Write a row per pair: both clips, with their paths, splits, and what is the same.

    Without pairs there is no file: what an earlier start wrote there is removed.
    """
    if not leaks:
        path.unlink(missing_ok=True)
        return
    rows = [
        (
            *(leak.clip.split, leak.clip.path, leak.repeated.split, leak.repeated.path),
            *("" if leak.similarity is None else f"{leak.similarity:.4f}", leak.reason),
        )
        for leak in leaks
    ]
    header = ("split", "clip", "repeated_in", "repeated_clip", "similarity", "reason")
    write_csv(path, header, rows)
