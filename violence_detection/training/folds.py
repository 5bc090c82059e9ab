"""Division of clips into folds: stratified by class, with clips of one source on one side."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.training.batches import ClipFeatures

Fold = tuple[np.ndarray, np.ndarray]  # int64 indices: clips to train on, clips held out


def folds(
    labels: np.ndarray, sources: np.ndarray, count: int, seed: int, asked_by: str
) -> list[Fold]:
    """Return the clips to train on and the clips held out, for each fold.

    Args:
        labels: `(clips,)` 0 or 1.
        sources: `(clips,)`: clips of one source are in the same fold, see `sources_of`.
        count: number of folds.
        seed: of the shuffling.
        asked_by: the flag that asks for the folds, for messages: "--cross-validate 5".

    Raises:
        UserError: there are too few sources of a class for that many folds.
    """
    for label, name in enumerate(CLASS_NAMES):
        found = len(np.unique(sources[labels == label]))
        if found < count:
            raise UserError(
                f"{asked_by}: only {count_of(found, 'group')} with {name} clips: "
                f"use at most {count_of(found, 'fold')}"
            )
    if divided := possible_folds(labels, sources, count, seed):
        return divided
    raise UserError(
        f"{asked_by}: the groups cannot be split so that every fold has both classes: use "
        "fewer folds or another --seed"
    )


def possible_folds(labels: np.ndarray, sources: np.ndarray, count: int, seed: int) -> list[Fold]:
    """Return what `folds` does; nothing if not every fold would have clips of both classes."""
    if any(len(np.unique(sources[labels == label])) < count for label in (0, 1)):
        return []
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    divided = list(splitter.split(labels, labels, sources))
    sides = [labels[side] for fold in divided for side in fold]
    return divided if all(len(set(side)) == len(CLASS_NAMES) for side in sides) else []


def sources_of(clips: ClipFeatures) -> np.ndarray:
    """Return `(clips,)` int64 numbers, equal where clips share a group or a row of features.

    Directly or through others: a file that was copied into two groups joins them.
    """
    rows = clips.rows[:, 0]
    rows = np.where(rows < 0, rows.max() + 1 + np.arange(len(rows)), rows)  # zeros: no copies
    groups = np.unique(clips.groups, return_inverse=True)[1]
    nodes = np.unique(rows, return_inverse=True)[1] + groups.max() + 1
    links = coo_array((np.ones(len(groups)), (groups, nodes)), shape=(nodes.max() + 1,) * 2)
    return connected_components(links, directed=False)[1][groups]
