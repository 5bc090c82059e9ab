"""The classifier that the settings ask for."""

import keras

from violence_detection.models.classifier import classifier
from violence_detection.models.video_networks import pixel_classifier
from violence_detection.settings.constants import FEATURES
from violence_detection.settings.schema import Settings


def build_classifier(
    settings: Settings,
    frames: int,
    features: int,
    dtype: str = "float32",
    dropout_layer: type[keras.layers.Dropout] = keras.layers.Dropout,
) -> keras.Model:
    """Build an untrained classifier of `--model`.

    Args:
        settings: of the model, the streams and the size of frames, dropout and L2.
        frames, features: shape of a clip: number of frames, and of values per frame.
        dtype: Keras dtype policy.
        dropout_layer: the class used in training.

    Returns:
        A model from `(clips, frames, features)` to `(clips, 1)` float32 probabilities of violence.
    """
    model, loss = settings.model, settings.loss
    if model.model == FEATURES:
        return classifier(
            frames,
            features,
            dropout=loss.dropout,
            l2=loss.l2,
            dtype=dtype,
            head=model.head,
            fused_kernel=not settings.devices.xla,
            projection=model.projection,
            units=model.units,
            dropout_layer=dropout_layer,
            fine_tune=model.fine_tune,
            streams=len(settings.features.streams),
        )
    streams, size = len(settings.features.streams), settings.features.pixels[-1]
    return pixel_classifier(
        *(model.model, frames, streams, size),
        dropout=loss.dropout,
        l2=loss.l2,
        dtype=dtype,
        dropout_layer=dropout_layer,
    )
