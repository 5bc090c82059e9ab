"""The clips that a command works on: found, drawn for a demo, or fetched from an object store."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from violence_detection.clips.clip import FILE_TYPES, Clip
from violence_detection.clips.dataset import GROUPS_CSV, find_clips, find_unlabeled
from violence_detection.clips.folder_names import split_of
from violence_detection.clips.listed import listed_clips
from violence_detection.clips.locations import dataset_locations
from violence_detection.clips.splits import (
    require_both_classes,
    require_enough_to_split,
    split_clips,
)
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import SPLITS
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import write_csv

log = logging.getLogger(__name__)

MOST_VALUES = 100  # of a --subgroup column
GROUPS_PROPOSED = "groups_proposed.csv"  # in the checkpoint directory
# Where groups come from; unknown: it has not been tried to propose some, alone: there are none.
GIVEN, LISTED, PROPOSED, UNKNOWN, ALONE = (
    *(GROUPS_CSV, "the manifest", "proposed", "unknown", "alone"),
)


@dataclass(frozen=True)
class Dataset:
    """The clips of a dataset."""

    clips: list[Clip]  # labelled, of all splits
    unlabeled: list[Clip]  # of --unlabeled or --pretrain
    groups_from: str = UNKNOWN  # one of the names above
    has_splits: bool = False  # the folders or the manifest say which; else this program
    not_repeated: Sequence[str] = SPLITS  # splits whose clips may not be among the unlabeled ones

    @property
    def all_clips(self) -> list[Clip]:
        """All clips that need features, the labelled ones first."""
        return [*self.clips, *self.unlabeled]

    @property
    def groups_are_given(self) -> bool:
        """Whether the user says which clips belong together."""
        return self.groups_from in (GIVEN, LISTED)

    def with_groups(self, groups: Mapping[str, str], seed: int) -> "Dataset":
        """Return this dataset with proposed groups; without split folders, it is split by them.

        Args:
            groups: by the names of clips; those that are not in it have none.
            seed: of the automatic split.

        Raises:
            UserError: there are too few groups for three splits.
        """
        clips = [replace(clip, group=groups.get(clip.name)) for clip in self.clips]
        if not self.has_splits:
            require_enough_to_split(clips)
            clips = split_clips(clips, seed)
            require_both_classes(clips)
            clips.sort(key=lambda clip: SPLITS.index(clip.split))
        return replace(self, clips=clips, groups_from=PROPOSED if groups else ALONE)

    def describe_groups(self) -> str:
        """Return how many clips and groups there are, and where the groups come from."""
        groups = len({clip.group_key for clip in self.clips})
        grouped = sum(clip.group is not None for clip in self.clips)
        origin = {
            GIVEN: GIVEN,
            LISTED: LISTED,
            PROPOSED: f"proposed for {count_of(grouped, 'clip')}, the others on their own",
        }.get(self.groups_from, "each clip counted as its own source")
        return f"{count_of(len(self.clips), 'clip')}, {count_of(groups, 'group')} ({origin})"


def find_dataset(settings: Settings, stack: ExitStack) -> Dataset:
    """Return the clips that the settings name; those of a demo are drawn first.

    Args:
        settings: --dataset-path, --unlabeled, --subgroup, the spool, and the seed of automatic
            splits.
        stack: on its end, clips that were fetched from an object store are removed.

    Raises:
        UserError: there are no such folders, or no clips in them; --subgroup names no column that
            divides them.
        RunError: the object store does not answer.
    """
    data = settings.data
    locations = stack.enter_context(
        dataset_locations(data.dataset_path, data.spool_dir, data.spool_size)
    )
    others, not_repeated = _find_unlabeled(settings)
    folder = locations.folder
    ungrouped = UNKNOWN if data.groups == "auto" else ALONE
    if locations.manifest is not None:
        seed = settings.devices.seed
        clips, has_splits = listed_clips(
            *(locations.manifest, locations, seed, data.clip_timeout), settings.test.subgroup
        )
        _require_values(clips, settings.test.subgroup)
        groups_from = LISTED if any(clip.group for clip in clips) else ungrouped
        return Dataset(clips, others, groups_from, has_splits, not_repeated)
    if data.demo and isinstance(folder, Path):
        from violence_detection.clips.demo import draw_demo_clips  # loads OpenCV

        draw_demo_clips(folder)
    left_out: Counter[str] = Counter()
    clips = find_clips(folder, settings.devices.seed, left_out, settings.test.subgroup)
    _require_values(clips, settings.test.subgroup)
    if left_out:
        kinds = (f"{left_out[kind]} {kind or 'without a type'}" for kind in sorted(left_out))
        log.warning("files left out: %s\n(file types read: %s)", ", ".join(kinds), FILE_TYPES)
    groups_from = GIVEN if (folder / GROUPS_CSV).is_file() else ungrouped
    has_splits = any(split_of(clip.file.partition("/")[0]) for clip in clips)
    return Dataset(clips, others, groups_from, has_splits, not_repeated)


def _require_values(clips: Sequence[Clip], subgroups: Sequence[str]) -> None:
    """Raise `UserError` if the values of a --subgroup column do not divide the clips into a few."""
    for number, column in enumerate(subgroups):
        values = {clip.subgroups[number] for clip in clips} - {""}
        if not values:
            raise UserError(f"--subgroup {column}: no clip has a value in this column")
        if len(values) > MOST_VALUES:
            raise UserError(
                f"--subgroup {column}: the column has {len(values):,} different values, more than "
                f"{MOST_VALUES}: name one that divides the clips into a few, such as camera"
            )


def _find_unlabeled(settings: Settings) -> tuple[list[Clip], Sequence[str]]:
    """Return the clips without labels, and the splits that they may have no copies of.

    The clips that are trained on may be pretrained on, too: nothing is learned of their labels.
    """
    options = settings.training
    if options.unlabeled:
        return find_unlabeled(options.unlabeled), SPLITS
    if options.pretrain_folder is None:
        return [], SPLITS
    clips = find_unlabeled(options.pretrain_folder, "--pretrain")
    return clips, SPLITS if settings.experiment.requested else ("test",)


def write_groups(dataset: Dataset, path: Path) -> None:
    """Write proposed groups as groups.csv has them; of other groups, an earlier file is removed.

    Raises:
        RunError: the disk is full, gone or read-only.
    """
    if dataset.groups_from != PROPOSED:
        path.unlink(missing_ok=True)
        return
    rows = sorted((clip.group, clip.name) for clip in dataset.clips if clip.group)
    write_csv(path, ("clip", "group"), [(name, group) for group, name in rows])
