"""The clips to train and test on: bad, repeated and doubtful clips are reported or left out."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.clips.loading import PROPOSED, Dataset
from violence_detection.clips.splits import (
    count_by_split,
    groups_in_several_splits,
    require_both_classes,
)
from violence_detection.errors import UserError
from violence_detection.features.checks import (
    contradicting_labels,
    long_clips,
    partly_read_clips,
    require_varied_features,
    static_clips,
    usual_length,
)
from violence_detection.features.leakage import SAME_GROUP, Leak, find_leaks, write_leaks
from violence_detection.features.prepare import Features
from violence_detection.features.survey import Survey
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import SPLITS, UNLABELED
from violence_detection.settings.data import DataSettings

log = logging.getLogger(__name__)

SHOWN = 5  # clips or pairs on screen; the results and the log list all


@dataclass(frozen=True)
class CheckedClips:
    """The usable clips, and the problems found in the dataset."""

    usable: list[Clip]  # labelled
    unlabeled: list[Clip]  # without copies of labelled clips
    counts: Mapping[str, Mapping[str, int]]  # clips by split and class, as found
    bad: Mapping[Clip, str]  # clips that cannot be read, with the reasons
    on_bad_clip: str  # the value of --on-bad-clip
    leaks: Sequence[Leak]  # clips repeated in a later split
    left_out: Collection[Clip]  # repeated clips that are not used
    groups_on_two_sides: Mapping[str, Sequence[str]]  # splits by group
    under_both_labels: Sequence[Sequence[Clip]]  # copies of a file with different labels
    static: Sequence[Clip]  # without motion
    partly_read: Mapping[Clip, float] = field(default_factory=dict)  # the shares that were read
    long: Mapping[Clip, float] = field(default_factory=dict)  # seconds, far more than clip_seconds
    clip_seconds: float | None = None  # the median length of a training clip; None: unknown
    groups: str = ""  # how many clips and groups there are, in words

    def of_split(self, split: str) -> list[Clip]:
        """Return the usable clips of a split."""
        return [clip for clip in self.usable if clip.split == split]


def check_clips(
    dataset: Dataset, features: Features, data: DataSettings, leakage_csv: Path | None
) -> CheckedClips:
    """Return the clips to train and test on; log warnings about the others.

    Args:
        dataset: the clips as found.
        features: of the clips that can be read.
        data: how to handle bad and repeated clips.
        leakage_csv: file that lists repeated clips if they stop the run; None: no file.

    Raises:
        UserError: all features are the same; a split lacks a class; no clip without labels is left;
            with --on-leakage fail, a clip is repeated in another split.
    """
    bad = {item.clip: item.reason for item in features.bad}
    if bad:
        handling = {"skip": "left out", "zeros": "replaced with zeros"}[data.on_bad_clip]
        log.warning("%s %s (--on-bad-clip)", count_of(len(bad), "bad clip"), handling)
    require_varied_features(features.surveys[0])
    survey = features.surveys[features.appearance]
    rows = {clip: clip_rows[features.appearance] for clip, clip_rows in features.rows.items()}
    labelled = {clip: row for clip, row in rows.items() if clip.split != UNLABELED}
    under_both_labels = contradicting_labels(labelled)
    static = static_clips(rows, survey)
    partly_read = partly_read_clips(rows, survey)
    training_rows = [row for clip, row in rows.items() if clip.split == "train"]
    clip_seconds = usual_length(training_rows, survey)
    long = long_clips(rows, survey, clip_seconds)
    _warn_of_labels(under_both_labels)
    _warn_of_static(static)
    _warn_of_partly_read(partly_read)
    _warn_of_long(long, clip_seconds, features.recipes[0].frames)
    leaks = find_leaks(rows, survey)
    two_sides = groups_in_several_splits(dataset.clips)
    if dataset.groups_from == PROPOSED:
        # A guess: the clips are named, but it neither stops a run nor leaves a clip out.
        leaks = [leak for leak in leaks if leak.reason != SAME_GROUP]
        _warn_of_groups(two_sides, dataset.clips)
    repeated = _repeating(dataset, rows, survey)
    _handle_leaks(leaks, data.on_leakage, leakage_csv)
    left_out = {leak.clip for leak in leaks} if data.on_leakage == "drop" else set()
    readable = {*features.rows, *(bad if data.on_bad_clip == "zeros" else ())}
    usable = [clip for clip in dataset.clips if clip in readable and clip not in left_out]
    require_both_classes(usable)
    return CheckedClips(
        usable,
        [clip for clip in dataset.unlabeled if clip in rows and clip not in repeated],
        count_by_split(dataset.clips),
        *(bad, data.on_bad_clip, leaks, left_out),
        two_sides,
        *(under_both_labels, static),
        partly_read=partly_read,
        long=long,
        clip_seconds=clip_seconds,
        groups=dataset.describe_groups(),
    )


def _warn_of_labels(under_both_labels: Sequence[Sequence[Clip]]) -> None:
    for copies in under_both_labels[:SHOWN]:
        names = " and ".join(clip.name for clip in copies)
        log.warning("copies with different labels: %s; remove the wrong one", names)
    if len(under_both_labels) > SHOWN:
        log.warning("%d files have copies with different labels", len(under_both_labels))


def _warn_of_groups(two_sides: Mapping[str, Sequence[str]], clips: Sequence[Clip]) -> None:
    if two_sides:
        first = {(clip.group, clip.split): clip.name for clip in reversed(clips)}
        listed = (
            f"\n  {group}: {', '.join(first[group, split] for split in splits)}"
            for group, splits in list(two_sides.items())[:SHOWN]
        )
        log.warning(
            "several splits share %s:%s%s",
            count_of(len(two_sides), "proposed group"),
            "".join(listed),
            "\n  …" if len(two_sides) > SHOWN else "",
        )


def _warn_of_static(static: Sequence[Clip]) -> None:
    if static:
        names = ", ".join(clip.name for clip in static[:SHOWN])
        more = ", …" if len(static) > SHOWN else ""
        log.warning(
            "%s without motion (still images, test cards?): %s%s",
            count_of(len(static), "clip"),
            names,
            more,
        )


def _warn_of_partly_read(clips: Mapping[Clip, float]) -> None:
    if clips:
        worst = sorted(clips.items(), key=lambda item: item[1])
        names = ", ".join(f"{clip.name} ({share:.0%})" for clip, share in worst[:SHOWN])
        log.warning(
            "%s that could only be read in part: %s%s",
            count_of(len(clips), "clip"),
            names,
            ", …" if len(clips) > SHOWN else "",
        )


def _warn_of_long(clips: Mapping[Clip, float], usual: float | None, frames: int) -> None:
    if clips:
        longest = sorted(clips.items(), key=lambda item: -item[1])
        listed = (
            f"\n  {clip.name}: {seconds:.0f} s, a frame every {seconds / frames:.1f} s"
            for clip, seconds in longest[:SHOWN]
        )
        log.warning(
            "%s far longer than most (%.1f s): %d frames say little, cut them%s%s",
            count_of(len(clips), "clip"),
            usual,
            frames,
            "".join(listed),
            "\n  …" if len(clips) > SHOWN else "",
        )


def _repeating(dataset: Dataset, rows: Mapping[Clip, int], survey: Survey) -> Collection[Clip]:
    """Return the unlabeled clips that are copies of labelled ones, not to be trained on."""
    unlabeled, splits = dataset.unlabeled, dataset.not_repeated
    if not unlabeled:
        return ()
    if not any(clip.split == "test" for clip in dataset.clips):
        splits = SPLITS  # the validation clips, of folds all clips, are the test
    as_training = {
        dataclasses.replace(clip, split="train") if clip.split == UNLABELED else clip: row
        for clip, row in rows.items()
        if clip.split == UNLABELED or clip.split in splits
    }
    names = {leak.clip.name for leak in find_leaks(as_training, survey)}
    labelled = {row for clip, row in rows.items() if clip.split in splits}
    repeated = {clip for clip in unlabeled if clip.name in names or rows.get(clip) in labelled}
    log.info(
        "%s; left out as copies of %s clips: %d",
        count_of(len(unlabeled), "unlabeled clip"),
        "labelled" if splits == SPLITS else " and ".join(splits),
        len(repeated),
    )
    if not any(clip in rows and clip not in repeated for clip in unlabeled):
        raise UserError("no clip without labels is left to learn from: add others")
    return repeated


def _handle_leaks(leaks: Sequence[Leak], on_leakage: str, leakage_csv: Path | None) -> None:
    if not leaks:
        return
    log.warning(
        "leakage: %s repeated in a later split, which inflates its metrics (--on-leakage %s):%s",
        count_of(len({leak.clip for leak in leaks}), "clip"),
        on_leakage,
        "".join(f"\n  {leak}" for leak in leaks[:SHOWN]),
    )
    for leak in leaks[SHOWN:]:
        log.debug("leakage: %s", leak)
    if on_leakage == "fail":
        if leakage_csv:
            write_leaks(leaks, leakage_csv)
        raise UserError(
            f"--on-leakage fail: {count_of(len(leaks), 'pair')} of clips, the first is {leaks[0]} "
            "(leakage.csv and training.log list all). drop leaves out the earlier split's clips, "
            "warn keeps them"
        )
