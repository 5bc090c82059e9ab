"""VGG19 up to a layer, as a feature extractor. Keras only, on any backend."""

import h5py
import keras
import numpy as np
from keras import layers, ops

from violence_detection.errors import RunError
from violence_detection.models.pooling import pooled
from violence_detection.models.vgg19_weights import (
    FILTERS,
    IMAGENET_URL,
    RANDOM_WEIGHTS_SEED,
    imagenet_file,
    layers_with_weights,
    weight_names,
)
from violence_detection.settings.constants import FRAME_SIZE, VGG19_LAYERS

CLIPS_PER_REPLICA = 4  # 64 frames per batch: more would only need more memory


def vgg19(feature_layer: str, dtype: str = "float32", pooling: str | None = "mean") -> keras.Model:
    """Build VGG19 up to `feature_layer`, without the layers above.

    The ImageNet preprocessing (BGR, minus channel means) is part of the model, so that frames are
    copied to the device as uint8. Paper: Simonyan and Zisserman, https://arxiv.org/abs/1409.1556.

    Args:
        feature_layer: a name from `VGG19_LAYERS`.
        dtype: of the weights and the computation.
        pooling: see `pooled`; dense layers have no maps to pool. None: return the maps.

    Returns:
        A model from `(frames, 224, 224, 3)` uint8 RGB to `(frames, features)` float32.
    """
    frames = keras.Input((FRAME_SIZE, FRAME_SIZE, 3), dtype="uint8", name="frames")
    # In float32: the means have fractions that 8 bits of bfloat16 would round away.
    x = keras.applications.vgg19.preprocess_input(ops.cast(frames, "float32"))
    x = ops.cast(x, dtype)
    for name in VGG19_LAYERS[: VGG19_LAYERS.index(feature_layer) + 1]:
        x = vgg19_layer(name, dtype)(x)
    x = ops.cast(x, "float32")
    if pooling is not None and len(x.shape) == 4:
        x = pooled(x, pooling)
    return keras.Model(frames, x, name="vgg19")


def vgg19_layer(name: str, dtype: str) -> keras.Layer:
    """Return a layer of VGG19, with Keras's own initial weights.

    Args:
        name: from `VGG19_LAYERS`.
        dtype: Keras dtype policy.
    """
    if name == "flatten":
        return layers.Flatten(name=name, dtype=dtype)
    if name in ("fc1", "fc2"):
        return layers.Dense(4096, activation="relu", name=name, dtype=dtype)
    if name == "predictions":
        return layers.Dense(1000, activation="softmax", name=name, dtype=dtype)
    if name.endswith("_pool"):
        return layers.MaxPooling2D(2, name=name, dtype=dtype)
    return layers.Conv2D(
        FILTERS[int(name[len("block")]) - 1],
        kernel_size=3,
        padding="same",
        activation="relu",
        name=name,
        dtype=dtype,
    )


def load_vgg19_weights(model: keras.Model, weights: str, feature_layer: str) -> None:
    """Set the weights of a model made by `vgg19`.

    Args:
        model: with all layers up to `feature_layer`, or some of them.
        weights: "imagenet", "random" or the path of a file that `identify_weights` accepts.
        feature_layer: a name from `VGG19_LAYERS`.

    Raises:
        RunError: the weights cannot be downloaded.
    """
    if weights == "random":
        _set_random_weights(model, feature_layer)
        return
    if weights == "imagenet":
        weights = _download_imagenet(feature_layer)
    with h5py.File(weights, "r") as file:
        for name in _with_weights_in(model, feature_layer):
            group = file[name]
            model.get_layer(name).set_weights([group[key][()] for key in weight_names(group)])


def build_extractor(
    feature_layer: str, weights: str, dtype: str = "float32", pooling: str | None = "mean"
) -> keras.Model:
    """Return VGG19 up to `feature_layer` with its weights, as `vgg19` and `load_vgg19_weights` do.

    Args:
        feature_layer: a name from `VGG19_LAYERS`.
        weights: "imagenet", "random" or a file's path.
        dtype: of the weights and the computation.
        pooling: see `pooled`.

    Returns:
        A model from `(frames, 224, 224, 3)` uint8 RGB to `(frames, features)` float32.

    Raises:
        RunError: the weights cannot be downloaded.
    """
    model = vgg19(feature_layer, dtype, pooling)
    load_vgg19_weights(model, weights, feature_layer)
    return model


def _with_weights_in(model: keras.Model, feature_layer: str) -> list[str]:
    known = {layer.name for layer in model.layers}
    return [name for name in layers_with_weights(feature_layer) if name in known]


def _set_random_weights(model: keras.Model, feature_layer: str) -> None:
    for name in _with_weights_in(model, feature_layer):
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        random = np.random.default_rng([RANDOM_WEIGHTS_SEED, VGG19_LAYERS.index(name)])
        # He initialization: activations keep their scale from layer to layer.
        deviation = np.sqrt(2 / np.prod(kernel.shape[:-1]))
        noise = random.standard_normal(kernel.shape, dtype=np.float32) * np.float32(deviation)
        layer.set_weights([noise, np.zeros_like(bias)])


def _download_imagenet(feature_layer: str) -> str:
    name, md5 = imagenet_file(feature_layer)
    try:
        # Keras's own cache, shared with keras.applications.
        return keras.utils.get_file(
            name, IMAGENET_URL + name, cache_subdir="models", file_hash=md5, hash_algorithm="md5"
        )
    except Exception as error:
        raise RunError(
            f"--vgg19-weights imagenet: cannot download {name} ({error}). Pass the path of a local "
            "copy instead, or random to try the program out"
        ) from error
