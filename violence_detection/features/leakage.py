"""Clips that are nearly identical in two splits, which makes a test on them meaningless.

The mean features of clips (`survey`) are compared, each of a later split with each of the earlier
splits, block by block, by scikit-learn's nearest-neighbour search. Two clips are near duplicates if
the cosine similarity of their means, standardized over all clips, is at least `SIMILAR`.
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

SIMILAR = 0.99  # `benchmarks/leakage.py` measures what this finds and misses
BLOCK = 2048  # clips compared at once, on each side
PAIRS_PER_CLIP = 10  # that are listed; more would change nothing
NEAR_DUPLICATE, SAME_GROUP = "near duplicate", "same group"


@dataclass(frozen=True)
class Leak:
    """A clip that a clip of a later split repeats."""

    clip: Clip  # of the earlier split: train before val before test
    repeated: Clip  # of the later one
    similarity: float | None  # cosine; None for clips of one group
    reason: str  # NEAR_DUPLICATE or SAME_GROUP

    def __str__(self) -> str:
        near = "" if self.similarity is None else f" {self.similarity:.3f}"
        return f"{self.clip.name} and {self.repeated.name} ({self.reason}{near})"

    def as_json(self) -> dict[str, Any]:
        """Return the two names, the similarity and the reason."""
        names = {"clip": self.clip.name, "repeated": self.repeated.name}
        return names | {"similarity": self.similarity, "reason": self.reason}


def find_leaks(clips: Mapping[Clip, int], survey: Survey, block: int = BLOCK) -> list[Leak]:
    """Return the pairs of clips in different splits that are near duplicates, or of one group.

    Args:
        clips: each with the row of its features.
        survey: of those rows.
        block: how many clips are compared at once, on each side; bounds memory.

    Returns:
        The near duplicates, the most similar first, then the clips of one group.
    """
    by_split = {split: [clip for clip in clips if clip.split == split] for split in SPLITS}
    mean = survey.summaries.mean(axis=0, dtype=np.float64)
    deviation = survey.summaries.std(axis=0, dtype=np.float64)
    scale = deviation + 0.1 * deviation.mean() + 1e-12

    def directions(chosen: Sequence[Clip]) -> np.ndarray:
        """Return `(clips, values)` float32: standardized summaries of length 1."""
        summaries = survey.summaries[survey.indices([clips[clip] for clip in chosen])]
        standardized = (summaries - mean) / scale
        lengths = np.linalg.norm(standardized, axis=1, keepdims=True)
        return (standardized / np.maximum(lengths, 1e-12)).astype(np.float32)

    leaks: list[Leak] = []
    for index, split in enumerate(SPLITS):
        earlier = [clip for other in SPLITS[:index] for clip in by_split[other]]
        pairs = _similar_pairs(earlier, by_split[split], directions, block)
        leaks += [Leak(clip, repeated, near, NEAR_DUPLICATE) for clip, repeated, near in pairs]
    leaks.sort(key=lambda leak: (-(leak.similarity or 0), leak.clip.name, leak.repeated.name))
    return leaks + list(_groups_in_several_splits(clips))


def _similar_pairs(
    earlier: Sequence[Clip],
    later: Sequence[Clip],
    directions: Callable[[Sequence[Clip]], np.ndarray],
    block: int,
) -> Iterator[tuple[Clip, Clip, float]]:
    """Yield each earlier clip that is similar to later ones, with the nearest of those."""
    for targets in _blocks(later, block):
        search = NearestNeighbors(metric="cosine", algorithm="brute").fit(directions(targets))
        for queries in _blocks(earlier, block):
            with config_context(working_memory=64):  # MB
                nearest = search.kneighbors(directions(queries), min(PAIRS_PER_CLIP, len(targets)))
            for clip, distances, indices in zip(queries, *nearest, strict=True):
                for distance, index in zip(distances, indices, strict=True):
                    if 1 - distance >= SIMILAR:
                        yield clip, targets[index], float(1 - distance)


def _blocks(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    for start in range(0, len(clips), size):
        yield clips[start : start + size]


def _groups_in_several_splits(clips: Mapping[Clip, int]) -> Iterator[Leak]:
    """Yield the clips whose group has others in a later split, each with one of those."""
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
    """Write a CSV row per pair: splits and paths of both clips, similarity and reason.

    Without pairs there is no file: an earlier one is removed.

    Raises:
        RunError: the disk is full, gone or read-only.
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
