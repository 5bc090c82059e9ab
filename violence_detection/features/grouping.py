"""Groups for a dataset without groups.csv, proposed once its thumbnails are in the cache."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.grouping import (
    LOOK_VALUES,
    MOST_COMPARED,
    Proposal,
    looks_of,
    propose_groups,
)
from violence_detection.clips.loading import (
    ALONE,
    GROUPS_PROPOSED,
    UNKNOWN,
    Dataset,
    write_groups,
)
from violence_detection.clips.splits import log_split_counts
from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import THUMBNAIL
from violence_detection.features.extraction import BadClip, require_readable
from violence_detection.features.prepare import Features
from violence_detection.runtime.machine import Machine
from violence_detection.runtime.wording import count_of
from violence_detection.settings.schema import Settings

log = logging.getLogger(__name__)

SHOWN = 5  # groups on screen
ROWS_AT_ONCE = 256


def group_clips(
    dataset: Dataset,
    features: Features,
    settings: Settings,
    machine: Machine,
    groups_csv: Path | None,
) -> tuple[Dataset, Features]:
    """Propose groups if there are none, and make automatic splits by them.

    Args:
        dataset: stays as it is if its groups are given, or known from the run that is continued.
        features: of its clips, with thumbnails.
        settings: the seed of automatic splits, and how many clips may be unreadable.
        machine: the workers; the chief proposes for all.
        groups_csv: where to write what is proposed; None: not yet.

    Returns:
        Dataset and features with the clips in their groups and splits.

    Raises:
        RunError: a disk is full, gone or read-only; a worker is lost.
    """
    if dataset.groups_from == UNKNOWN:
        proposed: dict[str, str] = {}
        if machine.worker.is_chief:
            few = len(dataset.clips) <= MOST_COMPARED
            looks = _looks(dataset.clips, features) if few else None
            proposal = propose_groups(dataset.clips, looks)
            proposed = proposal.group_of
            _log_proposal(proposal, len(dataset.clips))
        proposed = machine.cluster.broadcast("the groups", proposed)
        dataset, features = _grouped(dataset, features, proposed, settings)
        if groups_csv:
            write_groups(dataset, groups_csv)
        if not dataset.has_splits:
            log_split_counts(dataset.clips)
    log.info("%s", dataset.describe_groups())
    return dataset, features


def _looks(clips: Sequence[Clip], features: Features) -> np.ndarray:
    """Return `(clips, LOOK_VALUES)` float32; zeros for clips that cannot be read."""
    view = [recipe.layer for recipe in features.recipes].index(THUMBNAIL)
    rows, looks = features.caches[view].rows(), np.zeros((len(clips), LOOK_VALUES), np.float32)
    readable = [index for index, clip in enumerate(clips) if clip in features.rows]
    for start in range(0, len(readable), ROWS_AT_ONCE):
        indices = readable[start : start + ROWS_AT_ONCE]
        looks[indices] = looks_of(rows.read([features.rows[clips[i]][view] for i in indices]))
    return looks


def _log_proposal(proposal: Proposal, clips: int) -> None:
    if proposal.not_compared:
        log.info(
            "%s not compared by picture: this is done up to %s",
            *(count_of(proposal.not_compared, "clip"), count_of(MOST_COMPARED, "clip")),
        )
    if not proposal.groups:
        return
    ways = {"by name": len(proposal.by_name), "by picture": len(proposal.by_picture)}
    largest = sorted(proposal.groups.items(), key=lambda item: -len(item[1]))[:SHOWN]
    log.info(
        "proposed %s for %d of %s (%s):\n%s; --groups none turns this off%s",
        count_of(len(proposal.groups), "group"),
        *(len(proposal.group_of), count_of(clips, "clip")),
        ", ".join(f"{way} {count}" for way, count in ways.items() if count),
        GROUPS_PROPOSED,
        "".join(
            f"\n  {group}: {count_of(len(members), 'clip')}, {members[0].name} …"
            for group, members in largest
        ),
    )


def _grouped(
    dataset: Dataset, features: Features, groups: Mapping[str, str], settings: Settings
) -> tuple[Dataset, Features]:
    """Return dataset and features with proposed groups; without, if splits cannot be made."""
    try:
        grouped = dataset.with_groups(groups, settings.devices.seed)
        clip_named = {clip.name: clip for clip in grouped.all_clips}
        bad = [BadClip(clip_named[item.clip.name], item.reason) for item in features.bad]
        require_readable(bad, grouped.clips, settings.data.max_bad_clips)
    except UserError as error:
        log.warning("the proposed groups are not used: %s", error)
        return replace(dataset, groups_from=ALONE), features
    rows = {clip_named[clip.name]: of_clip for clip, of_clip in features.rows.items()}
    windows = {clip_named[clip.name]: found for clip, found in features.windows.items()}
    return grouped, replace(features, rows=rows, bad=bad, windows=windows)
