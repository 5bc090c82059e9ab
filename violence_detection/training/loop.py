"""A classifier trained on some clips, without files: for folds, searches and warm-ups."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.settings.schema import Settings
from violence_detection.settings.training import TrainingSettings
from violence_detection.training.batches import (
    ClipFeatures,
    read_errors,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.losses import class_factors
from violence_detection.training.order import ClipOrder
from violence_detection.training.predictions import violence_probabilities
from violence_detection.training.trainer import Trainer, make_trainer

STANDARDIZE_ON = 2048  # clips: enough for a mean and a deviation
WARM_UP_EPOCHS = 5  # of the model that says which clips are easy


def ensemble_members(settings: Settings) -> list[Settings]:
    """Return the settings of each classifier of an ensemble: they differ in their seed."""
    return [
        settings.replace(seed=(settings.devices.seed + number) % 2**32)
        for number in range(settings.training.ensemble)
    ]


def make_order(training: TrainingSettings, seed: int, clips: ClipFeatures) -> ClipOrder:
    """Return the order of the epochs that the settings ask for."""
    return ClipOrder(
        clips.labels,
        seed,
        training.sampling == "stratified",
        training.hard_mining,
        training.epochs if training.curriculum else 0,
    )


def describe_sampling(training: TrainingSettings) -> str:
    """Return in words how clips are drawn."""
    words = [training.sampling]
    words += ["hard clips more often"] if training.hard_mining else []
    words += ["the easiest first"] if training.curriculum else []
    return ", ".join(words)


def clip_losses(trainer: Trainer, clips: ClipFeatures, batch_size: int) -> np.ndarray:
    """Return `(clips,)` float32: each clip's loss, without class factors and dropout."""
    probabilities = violence_probabilities(trainer.classifier, clips, batch_size)
    losses = trainer.clip_loss(clips.labels[:, None].astype(np.float32), probabilities[:, None])
    return keras.ops.convert_to_numpy(losses)


class MineHardClips(keras.callbacks.Callback):
    """Tells the order each clip's loss at every epoch's end; keeps the last two with the model.

    Args:
        clips: that are trained on.
        order: that draws them.
    """

    def __init__(self, clips: ClipFeatures, order: ClipOrder, batch_size: int):
        super().__init__()
        self.clips = clips
        self.order = order
        self.batch_size = batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure the losses."""
        losses = clip_losses(self.model, self.clips, self.batch_size)
        kept = self.model.kept["mined_losses"]
        self.model.kept["mined_losses"] = np.stack([kept[1], losses])
        self.order.losses_after(epoch, losses)


def prepare_order(
    settings: Settings,
    clips: ClipFeatures,
    order: ClipOrder,
    trainer: Trainer,
    policy: str,
    finished: int = 0,
) -> list[keras.callbacks.Callback]:
    """Give `order` the losses that it goes by; return the callbacks that give it those to come.

    A trainer that was restored after `finished` epochs brings them. Else, a curriculum has a
    warm-up model trained, whose losses say which clips are easy.
    """
    if settings.training.curriculum:
        if "easiness" not in trainer.kept:
            plain = settings.replace(
                curriculum=False,
                hard_mining=False,
                epochs=WARM_UP_EPOCHS,
                warmup_epochs=1,
            )
            warm_up = fit(plain, clips, policy)
            trainer.kept["easiness"] = clip_losses(warm_up, clips, settings.training.batch_size)
        order.easiness = trainer.kept["easiness"]
    if not settings.training.hard_mining:
        return []
    losses = trainer.kept.setdefault("mined_losses", np.zeros((2, len(clips)), np.float32))
    for epoch in range(max(0, finished - 2), finished):
        order.losses_after(epoch, losses[epoch - finished])
    return [MineHardClips(clips, order, settings.training.batch_size)]


def fit(
    settings: Settings,
    clips: ClipFeatures,
    policy: str,
    after_epoch: Callable[[int, Trainer], None] | None = None,
) -> Trainer:
    """Return a trainer after all epochs of `settings`; nothing is chosen, nothing is written.

    Args:
        clips: to train on; their class factors are set here.
        policy: Keras dtype policy.
        after_epoch: called with the number of finished epochs.
    """
    keras.utils.set_random_seed(settings.devices.seed)
    order = make_order(settings.training, settings.devices.seed, clips)
    chosen = clips.of(slice(None), class_factors(order.class_counts(), settings.loss))
    global_batch = settings.training.batch_size * settings.training.gradient_accumulation
    steps = steps_per_epoch(len(chosen), global_batch)
    with read_errors([chosen]):
        sample = sample_features(
            chosen, settings.training.batch_size, settings.devices.seed, STANDARDIZE_ON
        )
        trainer = make_trainer(settings, sample, steps, policy=policy)
        callbacks = prepare_order(settings, chosen, order, trainer, policy)
        batches = training_batches(
            chosen, order, global_batch, 0, settings.training.epochs, settings.training.augment
        )
        callbacks.append(
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: raise_if_interrupted(),
                on_epoch_end=lambda epoch, logs: after_epoch and after_epoch(epoch + 1, trainer),
            )
        )
        try:
            trainer.fit(
                batches,
                epochs=settings.training.epochs,
                steps_per_epoch=steps,
                callbacks=callbacks,
                shuffle=False,  # the order is the batches' own
                verbose=0,
            )
        finally:
            order.end()  # or the batches would wait for losses for ever
    return trainer
