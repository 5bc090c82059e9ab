"""Splits of a dataset: made by group where the folder has none, checked, counted, written."""

import csv
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np

from violence_detection.clips.clip import FILE_TYPES, Clip
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES, SPLIT_SHARES, SPLITS
from violence_detection.storage.files import write_csv

log = logging.getLogger(__name__)


def split_clips(clips: Sequence[Clip], seed: int, splits: Sequence[str] = SPLITS) -> list[Clip]:
    """Return the clips divided 70/15/15 into train, val and test.

    Greedy and stratified by label: the largest groups come first, and each goes to the split that
    lacks the largest share of the clips it should have of the group's classes. Clips of one group
    stay in one split; a clip without a group is a group of its own.

    Args:
        clips: in any order; their present split is ignored.
        seed: decides the order of groups of one size.
        splits: into these only, in the same proportions.

    Returns:
        The clips sorted by `Clip.order`.
    """
    clips = sorted(clips, key=attrgetter("order"))
    members: dict[str, list[int]] = defaultdict(list)  # the labels of each group's clips
    keys = [clip.group_key for clip in clips]
    for key, clip in zip(keys, clips, strict=True):
        members[key].append(clip.label)
    groups = list(members)
    groups = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    groups.sort(key=lambda key: -len(members[key]))
    violent = np.array([members[key].count(1) for key in groups])
    sizes = np.stack([[len(members[key]) for key in groups] - violent, violent], axis=1)
    shares = np.array([SPLIT_SHARES[split] for split in splits])
    wanted = shares[:, np.newaxis] * sizes.sum(axis=0)  # (splits, classes)
    assigned = np.zeros_like(wanted)
    split_of: dict[str, str] = {}
    for key, size in zip(groups, sizes, strict=True):
        lacking = ((wanted - assigned) / np.maximum(wanted, 1e-9) * size).sum(axis=1)
        split = int(np.argmax(lacking))
        assigned[split] += size
        split_of[key] = splits[split]
    return [clip.in_split(split_of[key]) for key, clip in zip(keys, clips, strict=True)]


def with_validation(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """Return clips whose splits are given; without a val split, part of train becomes it."""
    if any(clip.split == "val" for clip in clips):
        return list(clips)
    divided = split_clips([c for c in clips if c.split == "train"], seed, ("train", "val"))
    log.info("no val split is given: a part of train is taken, by groups")
    return [*divided, *(clip for clip in clips if clip.split != "train")]


def require_enough_to_split(clips: Sequence[Clip]) -> None:
    """Check that each class has clips for three splits.

    Raises:
        UserError: names the class that has too few.
    """
    groups_of: list[set[str]] = [set() for _ in CLASS_NAMES]
    for clip in clips:
        groups_of[clip.label].add(clip.group_key)
        if min(map(len, groups_of)) >= len(SPLITS):
            return
    counts = Counter(clip.label for clip in clips)
    for label, class_name in enumerate(CLASS_NAMES):
        count, groups = counts[label], len(groups_of[label])
        if count > 0 and groups < len(SPLITS):
            of_groups = "" if groups == count else f" of {count_of(groups, 'group')}"
            raise UserError(
                f"{count_of(count, f'{class_name} clip')}{of_groups} cannot be divided into "
                f"{', '.join(SPLITS)}: at least {len(SPLITS)} are needed, or split folders of "
                "your own"
            )


def require_both_classes(clips: Sequence[Clip]) -> None:
    """Check that training and validation have clips, and each split clips of both classes.

    Raises:
        UserError: names the split and the class that is missing.
    """
    for split, counts in count_by_split(clips).items():
        for class_name, count in counts.items():
            if not count:
                raise UserError(
                    f"the {split} split has no usable {class_name} clips: it needs both classes "
                    f"(file types: {FILE_TYPES})"
                )
    used = {clip.split for clip in clips}
    for split in ("train", "val"):
        if split not in used:
            raise UserError(f"the {split} split has no clips (file types: {FILE_TYPES})")


def groups_in_several_splits(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """Return the groups whose clips lie in more than one split, with those splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.group:
            splits[clip.group].add(clip.split)
    return {group: sorted(found) for group, found in sorted(splits.items()) if len(found) > 1}


def count_by_split(clips: Sequence[Clip]) -> dict[str, dict[str, int]]:
    """Return the number of clips by split and class name; splits without clips are left out."""
    counts = Counter((clip.split, clip.label) for clip in clips)
    used = {split for split, _ in counts}
    return {
        split: {class_name: counts[split, label] for label, class_name in enumerate(CLASS_NAMES)}
        for split in SPLITS
        if split in used
    }


def log_split_counts(clips: Sequence[Clip]) -> None:
    """Log how many clips of each class the splits have."""
    for split, by_class in count_by_split(clips).items():
        log.info("%-6s %s", split, ", ".join(f"{n} {name}" for name, n in by_class.items()))


def fingerprint(clips: Sequence[Clip]) -> str:
    """Return a hash of the clips' names, labels and splits, in their order."""
    listing = "\n".join(f"{clip.split}\t{clip.label}\t{clip.name}" for clip in clips)
    return hashlib.blake2b(listing.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def write_splits(clips: Sequence[Clip], path: Path) -> None:
    """Write `clip,label,split,group`, a row per clip, for `read_recorded_groups` as well.

    Raises:
        RunError: the disk is full, gone or read-only.
    """
    rows = [(clip.name, CLASS_NAMES[clip.label], clip.split, clip.group or "") for clip in clips]
    write_csv(path, ("clip", "label", "split", "group"), rows)


def read_recorded_groups(path: Path) -> dict[str, str]:
    """Return the groups in a file of `write_splits`, by the names of the clips that have one.

    Nothing if it cannot be read: `RunDirectory.require_same` then says so.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return {row["clip"]: row["group"] for row in csv.DictReader(file) if row["group"]}
    except (OSError, KeyError):
        return {}
