"""What the figures of a run amount to: better than chance or not, on what evidence, what next.

Three sentences at most, and the clips whose labels are probably wrong.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from violence_detection.clips.clip import group_key
from violence_detection.evaluation.doubtful_labels import (
    DoubtfulLabel,
    Predictions,
    doubtful_labels,
)
from violence_detection.evaluation.intervals import CONFIDENCE, Interval
from violence_detection.evaluation.metrics import FEWEST_FOR_SHARES, share_words
from violence_detection.runtime.wording import COLUMNS, count_of
from violence_detection.settings.constants import CLASS_NAMES

CHANCE = 0.5  # the ROC-AUC of a ranking without information
SPLITS = {"test": "test", "val": "validation"}  # that can be tested on

PROMISING = 0.7  # an interval that reaches from chance to here says neither yes nor no
WIDE = 0.1  # half of an interval; a wider one calls for more sources

GAP = 0.15  # of accuracy between training and validation
MEMORIZED = 0.9  # training accuracy from which the clips are known by heart

WEAK, STRONG_BY = 0.65, 0.2  # accuracy of a class that fails, and how much better the other is
FEWEST_OF_CLASS = 5  # clips, to say that their class fails

TRUSTED, TRUSTED_LOW = 0.9, 0.7  # ROC-AUC, and its interval's lower end, to doubt labels by
NAMED = 5  # doubtful labels that are named


@dataclass(frozen=True)
class EpochAccuracy:
    """Accuracies after an epoch (from 1), and of how many clips."""

    epoch: int
    training: float
    validation: float
    training_clips: int
    validation_clips: int

    @property
    def shows_overfitting(self) -> bool:
        """Whether validation is far below training, by more than two standard errors of it."""
        error = math.sqrt(self.validation * (1 - self.validation) / self.validation_clips)
        gap = self.training - self.validation
        return self.training >= MEMORIZED and gap >= max(GAP, 2 * error)


@dataclass(frozen=True)
class Void:
    """Why the figures say nothing, and what to do, in words."""

    reason: str
    advice: str


class Chance(Enum):
    """How a ranking compares with chance."""

    BETTER = auto()  # the interval is above 0.5
    WORSE = auto()  # the interval is below 0.5
    UNCERTAIN = auto()  # the interval includes 0.5
    TOO_FEW = auto()  # so few groups that chance can do as well as any detector
    ONE_GROUP = auto()  # no interval
    ONE_CLASS = auto()  # no figure
    NOT_A_NUMBER = auto()


@dataclass(frozen=True)
class Verdict:
    """The findings about a run.

    Args:
        split: "test" or "val".
        groups: the number of groups tested on.
        grouped: whether two clips or more share a group.
        ungrouped: whether the groups of all clips are unknown.
        confusion: `confusion_matrix` of the figures: true classes in rows, nonviolent first.
        roc_auc: None without clips of both classes.
        interval: 95 % interval of the ROC-AUC over groups.
        chance: how the ranking compares with chance.
        overfitting: the best epoch if it shows overfitting, else None.
        weak_class: 0 or 1, the class that fails; None: neither does.
        rate_is_chosen: whether the threshold was chosen for a certain rate of errors.
        doubtful: labels that are probably wrong, the most contradicted first.
        void: why the figures say nothing; None: they do.
    """

    split: str
    groups: int
    grouped: bool
    ungrouped: bool
    confusion: Sequence[Sequence[int]]
    roc_auc: float | None
    interval: Interval
    chance: Chance
    overfitting: EpochAccuracy | None = None
    weak_class: int | None = None
    rate_is_chosen: bool = False
    doubtful: Sequence[DoubtfulLabel] = ()
    void: Void | None = None

    @property
    def sentences(self) -> list[str]:
        """The verdict as at most three sentences, and one with the doubtful labels if any."""
        if self.void:
            return [f"No verdict: {self.void.reason}.", f"Next: {self.void.advice}."]
        if self.chance is Chance.NOT_A_NUMBER:
            return [
                "No verdict: some predicted probabilities are not numbers.",
                "Next: lower the --learning-rate and train again.",
            ]
        doubtful = [_doubtful_sentence(self.doubtful)] if self.doubtful else []
        return [_chance_sentence(self), _evidence_sentence(self), _next_sentence(self), *doubtful]


def find_verdict(
    tested: Predictions,
    figures: Mapping[str, Any],
    *,
    others: Sequence[Predictions] = (),
    best_epoch: EpochAccuracy | None = None,
    chosen_for: str = "accuracy",
    void: Void | None = None,
) -> Verdict:
    """Return the findings about a run.

    Args:
        tested: the predictions that `figures` are of.
        figures: as `metrics.evaluate` returns them, at the detector's threshold.
        others: predictions of other clips that were not trained on; only their labels are checked.
        best_epoch: whose weights the detector has; None: unknown.
        chosen_for: what the threshold was chosen for, the value of --threshold-for.
        void: why the figures say nothing, such as random weights of VGG19.
    """
    roc_auc, interval = figures["roc_auc"], figures["intervals"]["roc_auc"]
    chance = _compare_with_chance(tested, roc_auc, interval)
    trusted = chance is Chance.BETTER and roc_auc >= TRUSTED and interval[0] >= TRUSTED_LOW
    names = zip(tested.clips, tested.groups, strict=True)
    return Verdict(
        split=tested.split,
        groups=figures["groups"],
        grouped=figures["groups"] < figures["clips"],
        ungrouped=all(group == group_key(clip, None) for clip, group in names),
        confusion=figures["confusion_matrix"],
        roc_auc=roc_auc,
        interval=interval,
        chance=chance,
        overfitting=best_epoch if best_epoch and best_epoch.shows_overfitting else None,
        weak_class=_weak_class(figures["confusion_matrix"]),
        rate_is_chosen="=" in chosen_for,
        doubtful=doubtful_labels([tested, *others]) if trusted else (),
        void=void,
    )


def _compare_with_chance(tested: Predictions, roc_auc: float | None, interval: Interval) -> Chance:
    if not np.isfinite(tested.probabilities).all():
        return Chance.NOT_A_NUMBER
    if roc_auc is None:
        return Chance.ONE_CLASS
    if len(set(tested.groups)) == 1:
        return Chance.ONE_GROUP
    if interval is None or perfect_by_chance(tested.labels, tested.groups) > (1 - CONFIDENCE) / 2:
        return Chance.TOO_FEW
    if interval[0] <= CHANCE <= interval[1]:
        return Chance.UNCERTAIN
    return Chance.BETTER if interval[0] > CHANCE else Chance.WORSE


def perfect_by_chance(labels: np.ndarray, groups: Sequence[str]) -> float:
    """Return how often chance alone ranks all clips correctly, if each group's rank together.

    A bootstrap cannot see this: resamples of three clips in the right order are in it, too. Groups
    of one class are ordered in one of C(n + m, n) ways; a group of both classes leans the right way
    once in two. With this bound, rankings without information were called better than chance in 0
    to 7 % of simulated tests of 4 to 60 groups, without it in up to 20 %.

    Args:
        labels: `(clips,)` 0 or 1.
        groups: the group of each clip.
    """
    number = np.unique(groups, return_inverse=True)[1]
    clips, violent = np.bincount(number), np.bincount(number, labels)
    only_violent, only_nonviolent = int((violent == clips).sum()), int((violent == 0).sum())
    mixed = len(clips) - only_violent - only_nonviolent
    return 0.5**mixed / math.comb(only_violent + only_nonviolent, only_violent)


def groups_for_width(groups: int, interval: tuple[float, float], half: float = WIDE) -> int:
    """Return about how many groups would give an interval of ± `half`.

    Its width falls with the square root of the number of groups.

    Args:
        groups: that gave the interval.
        interval: its ends.
        half: of the width that is wanted.
    """
    now = (interval[1] - interval[0]) / 2
    return math.ceil(groups * (now / half) ** 2)


def _weak_class(confusion: Sequence[Sequence[int]]) -> int | None:
    matrix = np.asarray(confusion)
    clips = matrix.sum(axis=1)
    if min(clips) < FEWEST_OF_CLASS:
        return None
    accuracies = np.diagonal(matrix) / clips
    weaker = int(np.argmin(accuracies))
    fails = accuracies[weaker] <= WEAK and accuracies.max() - accuracies[weaker] >= STRONG_BY
    return weaker if fails else None


def verdict_lines(sentences: Sequence[str]) -> list[str]:
    """Return sentences as lines for the console; only a long file name exceeds `COLUMNS`."""
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, COLUMNS, break_long_words=False, break_on_hyphens=False)
    ]


def _sources(verdict: Verdict) -> str:
    return count_of(verdict.groups, "source" if verdict.grouped else "clip")


def _chance_sentence(verdict: Verdict) -> str:
    unknown = "Not shown to be better than chance"
    if verdict.roc_auc is None:
        missing = CLASS_NAMES[int(sum(verdict.confusion[0]) > 0)]
        return f"{unknown}: without {missing} clips, no interval can be given."
    area = f"ROC-AUC {verdict.roc_auc:.2f}"
    if verdict.chance is Chance.ONE_GROUP:
        return f"{unknown}: {area}; all clips are of one source, so no interval can be given."
    low, high = verdict.interval or (math.nan, math.nan)
    if verdict.chance is Chance.TOO_FEW and not low <= CHANCE <= high:
        # An interval of 1.00 to 1.00 from three clips would be believed.
        return f"{unknown}: {area}, but {_sources(verdict)} are too few to tell."
    opening = {Chance.BETTER: "Better than chance", Chance.WORSE: "Worse than chance"}
    return (
        f"{opening.get(verdict.chance, unknown)}: {area}, 95 % interval {low:.2f} to {high:.2f} "
        f"over {_sources(verdict)}."
    )


def _evidence_sentence(verdict: Verdict) -> str:
    (correct, alarms), (missed, found) = verdict.confusion
    clips = count_of(correct + alarms + missed + found, f"{SPLITS[verdict.split]} clip")
    of_sources = f" of {_sources(verdict)}" if verdict.grouped else ""
    chosen = ", on which epoch and threshold were chosen" if verdict.split == "val" else ""
    return (
        f"It rests on {clips}{of_sources}{chosen}: "
        f"{_of_class(found, found + missed, 1)} found, "
        f"{_of_class(alarms, alarms + correct, 0)} reported."
    )


def _of_class(part: int, whole: int, label: int) -> str:
    """Return "4 of 5 violent clips", or "84 % of 210 violent clips"."""
    clips = count_of(whole, f"{CLASS_NAMES[label]} clip")
    if whole < FEWEST_FOR_SHARES:
        return f"{part} of {clips}" if whole else f"no {CLASS_NAMES[label]} clips"
    percent = round(100 * part / whole)
    # 0 and 100 % only where it is none or all.
    percent = min(max(percent, int(part > 0)), 100 - int(part < whole))
    return f"{percent} % of {clips}"


def _next_sentence(verdict: Verdict) -> str:
    """Return what to do about the gravest of the findings."""
    for advise in (_too_few, _overfitting, _undecided, _not_learned, _weak_side, _weak_evidence):
        if advice := advise(verdict):
            return f"Next: {advice}."
    return "Next: try it with predict.py on videos of cameras that it has not seen."


def _too_few(verdict: Verdict) -> str | None:
    if verdict.chance is Chance.ONE_CLASS:
        return f"add clips of the other class to the {SPLITS[verdict.split]} split"
    if verdict.chance is Chance.ONE_GROUP:
        return "more clips of other cameras; one source is too few to tell"
    if verdict.chance is Chance.TOO_FEW:
        return f"more clips of other cameras; {_sources(verdict)} are too few to tell"
    return None


def _overfitting(verdict: Verdict) -> str | None:
    if not (epoch := verdict.overfitting):
        return None
    training = share_words(epoch.training, epoch.training_clips, ".2f")
    validation = share_words(epoch.validation, epoch.validation_clips, ".2f")
    return (
        "more sources, or a smaller head; the classifier knows its clips by heart "
        f"(epoch {epoch.epoch}: training accuracy {training}, validation {validation})"
    )


def _undecided(verdict: Verdict) -> str | None:
    if verdict.chance is Chance.UNCERTAIN and verdict.interval and verdict.interval[1] >= PROMISING:
        return f"{_more_sources(verdict)}; {_sources(verdict)} are too few to tell"
    return None


def _not_learned(verdict: Verdict) -> str | None:
    if verdict.chance is Chance.WORSE:
        return "check the labels; they seem to be swapped in one of the splits"
    if verdict.chance is Chance.UNCERTAIN:
        return "check the labels, then try other --streams or another --feature-layer"
    return None


def _weak_side(verdict: Verdict) -> str | None:
    if verdict.weak_class is None:
        return None
    row = verdict.confusion[verdict.weak_class]
    wrong = _of_class(row[1 - verdict.weak_class], sum(row), verdict.weak_class)
    fault, goal = (
        ("missed", "recall=0.9") if verdict.weak_class else ("reported as violent", "fpr=0.1")
    )
    again = "" if verdict.rate_is_chosen else f", or run again with --threshold-for {goal}"
    return f"{wrong} are {fault}; add clips like these{again}"


def _weak_evidence(verdict: Verdict) -> str | None:
    if verdict.split == "val":
        return "test on clips that chose nothing, in a test split or with --cross-validate 5"
    if verdict.ungrouped:
        return (
            "name the source of each clip in groups.csv; clips of one source in two splits "
            "make figures look better than they are"
        )
    if verdict.interval and verdict.interval[1] - verdict.interval[0] > 2 * WIDE:
        return _more_sources(verdict)
    return None


def _more_sources(verdict: Verdict) -> str:
    more = "more clips of other cameras"
    if not verdict.interval:
        return more
    wanted = groups_for_width(verdict.groups, verdict.interval)
    if wanted <= verdict.groups:
        return more
    unit = "sources" if verdict.grouped else "clips"
    return f"{more} (about {wanted} {unit} would give an interval of ±{WIDE})"


def _doubtful_sentence(doubtful: Sequence[DoubtfulLabel]) -> str:
    named = ", ".join(f"{label.clip} ({label.probability:.2f})" for label in doubtful[:NAMED])
    more = ", …" if len(doubtful) > NAMED else ""
    labels = count_of(len(doubtful), "label")
    look = "Look at it." if len(doubtful) == 1 else "Look at them."
    return f"{labels} may be wrong (probability of violence): {named}{more}. {look}"
