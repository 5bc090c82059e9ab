"""The clips to train and test on, once those of no use are sorted out."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.clips.loading import Dataset
from violence_detection.clips.splits import (
    count_by_split,
    groups_in_several_splits,
    require_both_classes,
)
from violence_detection.errors import UserError
from violence_detection.features.checks import (
    contradicting_labels,
    require_varied_features,
    static_clips,
    uncertain_validation,
)
from violence_detection.features.leakage import Leak, find_leaks, write_leaks
from violence_detection.features.prepare import Features
from violence_detection.features.survey import Survey
from violence_detection.settings.constants import UNLABELED
from violence_detection.settings.data import DataSettings

log = logging.getLogger(__name__)

SHOWN = 5  # of what may be thousands of clips or pairs: the results and the log list all


@dataclass(frozen=True)
class CheckedClips:
    """The clips that are used, and what was found wrong with those of the dataset."""

    usable: list[Clip]  # labelled
    unlabeled: list[Clip]  # that repeat no labelled clip
    counts: Mapping[str, Mapping[str, int]]  # clips by split and class, as they were found
    bad: Mapping[Clip, str]  # clips that cannot be read, and why
    on_bad_clip: str  # what was done with them: the value of --on-bad-clip
    leaks: Sequence[Leak]  # clips that are repeated in a later split
    left_out: Collection[Clip]  # of those, the clips that are not used
    groups_on_two_sides: Mapping[str, Sequence[str]]  # groups, and the splits of their clips
    under_both_labels: Sequence[Sequence[Clip]]  # copies of one file with both labels
    static: Sequence[Clip]  # in which nothing moves

    def of_split(self, split: str) -> list[Clip]:
        """Return the usable clips of a split."""
        return [clip for clip in self.usable if clip.split == split]


def check_clips(
    dataset: Dataset, features: Features, data: DataSettings, leakage_csv: Path | None
) -> CheckedClips:
    """Return the clips to train and test on; warn of what is wrong with the others.

    Args:
        dataset: the clips as they were found.
        features: of the clips that can be read.
        data: what happens to bad and to repeated clips.
        leakage_csv: where repeated clips are listed if they stop the run; None: nowhere.

    Raises:
        UserError: all features are the same; a split lacks a class; with --on-leakage fail, a
            clip is repeated in another split.
    """
    bad = {item.clip: item.reason for item in features.bad}
    if bad:
        done = {"skip": "left out", "zeros": "kept as zeros"}[data.on_bad_clip]
        log.warning("%d bad clips are %s (--on-bad-clip)", len(bad), done)
    require_varied_features(features.surveys[0])
    survey = features.surveys[features.appearance]
    rows = {clip: clip_rows[features.appearance] for clip, clip_rows in features.rows.items()}
    labelled = {clip: row for clip, row in rows.items() if clip.split != UNLABELED}
    under_both_labels = contradicting_labels(labelled)
    static = static_clips(rows, survey)
    _warn_of_labels(under_both_labels)
    _warn_of_static(static)
    leaks = find_leaks(rows, survey)
    repeated = _repeating(dataset.unlabeled, rows, survey)
    _handle_leaks(leaks, data.on_leakage, leakage_csv)
    left_out = {leak.clip for leak in leaks} if data.on_leakage == "drop" else set()
    readable = {*features.rows, *(bad if data.on_bad_clip == "zeros" else ())}
    usable = [clip for clip in dataset.clips if clip in readable and clip not in left_out]
    require_both_classes(usable)
    if warning := uncertain_validation([clip for clip in usable if clip.split == "val"]):
        log.warning(warning)
    return CheckedClips(
        usable,
        [clip for clip in dataset.unlabeled if clip in rows and clip not in repeated],
        count_by_split(dataset.clips),
        *(bad, data.on_bad_clip, leaks, left_out),
        groups_in_several_splits(dataset.clips),
        *(under_both_labels, static),
    )


def _warn_of_labels(under_both_labels: Sequence[Sequence[Clip]]) -> None:
    for copies in under_both_labels[:SHOWN]:
        names = " and ".join(clip.name for clip in copies)
        log.warning("one file has both labels: %s; remove the wrong one", names)
    if len(under_both_labels) > SHOWN:
        log.warning("%d files have both labels", len(under_both_labels))


def _warn_of_static(static: Sequence[Clip]) -> None:
    if static:
        names = ", ".join(clip.name for clip in static[:SHOWN])
        more = ", …" if len(static) > SHOWN else ""
        log.warning("%d clips show no motion (stills, test cards?): %s%s", len(static), names, more)


def _repeating(
    unlabeled: Sequence[Clip], rows: Mapping[Clip, int], survey: Survey
) -> Collection[Clip]:
    """Return the unlabeled clips that repeat labelled ones, which must not be learned from."""
    if not unlabeled:
        return ()
    as_training = {
        dataclasses.replace(clip, split="train") if clip.split == UNLABELED else clip: row
        for clip, row in rows.items()
    }
    names = {leak.clip.name for leak in find_leaks(as_training, survey)}
    labelled = {row for clip, row in rows.items() if clip.split != UNLABELED}
    repeated = {clip for clip in unlabeled if clip.name in names or rows.get(clip) in labelled}
    log.info(
        "%d unlabeled clips; %d repeat labelled ones and are left out",
        len(unlabeled),
        len(repeated),
    )
    return repeated


def _handle_leaks(leaks: Sequence[Leak], on_leakage: str, leakage_csv: Path | None) -> None:
    if not leaks:
        return
    log.warning(
        "%d clips repeat clips of a later split, whose figures look better for it "
        "(--on-leakage %s):%s",
        len({leak.clip for leak in leaks}),
        on_leakage,
        "".join(f"\n  {leak}" for leak in leaks[:SHOWN]),
    )
    for leak in leaks[SHOWN:]:
        log.debug("leakage: %s", leak)
    if on_leakage == "fail":
        if leakage_csv:
            write_leaks(leaks, leakage_csv)
        raise UserError(
            f"--on-leakage fail: {len(leaks)} pairs of clips, the first is {leaks[0]} "
            "(training.log lists all). drop leaves out the earlier split's clips, warn keeps them"
        )
