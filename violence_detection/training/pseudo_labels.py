"""Clips without labels, learned from by what a classifier is sure of (Lee, ICML workshop 2013)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.evaluation.calibration import calibrate, fit_temperature
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import read_json, write_csv, write_json
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.predictions import violence_probabilities


@dataclass(frozen=True)
class PseudoLabels:
    """What one round has taken."""

    probabilities: np.ndarray  # (unlabeled clips,) float64, calibrated
    places: np.ndarray  # of the clips that are taken
    labels: np.ndarray  # (taken,) int64

    def added_to(self, labelled: ClipFeatures, candidates: ClipFeatures) -> ClipFeatures:
        """Return the labelled clips and behind them those that are taken."""
        return ClipFeatures(
            labelled.stored,
            np.concatenate([labelled.rows, candidates.rows[self.places]]),
            np.concatenate([labelled.labels, self.labels]),
            frames=labelled.frames,
            streams=labelled.streams,
        )

    def fingerprint(self) -> str:
        """Return a hash of what is taken, as what."""
        digest = hashlib.blake2b(self.places.tobytes(), digest_size=16)
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Keep what is taken: a teacher that is asked again may be a little less or more sure."""
        values = (self.probabilities, self.places, self.labels)
        names = ("probabilities", "places", "labels")
        write_json(path, {n: v.tolist() for n, v in zip(names, values, strict=True)})

    def as_json(self) -> dict[str, Any]:
        """Return how many clips are taken of each class."""
        counts = np.bincount(self.labels, minlength=len(CLASS_NAMES)).tolist()
        return {"taken": dict(zip(CLASS_NAMES, counts, strict=True))}


def read_pseudo_labels(path: Path) -> PseudoLabels:
    """Return what `PseudoLabels.write` kept; raises `UserError` if it is damaged."""
    kept = read_json(path)
    places, labels = (np.array(kept[name], np.int64) for name in ("places", "labels"))
    return PseudoLabels(np.array(kept["probabilities"], np.float64), places, labels)


def take_sure_ones(
    teacher: keras.Model, validation: ClipFeatures, candidates: ClipFeatures, settings: Settings
) -> PseudoLabels:
    """Return the candidates whose calibrated probability is at least the confidence asked for.

    The temperature is fitted on the validation clips: without it, a classifier is surer than right.
    """
    judged = violence_probabilities(teacher, validation, settings.training.batch_size)
    temperature = fit_temperature(validation.labels, judged)
    raw = violence_probabilities(teacher, candidates, settings.training.batch_size)
    probabilities = calibrate(raw, temperature)
    sure = np.maximum(probabilities, 1 - probabilities) >= settings.training.pseudo_confidence
    places = np.flatnonzero(sure)
    return PseudoLabels(probabilities, places, (probabilities[places] >= 0.5).astype(np.int64))


def write_pseudo_labels(clips: Sequence[Clip], rounds: Sequence[PseudoLabels], path: Path) -> None:
    """Write `clip,round,probability,taken_as`, a row per clip and round.

    Raises:
        RunError: the file cannot be written.
    """
    rows = []
    for number, of_round in enumerate(rounds, start=1):
        taken = dict(zip(of_round.places.tolist(), of_round.labels.tolist(), strict=True))
        for place, clip in enumerate(clips):
            name = CLASS_NAMES[taken[place]] if place in taken else ""
            rows.append((clip.name, number, f"{of_round.probabilities[place]:.6f}", name))
    write_csv(path, ("clip", "round", "probability", "taken_as"), rows)
