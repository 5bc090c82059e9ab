"""Dataset folders of links to clips: a choice of them, or those of several data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import GROUPS_CSV, find_clips
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import write_csv


@dataclass(frozen=True)
class Linked:
    """A clip of one of several data sets, under a name that none of the others has."""

    dataset: str
    clip: Clip

    @property
    def path(self) -> str:
        """The path of the link below a split or a dataset folder."""
        name = self.clip.name.replace("/", "__")
        return f"{CLASS_NAMES[self.clip.label]}/{self.dataset}__{name}"

    @property
    def group(self) -> str:
        """The clip's source, told apart from those of other data sets."""
        return f"{self.dataset} {self.clip.group_key}"


def clips_of(dataset: Path) -> list[Linked]:
    """Return all clips of a data set; which split they are in does not matter."""
    return [Linked(dataset.name, clip) for clip in find_clips(dataset, seed=0)]


def link(clips: Mapping[str, Linked], folder: Path, with_groups: bool = True) -> Path:
    """Make a dataset folder of links to clips, by path in it; return it.

    Args:
        clips: by path.
        folder: other links in it are removed; one to a folder would lead into a data set.
        with_groups: write their groups.
    """
    for old in list(folder.rglob("*")):
        if old.is_symlink() and old.relative_to(folder).as_posix() not in clips:
            old.unlink()
    for path, linked in clips.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(Path(linked.clip.path).resolve())
    if with_groups:
        groups = [(path, linked.group) for path, linked in clips.items()]
        write_csv(folder / GROUPS_CSV, ("clip", "group"), groups)
    return folder


def thinned(clips: Sequence[Linked], violent_share: float, seed: int = 0) -> list[Linked]:
    """Return clips without some nonviolent ones, so that `violent_share` of them are violent.

    Each source loses about the same share of its nonviolent clips, and keeps one of them: where
    nearly all are of a few sources, leaving out sources would leave nothing to divide into folds.
    """
    violent = [linked for linked in clips if linked.clip.label == 1]
    by_group: dict[str, list[Linked]] = {}
    for linked in clips:
        if linked.clip.label == 0:
            by_group.setdefault(linked.group, []).append(linked)
    kept = max(1, round(len(violent) * (1 - violent_share) / violent_share))
    random = np.random.default_rng(seed)
    ranked = [
        (rank / len(group), group[index])
        for group in by_group.values()
        for rank, index in enumerate(random.permutation(len(group)))
    ]
    ranked.sort(key=lambda pair: pair[0])
    return violent + [linked for _, linked in ranked[:kept]]


def make_imbalanced(
    clips: Sequence[Clip], train: np.ndarray, seed: int, violent_share: float
) -> np.ndarray:
    """Return the indices `train` with so few nonviolent clips that `violent_share` are violent.

    Nonviolent clips are removed by groups, in an order drawn with `seed`; one group may be split.
    """
    violent = train[[clips[index].label == 1 for index in train]]
    nonviolent = train[[clips[index].label == 0 for index in train]]
    kept = max(1, round(len(violent) * (1 - violent_share) / violent_share))
    groups = np.array([clips[index].group_key for index in nonviolent])
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    by_group = np.concatenate([nonviolent[groups == group] for group in order])
    return np.sort(np.concatenate([violent, by_group[:kept]]))
