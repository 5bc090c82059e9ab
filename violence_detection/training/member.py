"""Training of one classifier or ensemble member, resumed after its last finished epoch."""

import logging
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from violence_detection.features.checks import uncertain_validation
from violence_detection.features.recipe import views_of_kinds
from violence_detection.models.pretrained import load_pretrained
from violence_detection.runs.directory import Inputs, Row, RunDirectory
from violence_detection.runs.files import MEMBER, MEMBER_MODEL
from violence_detection.runs.selection import Selection
from violence_detection.runtime.logs import native_messages_to
from violence_detection.runtime.machine import Machine
from violence_detection.runtime.progress import Progress
from violence_detection.runtime.wording import COLUMNS, count_of
from violence_detection.settings.kinds import kind_title, kinds_of
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import (
    ClipFeatures,
    Share,
    Supply,
    evaluation_batches,
    for_workers,
    read_errors,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.callbacks import (
    EarlyStopping,
    FinishEpoch,
    LogFirstStep,
    SeedEpoch,
    ShowProgress,
    StopOnInterrupt,
    TimeStages,
    complete_best_model,
    write_models_of_last_epoch,
)
from violence_detection.training.loop import (
    STANDARDIZE_ON,
    make_order,
    prepare_order,
    with_seeds,
)
from violence_detection.training.order import ClipOrder
from violence_detection.training.pixel_augmentation import kinds_in_batches
from violence_detection.training.progressive import GrowPictures, picture_sizes
from violence_detection.training.splits import Splits, splits_of_folds
from violence_detection.training.trainer import Trainer, make_trainer

log = logging.getLogger(__name__)


class Watch(Protocol):
    """Writes what a training is followed by: event files, a profile, experiment trackers."""

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return Keras callbacks for the training."""

    def catch_up(self, trainer: Trainer) -> None:
        """Write what an interrupted run left out, if no epoch is left to train."""

    def end(self) -> None:
        """Close what was opened for the training, finished or not."""


class Unwatched:
    """Watches nothing: for classifiers of which only the result is wanted."""

    def __init__(self, directory: RunDirectory, validation: ClipFeatures):
        pass

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return none."""
        return []

    def catch_up(self, trainer: Trainer) -> None:
        """Write nothing."""

    def end(self) -> None:
        """Close nothing."""


@dataclass(frozen=True)
class Training:
    """What the training of all classifiers of a run shares."""

    settings: Settings
    splits: Splits
    machine: Machine
    directory: RunDirectory  # of the run
    watch: Callable[[RunDirectory, ClipFeatures], Watch]  # by directory and validation clips
    inputs: Inputs  # fingerprints that must be unchanged on resuming
    earlier_epochs: list[Row] = field(default_factory=list)  # finished by earlier commands
    pretrained: Path | None = None  # weights that a network from pixels begins with

    def on(self, splits: Splits, **inputs: str) -> "Training":
        """Return the same training on other clips, with their fingerprints by name."""
        return replace(self, splits=splits, inputs=self.inputs | inputs)

    def enough_memory(self) -> AbstractContextManager[None]:
        """Return a context that explains how to reduce memory if it runs out."""
        batch_size = self.settings.training.batch_size
        smaller = max(self.machine.replicas, batch_size // 2)
        return self.machine.enough_memory(
            f"training on batches of {batch_size} clips of {self.settings.features.frames} frames",
            f"Use a lower --batch-size, say {smaller}; --gradient-accumulation 2 keeps the number "
            "of clips per optimizer step.",
        )


@dataclass(frozen=True)
class Member:
    """One of the classifiers of a run."""

    training: Training  # on its own clips
    settings: Settings  # with its own seed
    directory: RunDirectory
    kind: int = 0  # of a mixed ensemble, counted from 0
    part: slice | None = None  # of a frame's features, of all kinds together; None: all


def new_trainer(member: Member) -> Trainer:
    """Return a trainer with a new classifier, standardized on a sample of the training clips."""
    training, settings = member.training, member.settings
    splits, machine, options = training.splits, training.machine, settings.training
    # Seeded here, so that initial weights do not depend on whether VGG19 was built before.
    keras.utils.set_random_seed(settings.devices.seed)
    with (
        native_messages_to(machine.log_file),  # oneDNN reports that it has no float16
        machine.strategy.scope(),
        training.enough_memory(),
        read_errors(splits.read),
    ):
        trainer = make_trainer(
            settings,
            sample_features(
                splits.train, options.batch_size, settings.devices.seed, STANDARDIZE_ON
            ),
            steps_per_epoch(len(splits.train), options.global_batch),
            steps_per_epoch(len(splits.val), options.batch_size),
            machine.precision.policy,
        )
        pretrained = training.pretrained or settings.training.pretrained_file
        if pretrained is not None and settings.model.from_pixels:
            load_pretrained(trainer.classifier, pretrained)
        return trainer


def log_classifier(trainer: Trainer, members: Sequence[Member]) -> None:
    """Log the classifiers' size and number, and how an epoch is divided into steps."""
    training = members[0].training
    machine, batch = training.machine, training.settings.training.global_batch
    steps, model = steps_per_epoch(len(training.splits.train), batch), training.settings.model
    workers = machine.worker.count
    log.info(
        "%s with %s parameters\n%s per epoch, %s per step, %d per replica%s",
        model.model if model.from_pixels else model.head,
        f"{trainer.classifier.count_params():,}",
        *(count_of(steps, "step"), count_of(batch, "clip"), batch // machine.replicas),
        f"; {machine.replicas} replicas, {workers} workers" if workers > 1 else "",
    )
    options = training.settings.training
    if options.warmup_epochs < type(options)().warmup_epochs:
        log.info("warm-up: %d of %s", options.warmup_epochs, count_of(options.epochs, "epoch"))
    if training.splits.fold:
        log.info(
            "%d classifiers%s, each validated on another part of the %s for\n"
            "training and validation; %s (--folds)",
            *(len(members), "" if members[0].part is None else " of this kind"),
            count_of(len(training.splits.train) + len(training.splits.val), "clip"),
            "their mean is the detector"
            if members[0].part is None
            else "all kinds together are the detector",
        )


def train_members(members: Sequence[Member], trainer: Trainer, stack: ExitStack) -> None:
    """Train the classifier, or each of several.

    Args:
        members: as `members_of` returns them.
        trainer: of the first member, before its first epoch.
        stack: locks on the members' directories are held until it is closed.

    Raises:
        UserError: finished epochs were computed from other inputs.
        RunError: the loss is not finite; a file cannot be read or written.
    """
    # A cross-validation trains for folds of its own, and tests on all clips.
    is_run = not members[0].settings.experiment.requested
    labels = np.concatenate([clips.labels for clips in validation_of(members)])
    if is_run and (warning := uncertain_validation(labels)):
        log.warning(warning)
    for number, member in enumerate(members, start=1):
        if number > 1:
            stack.enter_context(member.directory)
            trainer = new_trainer(member)
        if number == 1 or member.kind != members[number - 2].kind:
            log_classifier(trainer, [each for each in members if each.kind == member.kind])
        if len(members) > 1:
            of_kind = f", {kind_title(member.settings)}" if members[-1].kind else ""
            seed = member.settings.devices.seed
            log.info("member %d of %d, seed %d%s", number, len(members), seed, of_kind)
        train_member(member, trainer)


def members_of(training: Training) -> list[Member]:
    """Return the classifiers that a run trains: one, or several whose mean is the detector.

    With folds, each is trained on all training and validation clips but those of its fold, which
    validate it. Members of an ensemble of one kind differ in their seed alone; of several kinds,
    those of one follow those of another, on the same folds.

    Args:
        training: on the splits of the run.

    Raises:
        UserError: there are fewer groups than --folds.
    """
    settings, directory = training.settings, training.directory
    splits = splits_of_folds(training.splits, settings) or [training.splits] * (
        settings.training.seeds
    )
    kinds = kinds_of(settings)
    members: list[Member] = []
    for kind, (of_kind, views) in enumerate(zip(kinds, views_of_kinds(settings), strict=True)):
        part = None if len(kinds) == 1 else training.splits.train.part_of(views.streams)
        for seeded, own in zip(with_seeds(of_kind, len(splits)), splits, strict=True):
            if members:
                folder = training.directory / f"{MEMBER}{len(members) + 1}"
                worker, keeps = training.machine.worker, training.directory.keeps_checkpoints
                directory = RunDirectory(folder, worker, keeps)
            elif len(kinds) * len(splits) > 1:
                directory.best_model = MEMBER_MODEL  # BEST_MODEL is their mean
            clips = own if part is None else own.of_kind(views)
            shared = replace(training, settings=of_kind).on(clips, **own.fold)
            members.append(Member(shared, seeded, directory, kind, part))
    return members


def validation_of(members: Sequence[Member]) -> list[ClipFeatures]:
    """Return the clips that each member is validated on; one element if all have the same.

    Those of several kinds are the same clips: the members of the first kind stand for all.
    """
    validation = [member.training.splits.val for member in members if member.kind == 0]
    return validation if members[0].training.splits.fold else validation[:1]


def train_member(member: Member, trainer: Trainer) -> None:
    """Train all epochs after the last finished one; write the best model.

    Args:
        member: the classifier.
        trainer: before its first epoch.

    Raises:
        UserError: finished epochs were computed from other inputs.
        RunError: the loss is not finite; a disk is full, gone or damaged.
    """
    training, settings, directory = member.training, member.settings, member.directory
    splits, cluster, options = training.splits, training.machine.cluster, settings.training
    sources = len(np.unique(splits.val.groups))
    directory.selection = Selection(options.select, options.warmup_epochs, len(splits.val), sources)
    order = make_order(options, settings.devices.seed, splits.train)
    if weights_before := directory.restore(training.inputs):
        trainer.load_state(weights_before)
        write_models_of_last_epoch(directory, trainer)
        log.info("resuming after epoch %d of %d", len(directory.history), options.epochs)
    patience = options.patience(len(splits.val))
    early_stopping = EarlyStopping(directory, patience, cluster)
    watch = training.watch(directory, splits.val)
    finished = len(directory.history)
    cluster.require_same({"the number of finished epochs (is --checkpoint-dir shared?)": finished})
    training.earlier_epochs.extend(directory.history)
    if finished < options.epochs and not early_stopping.due():
        with training.enough_memory(), read_errors(splits.read):
            _fit(member, trainer, order, early_stopping, watch)
    else:
        watch.catch_up(trainer)
    if len(directory.history) < options.epochs:
        log.info("stopped early: no lower validation loss for %s", count_of(patience, "epoch"))
    complete_best_model(directory, trainer)
    reason = directory.selection.describe(directory.history)
    log.info("%s", textwrap.fill(f"best model: {reason}", COLUMNS))


def _fit(
    member: Member,
    trainer: Trainer,
    order: ClipOrder,
    early_stopping: EarlyStopping,
    watch: Watch,
) -> None:
    """Train the remaining epochs."""
    training, settings, directory = member.training, member.settings, member.directory
    machine, options = training.machine, settings.training
    train, finished = training.splits.train, len(directory.history)
    with machine.strategy.scope():
        mining = prepare_order(settings, train, order, trainer, machine.precision.policy, finished)
    supply = Supply()
    batches, validation = _batches(training, order, finished, supply)
    total, done = options.epochs * len(train), finished * len(train)
    progress = Progress("training", total, done, bar=machine.bar)
    callbacks = [
        TimeStages(directory, machine.clock, supply),
        StopOnInterrupt(),
        SeedEpoch(settings.devices.seed),
        GrowPictures(picture_sizes(settings)),
        LogFirstStep(machine.started if directory is training.directory else None),
        ShowProgress(progress, len(train), options.global_batch),
        *mining,
        FinishEpoch(directory, training.inputs, len(train), machine.monitor),
        early_stopping,
        *watch.callbacks(),
    ]
    try:
        trainer.fit(
            batches,
            initial_epoch=finished,
            epochs=options.epochs,
            steps_per_epoch=steps_per_epoch(len(train), options.global_batch),
            validation_data=validation,
            validation_steps=steps_per_epoch(len(training.splits.val), options.batch_size),
            callbacks=callbacks,
            shuffle=False,  # the order is the batches' own
            verbose=0,
        )
    finally:
        order.end()  # otherwise the batches would wait for losses forever
        watch.end()


def _batches(
    training: Training, order: ClipOrder, finished: int, supply: Supply
) -> tuple[object, object]:
    """Return the batches of the remaining epochs, and those of a validation."""
    splits, machine = training.splits, training.machine
    options = training.settings.training
    share = share_in_validation = None
    if machine.worker.count > 1:  # this worker computes a part of every batch
        replicas = len(machine.devices)
        share = Share(machine.worker, replicas, options.gradient_accumulation)
        share_in_validation = Share(machine.worker, replicas)
    batches = training_batches(
        splits.train,
        order,
        options.global_batch,
        first_epoch=finished,
        epochs=options.epochs,
        augmentations=kinds_in_batches(training.settings),
        supply=supply,
        share=share,
    )
    validation = evaluation_batches(splits.val, options.batch_size, share_in_validation)
    if machine.worker.count > 1:
        return for_workers(batches, machine.strategy), for_workers(validation, machine.strategy)
    return batches, validation
