"""The detector as one network, for runtimes that have nothing of this package.

It contains everything, in float32: the backbone with its preprocessing if it starts from images,
the standardization of the features, the classifier, and the temperature. It uses plain operations
without loops, so that it converts to other formats as it is.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from violence_detection.export.factored import FactoredConvolution, FactoredPooling
from violence_detection.models.backbones import BODY, preprocessed
from violence_detection.models.classifier import (
    STANDARDIZED,
    STANDARDIZING,
    average_of,
    bias_of,
    fusion_of,
    layers_named,
    members_of,
    with_attention,
)
from violence_detection.models.layers import OneProductLSTM
from violence_detection.models.pooling import pooled
from violence_detection.settings.constants import FRAME_SIZE, FUSION_BOUND, PIXELS, VGG19

# A mark in the names of operations that stay in float32, whatever is quantized: features span five
# orders of magnitude until their logarithms are taken.
FLOAT32_ONLY = "in_float32"
EPSILON = 1e-7  # bounds probabilities away from 0 and 1, as `evaluation.calibration.calibrate` does
FEATURES = "features"  # the input, if it is not images
PROBABILITY, ATTENTION = "probability", "attention"  # the outputs


def input_specs(network: keras.Model, batch: int | None) -> list[tf.TensorSpec]:
    """Return the specifications of a network's inputs, for `batch` clips; None: any number."""
    return [
        tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name=tensor.name)
        for tensor in network.inputs
    ]


def as_function(network: keras.Model) -> Callable[..., dict[str, tf.Tensor]]:
    """Return a function of the inputs, in the order of `input_specs`, to the outputs by name."""
    names = [tensor.name for tensor in network.inputs]
    takes_dict = isinstance(network.input, dict)

    def predict(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        arguments = dict(zip(names, inputs, strict=True)) if takes_dict else inputs[0]
        return network(arguments, training=False)

    return predict


def float32_copy(classifier: keras.Model) -> keras.Model:
    """Return a copy with the same weights that computes in float32, whatever it was trained in."""
    return _copy(classifier, type)


def detector_network(
    classifier: keras.Model, temperature: float, only_keras: bool = False
) -> keras.Model:
    """Return the classifier in float32 with its temperature, for any number of clips.

    Args:
        classifier: a single one or an ensemble, as a run saves it.
        temperature: logits are divided by it (Guo et al., https://arxiv.org/abs/1706.04599); 1:
            probabilities are the classifier's own.
        only_keras: of Keras's own layers, so that Keras alone can load it; else without loops.

    Returns:
        A model from `features`, `(clips, frames, values)` float32, to `probability`, `(clips,)`
        calibrated, and `attention`, `(clips, frames)`; for an ensemble the means over its members.
    """
    features = keras.Input(classifier.input.shape[1:], dtype="float32", name=FEATURES)
    copy = float32_copy if only_keras else _plain_copy
    logits, attentions, weights = [], [], []
    for number, member in enumerate(members_of(classifier), start=1):
        standardize, classify = _split_at_standardization(copy(member.model), number)
        is_whole = member.part == slice(0, features.shape[-1])
        own = features if is_whole else features[:, :, member.part.start : member.part.stop]
        logit, attention = classify(standardize(own))
        logits.append(logit)
        attentions.append(attention)
        weights.append(member.weight)
    attention = _mean(attentions, weights)
    bias = bias_of(classifier)
    if bias is None:
        probability = _calibration(len(logits), temperature)(logits)
    else:
        probability = _fused(weights, bias, temperature)(logits)
    outputs = {PROBABILITY: probability, ATTENTION: attention}
    return keras.Model(features, outputs, name="detector")


class Source(NamedTuple):
    """A backbone, and what it computes of a detector's features."""

    extractor: keras.Model  # from `models.extractor.build_extractor`, in float32
    backbone: str  # its name, one of `BACKBONES`, or `PIXELS`
    streams: Sequence[str]  # that it sees
    places: Sequence[int]  # where the features of each stream are among those of all sources
    dtype: str = "float16"  # of the feature cache, to which features are rounded
    pooling: str = "mean"  # of the layer's maps, see `models.pooling.pooled`


def end_to_end_network(
    detector: keras.Model, sources: Sequence[Source], frames: int, by_casts: bool = True
) -> keras.Model:
    """Return a network that starts from the images of a clip's streams.

    Args:
        detector: from `detector_network`.
        sources: of its features.
        frames: per clip.
        by_casts: features are rounded by casts; else by sums, for a runtime that drops such casts.

    Returns:
        A model from one input per stream, with the stream's name, `(clips, frames, 224, 224, 3)`
        uint8, to the outputs of `detector`.
    """
    shape = (frames, FRAME_SIZE, FRAME_SIZE, 3)
    names = dict.fromkeys(name for source in sources for name in source.streams)
    images = {name: keras.Input(shape, dtype="uint8", name=name) for name in names}
    by_source = [
        _features_of(source, images, frames, number, by_casts)
        for number, source in enumerate(sources)
    ]
    features = by_source[0]
    if len(sources) > 1:
        found = {}
        for source, values in zip(sources, by_source, strict=True):
            width = values.shape[-1] // len(source.places)
            for number, place in enumerate(source.places):
                found[place] = values[:, :, number * width : (number + 1) * width]
        features = ops.concatenate([found[place] for place in sorted(found)], axis=-1)
    # Nearly all weights are the backbone's, and a few clips are not enough to calibrate the rest.
    head = keras.Model(detector.input, detector.output, name=f"{FLOAT32_ONLY}_detector")
    return keras.Model(images, head(features), name="end_to_end")


def _features_of(
    source: Source, images: Mapping[str, Any], frames: int, number: int, by_casts: bool
) -> keras.KerasTensor:
    """Return the features of a source, `(clips, frames, values)`, its streams concatenated."""
    suffix = f"_{number}" if number else ""
    body, to_features = _split_extractor(source.extractor, source.pooling, suffix)
    seen = [
        _preprocessing(f"{name}{suffix}", source.backbone)(images[name]) for name in source.streams
    ]
    # One pass for all streams, so that the network contains the weights once.
    stacked = seen[0] if len(seen) == 1 else ops.concatenate(seen, axis=0)
    features = to_features(body(stacked))
    if source.dtype == "float16" and not by_casts:
        features, dtype = _rounded_to_float16(features, suffix), "float32"
    else:
        dtype = source.dtype
    return _group_by_clip(len(seen), frames, features.shape[-1], dtype, suffix)(features)


def _rounded_to_float16(features: Any, suffix: str) -> Any:
    """Return features with the 11 bits of a float16 number, by sums in float32 (Veltkamp, 1968)."""
    values = keras.Input(features.shape[1:])
    larger = values * (2.0**13 + 1)
    rounded = larger - (larger - values)
    return keras.Model(values, rounded, name=f"{FLOAT32_ONLY}_bits{suffix}")(features)


def _mean(values: Sequence[Any], weights: Sequence[float]) -> Any:
    """Return the mean of tensors, weighted where the weights differ."""
    if len(values) == 1:
        return values[0]
    total = sum(weights)
    if len(set(weights)) == 1 or not total:
        return ops.mean(ops.stack(values), axis=0)
    return sum(weight / total * value for weight, value in zip(weights, values, strict=True))


def _copy(
    classifier: keras.Model, class_of: Callable[[keras.Layer], type[keras.Layer]]
) -> keras.Model:
    """Return a copy in float32 with the same weights, its layers of the classes of `class_of`."""
    members = members_of(classifier)
    if members[0].model is not classifier:
        copies = [member._replace(model=_copy(member.model, class_of)) for member in members]
        if (bias := bias_of(classifier)) is not None:
            return fusion_of(copies, bias, classifier.input.shape[-1])
        return average_of([member.model for member in copies])

    def in_float32(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.Layer):  # a bare operation has no number format
            return type(layer).from_config(config)
        return class_of(layer).from_config(config | {"dtype": "float32"})

    copy = keras.models.clone_model(classifier, clone_function=in_float32)
    copy.set_weights(classifier.get_weights())
    for layer in layers_named(copy, STANDARDIZING):
        layer.finalize_state()  # it takes mean and variance from its weights
    return copy


def _plain_copy(classifier: keras.Model) -> keras.Model:
    """Return a copy without loops, all of whose constants are part of its graph."""
    replacements = {
        layers.LSTM: OneProductLSTM,
        layers.Embedding: _PositionEmbedding,
        layers.Conv3D: FactoredConvolution,
        layers.MaxPooling3D: FactoredPooling,
    }
    copy = _copy(classifier, lambda layer: replacements.get(type(layer), type(layer)))
    _make_statistics_constants(layers_named(copy, STANDARDIZING))
    return copy


def _make_statistics_constants(normalizations: Iterable[keras.Layer]) -> None:
    """Make arrays of mean and variance: tensors would become inputs that the graph captures."""
    for layer in normalizations:
        layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


class _PositionEmbedding(layers.Embedding):
    """The embeddings of all positions in time, without the lookup: every clip has all of them.

    The lookup's positions are a cumulative sum of integers, which TensorRT does not support.
    """

    def call(self, positions: keras.KerasTensor) -> keras.KerasTensor:
        """Return `(1, frames, units)`, which is added to every clip."""
        return ops.expand_dims(self.embeddings, 0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int, ...]:
        """Return the shape of what `call` returns."""
        return (1, self.input_dim, self.output_dim)


def _split_at_standardization(
    classifier: keras.Model, number: int
) -> tuple[keras.Model, keras.Model]:
    """Return a model up to the standardized features, and one from there to logit and attention."""
    standardized = [layer.output for layer in layers_named(classifier, STANDARDIZED)]
    attention = with_attention(classifier).output["attention"]
    outputs = [classifier.get_layer("logit").output, attention]
    return (
        keras.Model(classifier.input, standardized, name=f"{FLOAT32_ONLY}_standardizing_{number}"),
        keras.Model(standardized, outputs, name=f"head_{number}"),
    )


def _fused(weights: Sequence[float], bias: float, temperature: float) -> keras.Model:
    """Return a model as `_calibration` does, for the members of `fusion_of`."""
    inputs = [keras.Input((1,), name=f"logit_{number}") for number in range(1, len(weights) + 1)]
    bound = math.log((1 - FUSION_BOUND) / FUSION_BOUND)
    logit = bias + sum(
        weight * ops.clip(own, -bound, bound) for weight, own in zip(weights, inputs, strict=True)
    )
    bound = math.log((1 - EPSILON) / EPSILON)
    probability = ops.sigmoid(ops.clip(logit, -bound, bound) / temperature)
    return keras.Model(inputs, ops.reshape(probability, (-1,)), name=f"{FLOAT32_ONLY}_calibration")


def _calibration(members: int, temperature: float) -> keras.Model:
    """Return a model from the members' `(clips, 1)` logits to `(clips,)` probabilities."""
    inputs = [keras.Input((1,), name=f"logit_{number}") for number in range(1, members + 1)]
    if members == 1:
        logit = inputs[0]
    else:
        # The logit of the members' mean probability, from both sides: 1 - p rounds to 0 before p.
        violent, nonviolent = (
            ops.mean(ops.stack([ops.sigmoid(sign * logit) for logit in inputs]), axis=0)
            for sign in (1.0, -1.0)
        )
        logit = ops.log(ops.maximum(violent, EPSILON)) - ops.log(ops.maximum(nonviolent, EPSILON))
    bound = math.log((1 - EPSILON) / EPSILON)
    probability = ops.sigmoid(ops.clip(logit, -bound, bound) / temperature)
    return keras.Model(inputs, ops.reshape(probability, (-1,)), name=f"{FLOAT32_ONLY}_calibration")


def _preprocessing(stream: str, backbone: str) -> keras.Model:
    """Return a model from `(clips, frames, 224, 224, 3)` uint8 to what a backbone takes."""
    images = keras.Input((None, FRAME_SIZE, FRAME_SIZE, 3), dtype="uint8")
    x = ops.cast(images, "float32")  # first, since TensorRT can only cast uint8
    x = ops.reshape(x, (-1, FRAME_SIZE, FRAME_SIZE, 3))
    if backbone != PIXELS:
        x = preprocessed(x, backbone)
    return keras.Model(images, x, name=f"{FLOAT32_ONLY}_preprocessing_{stream}")


def _split_extractor(
    extractor: keras.Model, pooling: str, suffix: str = ""
) -> tuple[keras.Model, keras.Model]:
    """Return a backbone without its preprocessing, and the pooling of its last layer."""
    if any(layer.name == BODY for layer in extractor.layers):
        body = extractor.get_layer(BODY)
        if suffix:  # another source has a body of this name
            body = keras.Model(body.input, body.output, name=f"{BODY}{suffix}")
    else:
        first, last = extractor.layers[1], extractor.layers[-1]
        body = keras.Model(first.input, last.output, name=f"{VGG19}{suffix}")
    _make_statistics_constants(
        layer for layer in body.layers if isinstance(layer, layers.Normalization)
    )
    x = activations = keras.Input(body.output.shape[1:])
    if len(x.shape) == 4:
        # By rows first: runtimes that add up all of a large map in one go lose digits.
        x = ops.mean(ops.mean(x, axis=1), axis=1) if pooling == "mean" else pooled(x, pooling)
    return body, keras.Model(activations, x, name=f"{FLOAT32_ONLY}_pooling{suffix}")


def _group_by_clip(
    streams: int, frames: int, values: int, dtype: str, suffix: str = ""
) -> keras.Model:
    """Return a model that rounds features to `dtype` and concatenates those of a clip's streams.

    It maps `(streams * clips * frames, values)` to `(clips, frames, streams * values)` float32.
    """
    features = keras.Input((values,))
    x = ops.cast(features, dtype)
    # Between the casts: converters remove two casts in a row.
    x = ops.reshape(x, (streams, -1, frames, values))
    x = ops.cast(x, "float32")
    x = ops.concatenate([x[stream] for stream in range(streams)], axis=-1)
    return keras.Model(features, x, name=f"{FLOAT32_ONLY}_rounding{suffix}")
