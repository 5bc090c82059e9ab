"""Which epoch's weights become the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from violence_detection.runtime.wording import count_of


@dataclass(frozen=True)
class Selection:
    """A rule, and how much the validation that it goes by can be trusted.

    Of a hundred epochs the one with the highest validation accuracy is mostly the luckiest: on few
    clips a high figure is chance, and the weights of an early epoch are worse than the last ones,
    for which the learning rate has fallen to almost nothing. Hence "auto": the last epoch, unless
    another one is better by more than two standard errors of an accuracy on so many clips. With
    thousands of validation clips these are small, and "auto" does as "val-accuracy".

    Args:
        rule: one of `SELECTIONS`.
        warmup_epochs: during these, no epoch is selected: the learning rate is still rising.
        clips: validation clips.
        sources: groups that these are of.
    """

    rule: str = "val-accuracy"
    warmup_epochs: int = 0
    clips: int = 1
    sources: int = 1

    def best_epoch(self, history: Sequence[Mapping[str, Any]]) -> int:
        """Return the selected epoch (from 1) of those in the history, which has at least one."""
        last, leading = history[-1], self._leading(history)
        gain = leading["val_accuracy"] - last["val_accuracy"]
        if self.rule == "auto" and gain <= self.uncertainty(last["val_accuracy"]):
            return last["epoch"]
        return leading["epoch"]

    def leading_epoch(self, history: Sequence[Mapping[str, Any]]) -> int:
        """Return the epoch (from 1) that the validation favours, selected or not.

        Its weights have to be kept: "auto" may select it later.
        """
        return self._leading(history)["epoch"]

    def _leading(self, history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        if self.rule == "last":
            return history[-1]
        candidates = [row for row in history if row["epoch"] > self.warmup_epochs] or history
        if self.rule == "val-loss":
            return min(candidates, key=lambda row: row["val_loss"])
        return max(candidates, key=lambda row: (row["val_accuracy"], -row["val_loss"]))

    def uncertainty(self, accuracy: float) -> float:
        """Return two standard errors of a validation accuracy, as if the clips were independent.

        Agresti and Coull, 1998: with two clips more of each kind, so that it is not 0 at 1.0.
        """
        clips = self.clips + 4
        share = (accuracy * self.clips + 2) / clips
        return 2 * math.sqrt(share * (1 - share) / clips)

    def describe(self, history: Sequence[Mapping[str, Any]]) -> str:
        """Return in words which epoch was selected, and how certain that is."""
        epoch = self.best_epoch(history)
        of = f"epoch {epoch} of {len(history)}"
        seen = f"{count_of(self.clips, 'validation clip')} of {count_of(self.sources, 'source')}"
        if self.rule == "last":
            return f"{of} (--select last)"
        row = history[epoch - 1]
        error = self.uncertainty(row["val_accuracy"])
        if self.rule == "auto" and row is history[-1]:
            return f"{of}: none is better by more than chance ({seen}: ±{error:.2f})"
        figure = "val_loss" if self.rule == "val-loss" else "val_accuracy"
        name = figure.replace("val_", "validation ")
        return f"{of}: {name} {row[figure]:.3f} ({seen}: accuracy ±{error:.2f})"
