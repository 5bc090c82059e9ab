"""Whether two runs differ by more than chance, on the test clips that both have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from violence_detection.clips.clip import group_key
from violence_detection.errors import UserError
from violence_detection.evaluation.intervals import (
    CONFIDENCE,
    FEWEST_GROUPS,
    Interval,
    mean_interval,
)
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import CHANGES_ON_RESUME, FIELDS

SIGNIFICANT = 1 - CONFIDENCE  # p of McNemar's test below which a difference is more than chance


@dataclass(frozen=True)
class RunPredictions:
    """A run's predictions for its test clips.

    Args:
        name: of the run.
        clips: their names, each once.
        groups: each clip's group, or "": it is a group of its own.
        labels: `(clips,)` 0 or 1.
        predicted: `(clips,)` 0 or 1, at the run's own threshold.
    """

    name: str
    clips: Sequence[str]
    groups: Sequence[str]
    labels: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """How two runs did on the clips that both have; None where these say nothing.

    Two tests have to agree: the bootstrap over groups, since predictions for clips of one source
    are right or wrong together, and McNemar's, which is exact for few clips but treats all as
    independent.

    Args:
        first, second: the runs' names.
        clips: that both have.
        groups: of these clips.
        only_in_first, only_in_second: clips that the other run lacks.
        first_accuracy, second_accuracy: on the clips that both have.
        difference: the second's accuracy less the first's.
        interval: 95 % interval of the difference, from resamples of whole groups.
        only_first_right, only_second_right: clips that one run predicts correctly and the other
            does not.
        mcnemar_p: how often chance alone would divide these as unevenly.
        larger_than_chance: whether both tests find the difference larger than chance.
    """

    first: str
    second: str
    clips: int
    groups: int
    only_in_first: int
    only_in_second: int
    first_accuracy: float | None
    second_accuracy: float | None
    difference: float | None
    interval: Interval
    only_first_right: int
    only_second_right: int
    mcnemar_p: float | None
    larger_than_chance: bool | None

    @property
    def conclusion(self) -> str:
        """Whether the difference is larger than chance, and by which test, in words."""
        if not self.clips:
            return "unknown: the runs have no test clip in common"
        if self.interval is None or self.mcnemar_p is None:
            groups = "1 group" if self.groups == 1 else f"{self.groups} groups"
            return f"unknown: {groups} of clips, at least {FEWEST_GROUPS} are needed"
        if self.larger_than_chance:
            return "larger than chance: both tests agree"
        if _excludes_zero(self.interval):
            return (
                "the tests disagree: the interval over groups excludes 0, but by McNemar's test so "
                "few clips differ that it can be chance. Test on more clips"
            )
        if self.mcnemar_p < SIGNIFICANT:
            return (
                "the tests disagree: by McNemar's test this is no chance, but the interval over "
                "groups includes 0, so a few sources make the difference. Test on more sources"
            )
        return "not shown to be more than chance: both tests agree"


def compare(first: RunPredictions, second: RunPredictions, seed: int = 0) -> Comparison:
    """Return how much better the second run is, and whether that is more than chance.

    A clip's group is that of the first run or, where it has none, of the second. With fewer than
    `FEWEST_GROUPS` groups there is no interval, and `larger_than_chance` is None.

    Args:
        first, second: the two runs.
        seed: of the resampling.

    Raises:
        UserError: a clip's label is not the same in both.
    """
    names, in_first, in_second = np.intersect1d(
        np.array(first.clips, str), np.array(second.clips, str), return_indices=True
    )
    labels = np.asarray(first.labels)[in_first]
    _require_same_labels(names, labels, np.asarray(second.labels)[in_second], first, second)
    first_right = np.asarray(first.predicted)[in_first] == labels
    second_right = np.asarray(second.predicted)[in_second] == labels
    groups = [first.groups[i] or second.groups[j] for i, j in zip(in_first, in_second, strict=True)]
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    group_of = _group_numbers(names, groups)
    interval = mean_interval(second_right.astype(int) - first_right, group_of, seed)
    found = len(names) > 0
    p = _mcnemar_p(only_second, only_first + only_second) if found else None
    return Comparison(
        first=first.name,
        second=second.name,
        clips=len(names),
        groups=len(set(group_of)),
        only_in_first=len(first.clips) - len(names),
        only_in_second=len(second.clips) - len(names),
        first_accuracy=float(first_right.mean()) if found else None,
        second_accuracy=float(second_right.mean()) if found else None,
        difference=(only_second - only_first) / len(names) if found else None,
        interval=interval,
        only_first_right=only_first,
        only_second_right=only_second,
        mcnemar_p=p,
        larger_than_chance=(
            None if interval is None or p is None else _excludes_zero(interval) and p < SIGNIFICANT
        ),
    )


def _excludes_zero(interval: tuple[float, float]) -> bool:
    return interval[0] > 0 or interval[1] < 0


def _require_same_labels(
    names: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    first: RunPredictions,
    second: RunPredictions,
) -> None:
    differ = np.flatnonzero(labels != others)
    if differ.size:
        index = differ[0]
        raise UserError(
            f"{names[index]} is {CLASS_NAMES[labels[index]]} in {first.name} but "
            f"{CLASS_NAMES[others[index]]} in {second.name} "
            f"(clips with different labels: {len(differ)}): compare runs on the same data"
        )


def _group_numbers(names: Sequence[str] | np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Return `(clips,)` numbers from 0, the same for clips of one group."""
    keys = [group_key(name, group) for name, group in zip(names, groups, strict=True)]
    return np.unique(np.array(keys, str), return_inverse=True)[1]


def _mcnemar_p(successes: int, discordant: int) -> float:
    """Return the exact p of McNemar's test, https://doi.org/10.1007/BF02295996."""
    return float(stats.binomtest(successes, discordant).pvalue) if discordant else 1.0


def setting_differences(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return each setting that is not the same in all runs, with its value in each.

    Settings that do not affect the result are left out. The threshold's goal may change on resume,
    but is listed: it affects the predictions.

    Args:
        settings: of each run, by name, as in `training_config.json`.

    Returns:
        A list of values by name, in the order of `Settings`; settings of earlier versions come
        last. None also stands where a run has no such setting.
    """
    names = dict.fromkeys([*FIELDS, *(name for run in settings for name in run)])
    left_out = {*CHANGES_ON_RESUME} - {"threshold_for"}
    values = {name: [run.get(name) for run in settings] for name in names if name not in left_out}
    return {
        name: of_runs
        for name, of_runs in values.items()
        if any(value != of_runs[0] for value in of_runs)
    }
