"""Which clips an epoch trains on, in which order: shuffling, stratification, mining, curriculum.

An order is a function of seed and epoch, and of losses that are saved with the weights, so that a
resumed run continues with the same order.
"""

import threading

import numpy as np
from numpy.typing import ArrayLike

EASIEST_SHARE = 0.25  # share of the clips that a curriculum begins with
PACE = 0.5  # share of the epochs after which a curriculum uses all clips
MINED_SHARE = 0.5  # share of the sampling probability that is proportional to the loss


class ClipOrder:
    """The order of every epoch.

    Args:
        labels: `(clips,)` 0 or 1.
        seed: of the run.
        stratified: alternate the classes, so that every batch of an even size is balanced; the
            smaller class is repeated, the larger continues in the next epoch.
        hard_mining: draw clips with replacement, more often the larger their loss was after the
            epoch before the last (Shrivastava et al., Training Region-based Object Detectors with
            Online Hard Example Mining, https://arxiv.org/abs/1604.03540, in a softer form). Losses
            of the last epoch would come too late for prefetched batches.
        curriculum_epochs: the epochs of the run, for a curriculum that begins with the easiest
            clips by `easiness` and uses all clips after a share of `PACE` of the epochs (Bengio et
            al., Curriculum Learning, 2009); 0: no curriculum.
    """

    def __init__(
        self,
        labels: ArrayLike,
        seed: int,
        stratified: bool = False,
        hard_mining: bool = False,
        curriculum_epochs: int = 0,
    ):
        self.labels = np.asarray(labels, np.int64)
        self.seed = seed
        self.stratified = stratified
        self.hard_mining = hard_mining
        self.curriculum_epochs = curriculum_epochs
        self.easiness = np.zeros(len(self.labels))  # a warm-up model's loss of each clip
        self._losses: dict[int, np.ndarray] = {}  # by the epoch after which they were measured
        self._changed = threading.Condition()
        self._ended = False

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self) -> np.ndarray:
        """Return `(2,)` int64: clips of each class drawn in an epoch, approximately."""
        if self.stratified:
            return np.array([len(self) - len(self) // 2, len(self) // 2])
        return np.bincount(self.labels, minlength=2)

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Return the `(clips,)` int64 indices of an epoch's clips; the first epoch is 0.

        By default, a permutation of all clips. With hard mining, waits for the losses.
        """
        random = np.random.default_rng([self.seed, epoch])
        if not (self.stratified or self.hard_mining or self.curriculum_epochs):
            return random.permutation(len(self))
        allowed = self._allowed(epoch)
        losses = self._losses_for(epoch) if self.hard_mining else None
        if not self.stratified:
            return self._draw(random, np.flatnonzero(allowed), len(self), losses, epoch)
        order = np.empty(len(self), np.int64)
        for label in (0, 1):
            positions = order[label::2]
            members = np.flatnonzero(allowed & (self.labels == label))
            positions[:] = self._draw(random, members, len(positions), losses, epoch)
        return order

    def _allowed(self, epoch: int) -> np.ndarray:
        """Return `(clips,)` bool: the easiest clips of each class that the epoch may use."""
        if not self.curriculum_epochs:
            return np.ones(len(self), bool)
        progress = min(1.0, epoch / max(1.0, PACE * self.curriculum_epochs))
        share = EASIEST_SHARE + (1 - EASIEST_SHARE) * progress
        allowed = np.zeros(len(self), bool)
        for label in (0, 1):  # otherwise all easy clips might be of one class
            members = np.flatnonzero(self.labels == label)
            easiest = members[np.argsort(self.easiness[members], kind="stable")]
            allowed[easiest[: max(1, round(share * len(members)))]] = True
        return allowed

    def _draw(
        self,
        random: np.random.Generator,
        members: np.ndarray,
        count: int,
        losses: np.ndarray | None,
        epoch: int,
    ) -> np.ndarray:
        if losses is not None:
            by_loss = losses[members] / max(float(losses[members].sum()), 1e-12)
            chances = MINED_SHARE * by_loss + (1 - MINED_SHARE) / len(members)
            return random.choice(members, count, p=chances / chances.sum())
        # Every epoch continues one endless sequence of permutations, so that no clip is left out.
        first, last = epoch * count // len(members), ((epoch + 1) * count - 1) // len(members)
        row = np.concatenate(
            [
                np.random.default_rng([self.seed, number, len(members)]).permutation(members)
                for number in range(first, last + 1)
            ]
        )
        start = epoch * count - first * len(members)
        return row[start : start + count]

    def losses_after(self, epoch: int, losses: np.ndarray) -> None:
        """Store `(clips,)` float losses measured after an epoch."""
        with self._changed:
            self._losses = {
                before: stored for before, stored in self._losses.items() if before >= epoch - 1
            }
            # Divergence is reported by the epoch's loss, not by an error here.
            self._losses[epoch] = np.nan_to_num(np.maximum(losses, 0), nan=0.0, posinf=0.0)
            self._changed.notify_all()

    def end(self) -> None:
        """Stop waiting for losses: no more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _losses_for(self, epoch: int) -> np.ndarray | None:
        if epoch < 2:
            return None
        with self._changed:
            self._changed.wait_for(lambda: self._ended or epoch - 2 in self._losses)
            return self._losses.get(epoch - 2)
