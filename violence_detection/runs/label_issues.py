"""`label_issues.csv`: clips ranked by how little out-of-fold predictions support their labels."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.evaluation.label_issues import rank_labels
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import write_csv

log = logging.getLogger(__name__)

COLUMNS = ("rank", "clip", "group", "label", "predicted", "probability", "quality", "suspect")
YES, NO = "yes", "no"


def write_label_issues(
    clips: Sequence[Clip], probabilities: np.ndarray, thresholds: float | np.ndarray, path: Path
) -> None:
    """Write a row per clip, the most suspect label first; log how many are suspect.

    Args:
        clips: each predicted by a classifier that was not trained on it.
        probabilities: `(clips,)`, of violence, calibrated.
        thresholds: one, or `(clips,)`: a clip of at least this probability is predicted violent.
        path: of the CSV file.

    Raises:
        RunError: the file cannot be written.
    """
    labels = np.array([clip.label for clip in clips])
    predicted = (probabilities >= thresholds).astype(int)
    ranked = rank_labels(labels, probabilities)
    # A threshold other than 0.5 may agree with a label that the probability contradicts.
    suspect = ranked.suspect & (predicted != labels)
    order = ranked.order[np.argsort(~suspect[ranked.order], kind="stable")]
    rows = [
        (
            *(rank, clips[index].name, clips[index].group or ""),
            *(CLASS_NAMES[labels[index]], CLASS_NAMES[predicted[index]]),
            *(f"{probabilities[index]:.6f}", f"{ranked.quality[index]:.6f}"),
            YES if suspect[index] else NO,
        )
        for rank, index in enumerate(order.tolist(), start=1)
    ]
    write_csv(path, COLUMNS, rows)
    suspects = count_of(int(suspect.sum()), "suspect label")
    log.info("%s in %s: %s", suspects, count_of(len(clips), "clip"), path)
