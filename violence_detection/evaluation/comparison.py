"""Whether two runs differ by more than chance, on the test clips that both have."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from violence_detection.errors import UserError
from violence_detection.evaluation.metrics import CONFIDENCE, RESAMPLES, Interval
from violence_detection.settings.schema import CLASS_NAMES, FREE_TO_CHANGE, Settings

# Five groups that differ at random all lean one way once in 16 times, more often than 5 %.
FEWEST_GROUPS = 6


@dataclass(frozen=True)
class Tested:
    """What a run said of its test clips.

    Args:
        name: of the run.
        clips: their names, each once.
        groups: each clip's group, or "": it is a group of its own.
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence.
        verdicts: `(clips,)` 0 or 1, at the run's own threshold.
    """

    name: str
    clips: Sequence[str]
    groups: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    verdicts: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """How two runs did on the clips that both have. What these do not tell is None.

    The bootstrap over groups decides: clips of one source are right or wrong together. McNemar's
    test, which takes each clip for a source of its own, is shown beside it.

    Args:
        first, second: the runs' names.
        clips: that both have.
        groups: in which these are.
        only_in_first, only_in_second: clips that the other run lacks.
        first_accuracy, second_accuracy: on the clips that both have.
        difference: of the second's accuracy to the first's.
        interval: 95 % interval of the difference, from resamples of whole groups.
        only_first_right, only_second_right: clips on which one run is right and one wrong.
        mcnemar_p: how often chance alone would share these out as unevenly.
        larger_than_chance: whether the interval leaves out 0.
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
    def verdict(self) -> str:
        """What `larger_than_chance` is, and by which test, in words."""
        if not self.clips:
            return "not known: no test clip is in both"
        if self.larger_than_chance is None:
            return f"not known: the clips are of {self.groups} groups, below {FEWEST_GROUPS}"
        answer, holds = (
            ("larger than chance", "leaves out 0")
            if self.larger_than_chance
            else ("may be chance", "holds 0")
        )
        return f"{answer}: the {CONFIDENCE:.0%} interval over groups {holds}"


def compare(first: Tested, second: Tested, seed: int = 0) -> Comparison:
    """Return how much better the second run is, and whether that is more than chance.

    A clip's group is that of the first run or, where it has none, of the second. With fewer than
    `FEWEST_GROUPS` groups there is no interval, and it is not known.

    Raises:
        UserError: a clip's label is not the same in both.
    """
    names, in_first, in_second = np.intersect1d(
        np.array(first.clips, str), np.array(second.clips, str), return_indices=True
    )
    labels = np.asarray(first.labels)[in_first]
    others = np.asarray(second.labels)[in_second]
    if (differ := np.flatnonzero(labels != others)).size:
        place = differ[0]
        raise UserError(
            f"{names[place]} is {CLASS_NAMES[labels[place]]} in {first.name} and "
            f"{CLASS_NAMES[others[place]]} in {second.name}, one of {len(differ)} clips with "
            "two labels: compare runs on the same data"
        )
    first_right = np.asarray(first.verdicts)[in_first] == labels
    second_right = np.asarray(second.verdicts)[in_second] == labels
    groups = [first.groups[i] or second.groups[j] for i, j in zip(in_first, in_second, strict=True)]
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    group_of = _group_numbers(names, groups)
    interval = _interval(second_right.astype(int) - first_right, group_of, seed)
    discordant, found = only_first + only_second, len(names) > 0
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
        mcnemar_p=_mcnemar_p(only_second, discordant) if found else None,
        larger_than_chance=interval[0] > 0 or interval[1] < 0 if interval else None,
    )


def _group_numbers(names: Sequence[str] | np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Return `(clips,)` numbers from 0, the same for clips of one group."""
    keys = [
        f"group {group}" if group else f"clip {name}"
        for name, group in zip(names, groups, strict=True)
    ]
    return np.unique(np.array(keys, str), return_inverse=True)[1]


def _mcnemar_p(successes: int, discordant: int) -> float:
    """Return the exact p of McNemar's test, https://doi.org/10.1007/BF02295996."""
    return float(stats.binomtest(successes, discordant).pvalue) if discordant else 1.0


def _interval(gains: np.ndarray, group_of: np.ndarray, seed: int) -> Interval:
    """Return the interval of the mean gain, from resamples of whole groups.

    Percentiles as in `evaluation.bootstrap_intervals`, but further out, by Student's t: with few
    groups they would call one difference in ten real that is not (Hesterberg, What Teachers Should
    Know About the Bootstrap, 2015, https://doi.org/10.1080/00031305.2015.1089789).

    Args:
        gains: `(clips,)`: 1 where only the second run is right, -1 where only the first is.
        group_of: `(clips,)`: each clip's group, from 0.
        seed: of the resamples.
    """
    sizes = np.bincount(group_of)
    count = len(sizes)
    if count < FEWEST_GROUPS:
        return None
    sign = -1 if gains.sum() < 0 else 1  # that the runs' order decides nothing
    gained = np.bincount(group_of, sign * gains).astype(int)
    # Groups alike in both are drawn together: as good, and 100,000 groups are a few kinds.
    kinds, alike = np.unique(np.stack([gained, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(count, alike / count, RESAMPLES)
    means = sign * (drawn @ kinds[0]) / (drawn @ kinds[1])
    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, count - 1) * np.sqrt(count / (count - 1))
    tail = stats.norm.cdf(quantile)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def setting_differences(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return each setting that is not the same in all runs, with its value in each.

    Settings that decide nothing of the result are left out. The threshold's goal is not one of
    them: it decides the verdicts. The order is that of `Settings`; what only an earlier version
    had comes last. None also stands where a run has no such setting.
    """
    known = [item.name for item in dataclasses.fields(Settings)]
    names = dict.fromkeys([*known, *(name for run in settings for name in run)])
    left_out = {*FREE_TO_CHANGE} - {"threshold_for"}
    values = {name: [run.get(name) for run in settings] for name in names if name not in left_out}
    return {
        name: of_runs
        for name, of_runs in values.items()
        if any(value != of_runs[0] for value in of_runs)
    }
