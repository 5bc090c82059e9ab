"""Training a classifier without writing files: for folds, searches and warm-up models."""

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
from violence_detection.training.pixel_augmentation import kinds_in_batches
from violence_detection.training.predictions import violence_probabilities
from violence_detection.training.progressive import GrowPictures, picture_sizes
from violence_detection.training.trainer import Trainer, make_trainer

STANDARDIZE_ON = 2048  # clips: enough for a mean and a deviation
WARM_UP_EPOCHS = 5  # of the model whose losses rank the clips for a curriculum


def with_seeds(settings: Settings, count: int) -> list[Settings]:
    """Return the settings of each of several classifiers: they differ in their seed."""
    return [
        settings.replace(seed=(settings.devices.seed + number) % 2**32) for number in range(count)
    ]


def make_order(training: TrainingSettings, seed: int, clips: ClipFeatures) -> ClipOrder:
    """Return the order of the clips in each epoch.

    Args:
        training: sampling, hard mining, curriculum and the number of epochs.
        seed: of the run.
        clips: the training clips.
    """
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


class HardExampleMining(keras.callbacks.Callback):
    """Passes each clip's loss to the order after every epoch; saves the last two with the model.

    Args:
        clips: the training clips.
        order: draws the clips by their losses.
        batch_size: clips per forward pass.
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
    """Give `order` the losses that it depends on; return the callbacks that update them.

    A restored trainer has them in its state. Otherwise a curriculum trains a warm-up model, whose
    losses rank the clips from easy to hard.

    Args:
        settings: of this classifier.
        clips: the training clips.
        order: of `clips`.
        trainer: new, or restored after `finished` epochs.
        policy: Keras dtype policy of a warm-up model.
        finished: number of finished epochs.
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
    return [HardExampleMining(clips, order, settings.training.batch_size)]


def fit(
    settings: Settings,
    clips: ClipFeatures,
    policy: str,
    after_epoch: Callable[[int, Trainer], None] | None = None,
) -> Trainer:
    """Train for all epochs without validation and without writing files; return the trainer.

    Args:
        settings: of the classifier and its training.
        clips: the training clips; their class factors are set here.
        policy: Keras dtype policy.
        after_epoch: called with the number of finished epochs and the trainer.

    Raises:
        Interrupted: by a signal.
        RunError: a row of features cannot be read.
    """
    keras.utils.set_random_seed(settings.devices.seed)
    order = make_order(settings.training, settings.devices.seed, clips)
    chosen = clips.select(slice(None), class_factors(order.class_counts(), settings.loss))
    global_batch = settings.training.global_batch
    steps = steps_per_epoch(len(chosen), global_batch)
    with read_errors([chosen]):
        sample = sample_features(
            chosen, settings.training.batch_size, settings.devices.seed, STANDARDIZE_ON
        )
        trainer = make_trainer(settings, sample, steps, policy=policy)
        callbacks = prepare_order(settings, chosen, order, trainer, policy)
        batches = training_batches(
            chosen, order, global_batch, 0, settings.training.epochs, kinds_in_batches(settings)
        )
        callbacks.append(GrowPictures(picture_sizes(settings)))
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
            order.end()  # otherwise the batches would wait for losses forever
    return trainer
