"""The loss of a clip, and what each class weighs in it."""

import keras
import numpy as np
from numpy.typing import ArrayLike

from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.training import LossSettings

DEFAULT_FOCAL_ALPHA = 0.25  # Lin et al., https://arxiv.org/abs/1708.02002


def class_factors(counts: ArrayLike, loss: LossSettings) -> tuple[float, float]:
    """Return what a nonviolent and a violent clip count in the loss: class weight times alpha_t.

    Both correct for imbalance, so alpha is left out by default where class weights are used.

    Args:
        counts: `(2,)`: how often clips of each class are drawn in an epoch.
    """
    weights: tuple[float, float] = (1.0, 1.0)
    if loss.use_class_weights:
        drawn = np.asarray(counts, float)
        balanced = drawn.sum() / (len(CLASS_NAMES) * drawn)
        weights = loss.class_weights or (float(balanced[0]), float(balanced[1]))
    alpha = focal_alpha(loss)
    alphas = (1.0, 1.0) if alpha is None else (1 - alpha, alpha)
    return weights[0] * alphas[0], weights[1] * alphas[1]


def focal_alpha(loss: LossSettings) -> float | None:
    """Return the alpha that is in force; None: the classes are not told apart by it."""
    if not loss.use_focal_loss:
        return None
    if loss.focal_alpha is None and not loss.use_class_weights:
        return DEFAULT_FOCAL_ALPHA
    return loss.focal_alpha


def make_loss(loss: LossSettings) -> keras.losses.Loss:
    """Return the loss of each clip, `(clips,)`; class factors are applied as clip weights."""
    if loss.use_focal_loss:
        return keras.losses.BinaryFocalCrossentropy(
            gamma=loss.focal_gamma,
            label_smoothing=loss.label_smoothing,
            reduction=None,
        )
    return keras.losses.BinaryCrossentropy(label_smoothing=loss.label_smoothing, reduction=None)
