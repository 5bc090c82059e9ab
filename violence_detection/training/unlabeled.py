"""Clips without labels: pretrained on, or predicted and then trained on."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from violence_detection.clips.clip import Clip
from violence_detection.training.member import Training, members_of, new_trainer
from violence_detection.training.pretraining import pretrain
from violence_detection.training.pseudo_labels import PseudoLabels, learn_from_unlabeled
from violence_detection.training.trainer import Trainer


def learn_without_labels(
    training: Training, trainer: Trainer, clips: Sequence[Clip], stack: ExitStack
) -> tuple[Training, Trainer, list[PseudoLabels]]:
    """Return the training after --pretrain or --unlabeled, and a new trainer.

    Arguments, result and errors are those of `learn_from_unlabeled`; pretraining has no
    pseudo-labels.
    """
    if training.settings.training.pretrain is None:
        return learn_from_unlabeled(training, trainer, clips, stack)
    pretrained = pretrain(training, training.directory.folder)
    training = replace(training, pretrained=pretrained)
    return training, new_trainer(members_of(training)[0]), []
