"""The loss of a clip, and the weight of each class."""

import keras
import numpy as np
from numpy.typing import ArrayLike

from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.training import LossSettings

DEFAULT_FOCAL_ALPHA = 0.25  # Lin et al., https://arxiv.org/abs/1708.02002


def class_factors(counts: ArrayLike, loss: LossSettings) -> tuple[float, float]:
    """Return the loss weights of nonviolent and violent clips: class weight times alpha_t.

    Both correct for imbalance, so by default alpha is not used together with class weights.

    Args:
        counts: `(2,)`: clips of each class drawn in an epoch.
        loss: class weights and focal loss.
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
    """Return the alpha of the focal loss; None: it does not weight the classes."""
    if not loss.use_focal_loss:
        return None
    if loss.focal_alpha is None and not loss.use_class_weights:
        return DEFAULT_FOCAL_ALPHA
    return loss.focal_alpha


def make_loss(loss: LossSettings) -> keras.losses.Loss:
    """Return a loss from labels and probabilities, both `(clips, 1)`, to `(clips,)` values.

    Class factors are not part of it: they are applied as weights of the clips. Focal loss: Lin et
    al., https://arxiv.org/abs/1708.02002.
    """
    if loss.use_focal_loss:
        return keras.losses.BinaryFocalCrossentropy(
            gamma=loss.focal_gamma,
            label_smoothing=loss.label_smoothing,
            reduction=None,
        )
    return keras.losses.BinaryCrossentropy(label_smoothing=loss.label_smoothing, reduction=None)
