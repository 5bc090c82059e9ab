"""The features of each split, and the loss weight of each class."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.splits import fingerprint
from violence_detection.features.checked_clips import CheckedClips
from violence_detection.features.prepare import Features
from violence_detection.features.recipe import KindViews, views_of_kinds
from violence_detection.features.windows import VideoWindows
from violence_detection.settings.constants import CLASS_NAMES, SPLITS
from violence_detection.settings.schema import Settings
from violence_detection.settings.training import FOLDS, MANY_CLIPS
from violence_detection.training.bags import BagFeatures
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.folds import folds, possible_folds, sources_of
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
    fold: dict[str, str] = field(default_factory=dict)  # of a fold: its fingerprint, by name
    held_out: Sequence[int] = ()  # of a fold: its clips' indices in training, then validation

    @property
    def tested(self) -> tuple[str, ClipFeatures]:
        """Name and clips of the split to test on: validation where there is no test split."""
        return ("val", self.val) if self.test is None else ("test", self.test)

    def of_kind(self, views: KindViews) -> "Splits":
        """Return these splits in the views that a kind of classifier takes."""
        chosen, streams = [*views.streams, *views.mirrored], len(views.streams)
        return replace(
            self,
            all_clips=self.all_clips.of_views(chosen, streams),
            train=self.train.of_views(chosen, streams),
            val=self.val.of_views(chosen, streams),
            test=self.test and self.test.of_views(chosen, streams),
            unlabeled=self.unlabeled.of_views(chosen, streams),
        )

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
        return replace(
            self,
            train=train.select(slice(None), factors),
            val=self.val.select(slice(None), factors),
            factors=factors,
        )


def log_loss_weights(splits: Splits, settings: Settings) -> None:
    """Log how much a clip of each class counts, and how clips are drawn."""
    by_class = zip(CLASS_NAMES, splits.factors, strict=True)
    log.info(
        "loss weights: %s\n(class weights %s, focal alpha %s); sampling %s",
        ", ".join(f"{name} {factor:.3f}" for name, factor in by_class),
        (settings.loss.class_weights or "balanced") if settings.loss.use_class_weights else "off",
        focal_alpha(settings.loss) or "none",
        describe_sampling(settings.training),
    )


def splits_of_folds(splits: Splits, settings: Settings) -> list[Splits]:
    """Return the splits of each classifier if training and validation clips are divided by folds.

    Args:
        splits: of the run.
        settings: the number of folds; without one, `FOLDS` if there are few clips, and enough
            groups.

    Returns:
        A fold each: it validates, and the other clips of both splits are trained on. Empty if
        there are no folds: one training split is trained on, and one validation split validates.

    Raises:
        UserError: there are fewer groups of a class than folds that were asked for.
    """
    options, seed = settings.training, settings.devices.seed
    if options.folds == 1 or options.seeds > 1 or options.unlabeled:
        return []
    known = splits.train.followed_by(splits.val)
    sources = sources_of(known)
    if options.folds:
        divided = folds(known.labels, sources, options.folds, seed, f"--folds {options.folds}")
    elif len(known) < MANY_CLIPS:
        divided = possible_folds(known.labels, sources, FOLDS, seed)
    else:
        divided = []
    return [
        replace(
            splits,
            val=known.select(held_out),
            fold={"the division into folds": _hash_of(held_out)},
            held_out=held_out.tolist(),
        ).trained_on(known.select(train), settings)
        for train, held_out in divided
    ]


def _hash_of(indices: np.ndarray) -> str:
    return hashlib.blake2b(indices.astype(np.int64).tobytes(), digest_size=16).hexdigest()


def load_splits(checked: CheckedClips, features: Features, settings: Settings) -> Splits:
    """Return the features of the usable clips by split.

    Args:
        checked: the usable clips.
        features: the rows of their features in the caches.
        settings: frames per clip, weak labels, sampling, class weights and loss.
    """
    of_clips = _in_bags if settings.weak.weak else features_of_clips
    everything = of_clips(checked.usable, features, settings)
    split_of = np.array([clip.split for clip in checked.usable])
    train, val, test = (everything.select(np.flatnonzero(split_of == split)) for split in SPLITS)
    splits = Splits(
        everything,
        *(train, val, test if len(test) else None),
        features_of_clips(checked.unlabeled, features, settings),
        factors=(1.0, 1.0),
        fingerprints=_fingerprints(checked, features),
    )
    splits = splits.trained_on(train, settings)
    log_loss_weights(splits, settings)
    log.info("augmentation: %s", ", ".join(settings.training.augment) or "none")
    return splits


def features_of_clips(
    clips: Sequence[Clip], features: Features, settings: Settings
) -> ClipFeatures:
    """Return the features and labels of clips, those without features as zeros.

    Args:
        clips: labelled or not.
        features: the rows of their features in the caches.
        settings: frames per clip, and the streams.
    """
    zeros = (-1,) * features.views
    return ClipFeatures(
        [cache.rows() for cache in features.caches[: features.views]],
        [features.rows.get(clip, zeros)[: features.views] for clip in clips],
        [clip.label for clip in clips],
        frames=settings.features.frames,
        streams=sum(len(kind.streams) for kind in views_of_kinds(settings)),
        groups=_group_numbers(clips),
    )


def _in_bags(clips: Sequence[Clip], features: Features, settings: Settings) -> BagFeatures:
    """Return videos in windows; one that cannot be read has a window of zeros."""
    whole = features_of_clips(clips, features, settings)
    zeros = np.full((1, len(features.caches)), -1)
    windows = [features.windows.get(clip, VideoWindows([clip], zeros)) for clip in clips]
    windows = [replace(video, rows=video.rows[:, : features.views]) for video in windows]
    bag = min(settings.weak.bag_windows, max(len(video.rows) for video in windows))
    return BagFeatures(
        *(whole.stored, whole.rows, whole.labels, windows, bag, settings.weak.top_share),
        streams=whole.streams,
        groups=whole.groups,
    )


def _group_numbers(clips: Sequence[Clip]) -> np.ndarray:
    """Return `(clips,)` int64 numbers, equal for clips of one group."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(clip.group, len(known)) if clip.group else -1 for clip in clips]
    groups = np.array(numbers, np.int64)
    alone = np.flatnonzero(groups < 0)
    groups[alone] = len(known) + np.arange(len(alone))
    return groups


def _fingerprints(checked: CheckedClips, features: Features) -> dict[str, str]:
    """Return fingerprints, by name, of what must be unchanged when the run is resumed."""

    def of_rows(clips: Sequence[Clip], caches: int) -> str:
        zeros = (-1,) * len(features.caches)
        rows = [features.rows.get(clip, zeros) for clip in clips]
        if features.windows:
            found = [features.windows[clip].rows for clip in clips if clip in features.windows]
            rows = np.concatenate(found).tolist()
        return " ".join(
            cache.fingerprint([of_clip[view] for of_clip in rows])
            for view, cache in enumerate(features.caches[:caches])
        )

    found = {
        "the clips that are used": fingerprint(checked.usable),
        "their content or the VGG19 weights": of_rows(checked.usable, features.views),
    }
    if checked.unlabeled:
        found["the unlabeled clips"] = of_rows(checked.unlabeled, len(features.caches))
    return found
