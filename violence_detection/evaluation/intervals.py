"""How far figures can be trusted: 95 % intervals from a bootstrap over groups of clips.

Clips of one source resemble each other: a test of 40 clips from 7 sources is worth less than one
of 40 sources. Whole groups are therefore resampled, not single clips.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from scipy import stats

RESAMPLES = 1000
CONFIDENCE = 0.95
WEIGHTS_AT_ONCE = 200_000  # resamples times clips: bounds the memory

# Five groups that differ at random all lean one way once in 16 times, more often than 5 %.
FEWEST_GROUPS = 6

Interval = tuple[float, float] | None  # None: there are no data for one


def bootstrap_intervals(
    figures_of: Callable[[np.ndarray], dict[str, np.ndarray]],
    groups: Sequence[str] | Sequence[int],
    seed: int,
    mirrored: Collection[str] = (),
) -> dict[str, Interval]:
    """Return each figure's 95 % interval, from resamples of whole groups.

    Percentiles: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        figures_of: takes `(resamples, clips)` float64 weights, how often each clip counts, and
            returns `(resamples,)` for each figure, nan where it is undefined.
        groups: `(clips,)`, the group of each clip.
        seed: of the resampling.
        mirrored: names of figures that resampling makes larger, such as the calibration error.
            Their percentiles are mirrored at the figure itself, at 0 or above.

    Returns:
        An interval for each figure; None if there is a single group or the figure is undefined.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(seed)
    at_once = max(1, WEIGHTS_AT_ONCE // len(group_of))
    parts = []
    for first in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - first)
        drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
        parts.append(figures_of(drawn[:, group_of].astype(float)))
    once = figures_of(np.ones((1, len(group_of))))
    intervals: dict[str, Interval] = {}
    for name in once:
        values = np.concatenate([part[name] for part in parts])
        if name in mirrored:
            values = np.maximum(0, 2 * once[name][0] - values)
        intervals[name] = _percentiles(values[~np.isnan(values)]) if len(names) > 1 else None
    return intervals


def _percentiles(values: np.ndarray) -> Interval:
    if not len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(values: np.ndarray, groups: np.ndarray, seed: int) -> Interval:
    """Return the 95 % interval of a mean, from resamples of whole groups.

    Percentiles as in `bootstrap_intervals`, widened by Student's t: with few groups, plain ones
    would call one difference in ten significant that is not (Hesterberg, What Teachers Should Know
    About the Bootstrap, 2015, https://doi.org/10.1080/00031305.2015.1089789).

    Args:
        values: `(clips,)` whole numbers; in a comparison of two models, the difference of their
            correct predictions.
        groups: `(clips,)` int64, the number of each clip's group, from 0.
        seed: of the resampling.

    Returns:
        The interval; None with fewer than `FEWEST_GROUPS` groups.
    """
    sizes = np.bincount(groups)
    count = len(sizes)
    if count < FEWEST_GROUPS:
        return None
    sign = -1 if values.sum() < 0 else 1  # so that the order of the models decides nothing
    sums = np.bincount(groups, sign * values).astype(int)
    # Groups with equal sums and sizes are drawn together: 100,000 groups are a few kinds.
    kinds, alike = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(count, alike / count, RESAMPLES)
    means = sign * (drawn @ kinds[0]) / (drawn @ kinds[1])
    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, count - 1) * np.sqrt(count / (count - 1))
    tail = stats.norm.cdf(quantile)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
