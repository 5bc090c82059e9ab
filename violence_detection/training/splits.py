"""The features of each split, and the loss weight of each class."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.splits import fingerprint
from violence_detection.features.checked_clips import CheckedClips
from violence_detection.features.prepare import Features
from violence_detection.settings.constants import CLASS_NAMES, SPLITS
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.loop import describe_sampling, make_order
from violence_detection.training.losses import class_factors, focal_alpha

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Features and labels of the usable clips; features are read on demand."""

    all_clips: ClipFeatures
    train: ClipFeatures
    val: ClipFeatures
    test: ClipFeatures | None  # None: the dataset has no test split
    unlabeled: ClipFeatures
    factors: tuple[float, float]  # loss weights of nonviolent and violent clips
    fingerprints: dict[str, str]  # of clips and features, by name

    @property
    def tested(self) -> tuple[str, ClipFeatures]:
        """Name and clips of the split to test on: validation where there is no test split."""
        return ("val", self.val) if self.test is None else ("test", self.test)

    @property
    def read(self) -> Sequence[ClipFeatures]:
        """The splits that are read while a model is trained and tested."""
        return [self.train, self.val, *([] if self.test is None else [self.test])]

    def trained_on(self, train: ClipFeatures, settings: Settings) -> "Splits":
        """Return these splits with other training clips and the class factors that follow.

        Args:
            train: the new training clips.
            settings: sampling, class weights and loss.
        """
        order = make_order(settings.training, settings.devices.seed, train)
        factors = class_factors(order.class_counts(), settings.loss)
        weights = settings.loss.class_weights or "balanced"
        log.info(
            "loss weights: %s (class weights %s, focal alpha %s); sampling %s",
            ", ".join(f"{name} {f:.3f}" for name, f in zip(CLASS_NAMES, factors, strict=True)),
            weights if settings.loss.use_class_weights else "off",
            focal_alpha(settings.loss) or "none",
            describe_sampling(settings.training),
        )
        return replace(
            self,
            train=train.select(slice(None), factors),
            val=self.val.select(slice(None), factors),
            factors=factors,
        )


def load_splits(checked: CheckedClips, features: Features, settings: Settings) -> Splits:
    """Return the features of the usable clips by split.

    Args:
        checked: the usable clips.
        features: the rows of their features in the caches.
        settings: frames per clip, sampling, class weights and loss.
    """
    stored = [cache.rows() for cache in features.caches[: features.views]]
    zeros = (-1,) * len(features.caches)

    def of_clips(clips: Sequence[Clip]) -> ClipFeatures:
        return ClipFeatures(
            stored,
            [features.rows.get(clip, zeros)[: features.views] for clip in clips],
            [clip.label for clip in clips],
            frames=settings.features.frames,
            streams=len(settings.features.streams),
        )

    everything = of_clips(checked.usable)
    split_of = np.array([clip.split for clip in checked.usable])
    train, val, test = (everything.select(np.flatnonzero(split_of == split)) for split in SPLITS)
    splits = Splits(
        everything,
        *(train, val, test if len(test) else None),
        of_clips(checked.unlabeled),
        factors=(1.0, 1.0),
        fingerprints=_fingerprints(checked, features),
    )
    splits = splits.trained_on(train, settings)
    log.info("augmentation: %s", ", ".join(settings.training.augment) or "none")
    return splits


def _fingerprints(checked: CheckedClips, features: Features) -> dict[str, str]:
    """Return fingerprints, by name, of what must be unchanged when the run is resumed."""

    def of_rows(clips: Sequence[Clip], caches: int) -> str:
        zeros = (-1,) * len(features.caches)
        return " ".join(
            cache.fingerprint([features.rows.get(clip, zeros)[view] for clip in clips])
            for view, cache in enumerate(features.caches[:caches])
        )

    found = {
        "the clips that are used": fingerprint(checked.usable),
        "their content or the VGG19 weights": of_rows(checked.usable, features.views),
    }
    if checked.unlabeled:
        found["the unlabeled clips"] = of_rows(checked.unlabeled, len(features.caches))
    return found
