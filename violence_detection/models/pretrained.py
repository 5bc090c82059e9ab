"""The weights of a classifier below its logit, which --pretrain learns without labels."""

from pathlib import Path

import keras
import numpy as np

from violence_detection.errors import UserError

PREFIX = "layer_"  # of their names in a file


def weights_below_logit(classifier: keras.Model) -> dict[str, keras.Variable]:
    """Return the weights of all layers but the logit, by layer and number."""
    return {
        f"{PREFIX}{layer.name}_{number}": weight
        for layer in classifier.layers
        if layer.name != "logit"
        for number, weight in enumerate(layer.weights)
    }


def load_pretrained(classifier: keras.Model, path: Path) -> None:
    """Give a new classifier pretrained weights; its logit stays as it is.

    Args:
        classifier: of the same layers as the one that was pretrained.
        path: an .npz file with the values of `weights_below_logit`.

    Raises:
        UserError: the file is of another network.
    """
    weights = weights_below_logit(classifier)
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in weights}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--pretrain {path}: not of this network ({error})") from error
    for name, weight in weights.items():
        if values[name].shape != tuple(weight.shape):
            raise UserError(
                f"--pretrain {path}: {name} is {values[name].shape}, here {tuple(weight.shape)}: "
                "give the --model and --streams that it was made with"
            )
        weight.assign(values[name])
