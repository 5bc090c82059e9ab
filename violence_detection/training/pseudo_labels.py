"""Pseudo-labels: clips without labels, as a confident classifier predicts them.

Lee, Pseudo-Label, ICML workshop 2013.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.evaluation.calibration import calibrate, fit_temperature
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import BEST_MODEL, PSEUDO_LABELS, TAKEN, TEACHER
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import read_json, write_csv, write_json
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.member import Member, Training, new_trainer, train_member
from violence_detection.training.predictions import violence_probabilities
from violence_detection.training.splits import log_loss_weights
from violence_detection.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PseudoLabels:
    """The pseudo-labels of one round."""

    probabilities: np.ndarray  # (unlabeled clips,) float64, calibrated
    indices: np.ndarray  # (taken,) int64: the clips that become training clips
    labels: np.ndarray  # (taken,) int64

    def added_to(self, labelled: ClipFeatures, candidates: ClipFeatures) -> ClipFeatures:
        """Return the labelled clips followed by the pseudo-labelled ones."""
        taken = candidates.select(self.indices)
        taken.labels = self.labels
        taken.groups = taken.groups + labelled.groups.max() + 1
        return labelled.followed_by(taken)

    def fingerprint(self) -> str:
        """Return a hash of the clips and their labels."""
        digest = hashlib.blake2b(self.indices.tobytes(), digest_size=16)
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write the labels as JSON: predicting again might give slightly other probabilities.

        Raises:
            RunError: the file cannot be written.
        """
        values = (self.probabilities, self.indices, self.labels)
        names = ("probabilities", "places", "labels")  # as files have them
        write_json(path, {n: v.tolist() for n, v in zip(names, values, strict=True)})

    def as_json(self) -> dict[str, Any]:
        """Return the number of pseudo-labelled clips of each class."""
        counts = np.bincount(self.labels, minlength=len(CLASS_NAMES)).tolist()
        return {"taken": dict(zip(CLASS_NAMES, counts, strict=True))}


def read_pseudo_labels(path: Path) -> PseudoLabels:
    """Return what `PseudoLabels.write` wrote; raises `UserError` if it is damaged."""
    stored = read_json(path)
    indices, labels = (np.array(stored[name], np.int64) for name in ("places", "labels"))
    return PseudoLabels(np.array(stored["probabilities"], np.float64), indices, labels)


def learn_from_unlabeled(
    training: Training, trainer: Trainer, clips: Sequence[Clip], stack: ExitStack
) -> tuple[Training, Trainer, list[PseudoLabels]]:
    """Return the training with pseudo-labelled clips added, a new trainer, and each round's labels.

    In each round, a teacher that has learned from the labels of the round before predicts the
    unlabeled clips; those that it is confident of become training clips.

    Args:
        training: on the labelled clips.
        trainer: of the first teacher, before its first epoch.
        clips: without labels, as in the splits.
        stack: locks on the teachers' directories are held until it is closed.

    Raises:
        UserError: a directory belongs to a run on other inputs, or its labels are damaged.
        RunError: the loss is not finite; a file cannot be read or written.
    """
    labelled, candidates = training.splits.train, training.splits.unlabeled
    options, directory = training.settings.training, training.directory
    rounds: list[PseudoLabels] = []
    for number in range(1, options.pseudo_rounds + 1):
        log.info("teacher %d of %d", number, options.pseudo_rounds)
        teacher = stack.enter_context(RunDirectory(directory / f"{TEACHER}{number}"))
        train_member(Member(training, training.settings, teacher), trainer)
        if (teacher / TAKEN).exists():
            labels = read_pseudo_labels(teacher / TAKEN)
        else:
            model = keras.models.load_model(teacher / BEST_MODEL, safe_mode=True)
            labels = confident_labels(
                model,
                training.splits.val,
                candidates,
                options.pseudo_confidence,
                options.batch_size,
            )
            labels.write(teacher / TAKEN)
        rounds.append(labels)
        log.info(
            "round %d: pseudo-labels for %d of %s, %d nonviolent and %d violent (confidence %g)",
            *(number, len(labels.indices), count_of(len(clips), "unlabeled clip")),
            *np.bincount(labels.labels, minlength=2),
            options.pseudo_confidence,
        )
        splits = training.splits.trained_on(
            labels.added_to(labelled, candidates), training.settings
        )
        log_loss_weights(splits, training.settings)
        training = training.on(splits, **{"the pseudo-labels": labels.fingerprint()})
        trainer = new_trainer(Member(training, training.settings, directory))
    write_pseudo_labels(clips, rounds, directory / PSEUDO_LABELS)
    return training, trainer, rounds


def confident_labels(
    teacher: keras.Model,
    validation: ClipFeatures,
    candidates: ClipFeatures,
    confidence: float,
    batch_size: int,
) -> PseudoLabels:
    """Return the candidates whose calibrated probability of either class is high enough.

    The temperature is fitted on the validation clips: without it, a classifier is more confident
    than it is right.

    Args:
        teacher: from `(clips, frames, features)` to `(clips, 1)` probabilities of violence.
        validation: labelled clips.
        candidates: unlabeled clips.
        confidence: the least probability, from 0.5 to 1.
        batch_size: clips per forward pass.
    """
    raw = violence_probabilities(teacher, validation, batch_size)
    temperature = fit_temperature(validation.labels, raw)
    candidates_raw = violence_probabilities(teacher, candidates, batch_size)
    probabilities = calibrate(candidates_raw, temperature)
    confident = np.maximum(probabilities, 1 - probabilities) >= confidence
    indices = np.flatnonzero(confident)
    return PseudoLabels(probabilities, indices, (probabilities[indices] >= 0.5).astype(np.int64))


def write_pseudo_labels(clips: Sequence[Clip], rounds: Sequence[PseudoLabels], path: Path) -> None:
    """Write `clip,round,probability,taken_as`, a row per clip and round.

    Raises:
        RunError: the file cannot be written.
    """
    rows = []
    for number, labels in enumerate(rounds, start=1):
        taken = dict(zip(labels.indices.tolist(), labels.labels.tolist(), strict=True))
        for index, clip in enumerate(clips):
            name = CLASS_NAMES[taken[index]] if index in taken else ""
            rows.append((clip.name, number, f"{labels.probabilities[index]:.6f}", name))
    write_csv(path, ("clip", "round", "probability", "taken_as"), rows)
