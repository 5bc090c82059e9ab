"""A trained classifier's predictions: probabilities of violence, attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from violence_detection.training.bags import BagFeatures
from violence_detection.training.batches import (
    ClipFeatures,
    evaluation_batches,
    read_errors,
    steps_per_epoch,
)


@dataclass(frozen=True)
class Predicted:
    """What a classifier says of clips, or of videos in windows."""

    probabilities: np.ndarray  # (clips,) float32, of violence
    attention: np.ndarray  # (clips, frames) float32; of a video, those of its most violent window
    windows: Sequence[str] = ()  # the names of these windows; none: clips are predicted as a whole

    def followed_by(self, other: "Predicted") -> "Predicted":
        """Return what is said of these clips and, after them, of others."""
        return Predicted(
            np.concatenate([self.probabilities, other.probabilities]),
            np.concatenate([self.attention, other.attention]),
            [*self.windows, *other.windows],
        )


def violence_probabilities(model: keras.Model, clips: ClipFeatures, batch_size: int) -> np.ndarray:
    """Return `(clips,)` float32 probabilities of violence, in the order of the clips.

    Args:
        model: from `(clips, frames, features)` to `(clips, 1)` probabilities.
        clips: what to predict; of videos in windows, all windows are.
        batch_size: clips per forward pass.

    Raises:
        RunError: a row of features cannot be read.
    """
    alone = clips.predicted_alone()
    probabilities = _predict(model, alone, batch_size)
    return clips.pooled(probabilities[: len(alone), 0].astype(np.float32))


def predict_with_attention(model: keras.Model, clips: ClipFeatures, batch_size: int) -> Predicted:
    """Return probabilities and attention, in one pass.

    Args:
        model: a classifier or an ensemble, as `with_attention` returns it.
        clips: what to predict; of videos in windows, all windows are.
        batch_size: clips per forward pass.

    Raises:
        RunError: a row of features cannot be read.
    """
    alone = clips.predicted_alone()
    predicted = _predict(model, alone, batch_size)
    probabilities = predicted["violence"][: len(alone), 0].astype(np.float32)
    attention = predicted["attention"][: len(alone)].astype(np.float32)
    if not isinstance(clips, BagFeatures):
        return Predicted(probabilities, attention)
    names = [clip.name for video in clips.windows for clip in video.clips]
    strongest = clips.strongest(probabilities)
    windows = [names[index] for index in strongest]
    return Predicted(clips.pooled(probabilities), attention[strongest], windows)


def _predict(model: keras.Model, clips: ClipFeatures, batch_size: int) -> Any:
    """Return what `model.predict` does, padding included."""
    batches = evaluation_batches(clips, batch_size).map(lambda features, *_: features)
    steps = steps_per_epoch(len(clips), batch_size)
    with read_errors([clips]):
        return model.predict(batches, steps=steps, verbose=0)
