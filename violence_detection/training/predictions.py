"""A trained classifier's predictions: probabilities of violence, attention."""

import keras
import numpy as np

from violence_detection.training.batches import (
    ClipFeatures,
    evaluation_batches,
    read_errors,
    steps_per_epoch,
)


def violence_probabilities(model: keras.Model, clips: ClipFeatures, batch_size: int) -> np.ndarray:
    """Return `(clips,)` float32 probabilities of violence, in the order of the clips.

    Args:
        model: from `(clips, frames, features)` to `(clips, 1)` probabilities.
        clips: what to predict.
        batch_size: clips per forward pass.

    Raises:
        RunError: a row of features cannot be read.
    """
    batches = evaluation_batches(clips, batch_size).map(lambda features, *_: features)
    steps = steps_per_epoch(len(clips), batch_size)
    with read_errors([clips]):
        probabilities = model.predict(batches, steps=steps, verbose=0)
    return probabilities[: len(clips), 0].astype(np.float32)


def violence_and_attention(
    model: keras.Model, clips: ClipFeatures, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return `(clips,)` probabilities and `(clips, frames)` attention, both float32, in one pass.

    Args:
        model: a classifier or an ensemble, as `with_attention` returns it.
        clips: what to predict.
        batch_size: clips per forward pass.

    Raises:
        RunError: a row of features cannot be read.
    """
    batches = evaluation_batches(clips, batch_size).map(lambda features, *_: features)
    steps = steps_per_epoch(len(clips), batch_size)
    with read_errors([clips]):
        predicted = model.predict(batches, steps=steps, verbose=0)
    probabilities, attention = predicted["violence"][:, 0], predicted["attention"]
    return (
        probabilities[: len(clips)].astype(np.float32),
        attention[: len(clips)].astype(np.float32),
    )
