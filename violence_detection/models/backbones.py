"""Image networks of keras.applications in the place of VGG19."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from violence_detection.errors import RunError, UserError
from violence_detection.models.pooling import pooled
from violence_detection.models.vgg19_weights import RANDOM_WEIGHTS_SEED
from violence_detection.settings.constants import BACKBONES, FRAME_SIZE, LAST_LAYER, VGG19

BODY = "backbone"  # the network without resizing, preprocessing and pooling
# The module of keras.applications with a network's `preprocess_input`, by how its name begins.
MODULES = {
    "ConvNeXt": "convnext",
    "DenseNet": "densenet",
    "EfficientNetV2": "efficientnet_v2",
    "EfficientNetB": "efficientnet",
    "InceptionResNetV2": "inception_resnet_v2",
    "InceptionV3": "inception_v3",
    "MobileNetV3": "mobilenet_v3",
    "MobileNetV2": "mobilenet_v2",
    "MobileNet": "mobilenet",
    "NASNet": "nasnet",
    "VGG16": "vgg16",
    VGG19: "vgg19",
    "Xception": "xception",
}
POLICIES = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}  # weights stay in float32


class Preprocessing(NamedTuple):
    """What becomes of a pixel, red, green, blue, 0 to 255: `pixel[order] * scale + offset`."""

    order: list[int]
    scale: np.ndarray  # (3,) float32
    offset: np.ndarray  # (3,) float32


def backbone(
    name: str,
    layer: str,
    dtype: str = "float32",
    pooling: str | None = "mean",
    weights: str | None = None,
) -> keras.Model:
    """Build a network up to a layer, with its resizing and preprocessing.

    Args:
        name: one of `BACKBONES`, VGG19 excepted.
        layer: one of its layers, or `LAST_LAYER`: the last map before its classifier.
        dtype: of the computation.
        pooling: see `models.pooling.pooled`; None: return the maps.
        weights: "imagenet", "random", or the path of a file that Keras's `load_weights` reads, of
            the whole network without its classifier; None: as Keras initializes them.

    Returns:
        A model from `(frames, 224, 224, 3)` uint8 RGB to `(frames, features)` float32; without
        pooling, to `(frames, height, width, channels)`.

    Raises:
        UserError: the network has no such layer, or its output is no map and no vector; the file
            is of another network.
        RunError: the weights cannot be downloaded.
    """
    with _policy(POLICIES.get(dtype, dtype)):
        whole = _whole_network(name, weights)
        body = _with_depthwise_convolutions(
            keras.Model(whole.input, _output_of(layer, whole, name), name=BODY)
        )
    frames = keras.Input((FRAME_SIZE, FRAME_SIZE, 3), dtype="uint8", name="frames")
    x = _keras_preprocessing(name)(_resized(ops.cast(frames, "float32"), name))
    x = ops.cast(body(x), "float32")
    if pooling is not None and len(x.shape) == 4:
        x = pooled(x, pooling)
    model = keras.Model(frames, x, name=name)
    if weights == "random":
        _set_random_weights(model)
    return model


def preprocessed(images: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Return `(n, 224, 224, 3)` float32 RGB as a network takes it, by operations of any runtime.

    Keras's own preprocessing splits the channels, which does not convert to ONNX.
    """
    images = _resized(images, name)
    known = preprocessing(name)
    if known.order != [0, 1, 2]:
        images = ops.take(images, known.order, axis=-1)
    if (known.scale != 1).any():
        images = images * known.scale
    return images + known.offset if known.offset.any() else images


def _resized(images: keras.KerasTensor, name: str) -> keras.KerasTensor:
    size = BACKBONES[name]
    return images if size == FRAME_SIZE else ops.image.resize(images, (size, size))


def _keras_preprocessing(name: str) -> Callable[[Any], Any]:
    module = next(module for start, module in _modules() if name.startswith(start))
    return getattr(keras.applications, module).preprocess_input


@cache
def preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of a network, found by applying Keras's own to known pixels."""
    preprocess = _keras_preprocessing(name)
    probes = np.concatenate([np.zeros((1, 3)), np.eye(3)]).astype(np.float32)
    black, *primaries = np.asarray(preprocess(probes[:, np.newaxis, np.newaxis].copy()))[:, 0, 0]
    effects = np.array(primaries) - black  # of one more of each colour, on each channel
    order = np.abs(effects).argmax(axis=0)
    return Preprocessing(order.tolist(), effects[order, [0, 1, 2]], black)


def _modules() -> Iterator[tuple[str, str]]:
    # ResNet50V2 is of another module than ResNet50.
    yield from ((f"ResNet{depth}V2", "resnet_v2") for depth in (50, 101, 152))
    yield "ResNet", "resnet"
    yield from MODULES.items()


def _whole_network(name: str, weights: str | None) -> keras.Model:
    """Return a network of keras.applications without its classifier, from preprocessed images."""
    size = BACKBONES[name]
    make = partial(
        getattr(keras.applications, name), include_top=False, input_shape=(size, size, 3)
    )
    if weights == "imagenet":
        try:
            return make(weights=weights)
        except Exception as error:
            raise RunError(
                f"--backbone-weights imagenet: cannot download those of {name} ({error}). Pass the "
                "path of a local copy instead, or random to try the program out"
            ) from error
    network = make(weights=None)
    if weights not in (None, "random"):
        try:
            with warnings.catch_warnings(action="error"):  # Keras leaves out what does not fit
                network.load_weights(weights)
        except (OSError, ValueError, KeyError, UserWarning) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(
                f"--backbone-weights {weights}: not the weights of {name} without its classifier "
                f"({reason})"
            ) from error
    return network


def _output_of(layer: str, network: keras.Model, name: str) -> keras.KerasTensor:
    """Return the output of a layer of a network."""
    known = [each.name for each in network.layers]
    if layer not in (LAST_LAYER, *known):
        raise UserError(
            f"--feature-layer {layer}: {name} has no such layer; the last ones are "
            f"{', '.join(known[-5:])}, or {LAST_LAYER}"
        )
    output = network.output if layer == LAST_LAYER else network.get_layer(layer).output
    if len(output.shape) not in (2, 4):
        shape = " x ".join(map(str, output.shape[1:]))
        raise UserError(
            f"--feature-layer {layer}: its output is {shape}, neither maps nor a vector"
        )
    return output


@contextlib.contextmanager
def _policy(policy: str) -> Iterator[None]:
    """Build layers in a number format; keras.applications takes no argument for it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@cache
def backbone_features(name: str, layer: str, pooling: str) -> int:
    """Return the number of values per frame; the network is built to find out."""
    return backbone(name, layer, pooling=pooling).output.shape[-1]


def _with_depthwise_convolutions(network: keras.Model) -> keras.Model:
    """Return the network with depthwise convolutions for those in as many groups as channels.

    They compute the same. Keras runs groups by XLA on a CPU, which converts to no other format.
    """

    def is_depthwise(layer: keras.Layer) -> bool:
        return isinstance(layer, layers.Conv2D) and layer.groups == layer.filters > 1

    def plain(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if not is_depthwise(layer):
            return type(layer).from_config(config)
        kept = ("name", "kernel_size", "strides", "padding", "activation", "use_bias", "dtype")
        return layers.DepthwiseConv2D(**{name: config[name] for name in kept})

    if not any(map(is_depthwise, network.layers)):
        return network
    copy = keras.models.clone_model(network, clone_function=plain)
    for layer in network.layers:
        if weights := layer.get_weights():
            if is_depthwise(layer):
                weights[0] = weights[0].swapaxes(2, 3)
            copy.get_layer(layer.name).set_weights(weights)
    return copy


def _set_random_weights(model: keras.Model) -> None:
    """He initialization, the same each time, with statistics of normalization that fit to it."""
    body = model.get_layer(BODY)
    for number, layer in enumerate(body.layers):
        if isinstance(layer, layers.BatchNormalization | layers.Normalization):
            continue
        random = np.random.default_rng([RANDOM_WEIGHTS_SEED, number])
        by_channel = isinstance(layer, layers.DepthwiseConv2D | layers.SeparableConv2D)
        values = []
        for weight in layer.get_weights():
            if weight.ndim > 1:
                height, width, *others = weight.shape if weight.ndim == 4 else (1, *weight.shape)
                inputs = 1 if by_channel and others[-1] == 1 else np.prod(others[:-1])
                deviation = np.float32(np.sqrt(2 / (height * width * inputs)))
                weight = random.standard_normal(weight.shape, np.float32) * deviation
            values.append(weight)
        layer.set_weights(values)
    _fit_normalization(model, body)


def _fit_normalization(model: keras.Model, body: keras.Model) -> None:
    """Set the statistics of each batch normalization to those of noise.

    Else the activations of a deep network without trained statistics grow beyond 16 bits.
    """
    noise = np.random.default_rng(RANDOM_WEIGHTS_SEED).integers(
        0, 256, (8, FRAME_SIZE, FRAME_SIZE, 3), np.uint8
    )
    changed = {
        layers.BatchNormalization: {"momentum": 0.0},
        layers.Dropout: {"rate": 0.0},
    }
    before = [
        (layer, name, getattr(layer, name), value)
        for layer in body.layers
        for kind, values in changed.items()
        if isinstance(layer, kind)
        for name, value in values.items()
    ]
    for layer, name, _, value in before:
        setattr(layer, name, value)
    model(noise, training=True)
    for layer, name, value, _ in before:
        setattr(layer, name, value)
