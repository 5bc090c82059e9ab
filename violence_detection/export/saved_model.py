"""A network as a SavedModel, for TensorFlow and TensorFlow Serving."""

from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from violence_detection.errors import failing_as
from violence_detection.export.graph import as_function, input_specs

DEFAULT_SIGNATURE = "serving_default"  # the one that TensorFlow Serving uses if none is named


def write_saved_model(
    networks: Mapping[str, keras.Model], folder: Path, batch: int | None = None
) -> None:
    """Write a SavedModel with one signature per network; the first is also the default.

    Args:
        networks: by signature, functional models whose inputs and outputs have names.
        folder: must not exist.
        batch: the fixed number of clips per call; None: any number.

    Raises:
        RunError: the folder cannot be written.
    """
    module = tf.Module()
    # Keras's own export would write every weight twice.
    module.weights = [weight.value for network in networks.values() for weight in network.weights]
    functions = {
        name: tf.function(as_function(network), input_signature=input_specs(network, batch))
        for name, network in networks.items()
    }
    signatures = {DEFAULT_SIGNATURE: next(iter(functions.values())), **functions}
    with failing_as(folder):
        try:
            tf.saved_model.save(module, str(folder), signatures)
        except tf.errors.OpError as error:
            raise OSError(error.message) from error
