"""The detector as one network, for runtimes that know nothing of this program.

Everything is inside, in float32: VGG19 with its preprocessing if it begins at images, what the
classifier does with features, the temperature. Only plain operations are used, and no loops, so
that it converts to other formats as it is.
"""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers, ops

from violence_detection.models.classifier import (
    STANDARDIZED,
    STANDARDIZING,
    OneProductLSTM,
    average_of,
    with_attention,
)
from violence_detection.settings.schema import FRAME_SIZE

# In the names of the operations that are to stay in float32 whatever the others are rounded to:
# features span five orders of magnitude until their logarithms are taken.
EXACT = "in_float32"
LEAST = 1e-7  # of a probability and of what it lacks to 1, as in `operating_point.calibrate`
FEATURES = "features"  # the input, where that is no images
PROBABILITY, ATTENTION = "probability", "attention"  # the outputs


def float32_copy(classifier: keras.Model) -> keras.Model:
    """Return the same classifier, computing in float32 where it was trained in fewer bits."""
    return _copy(classifier, lambda layer: type(layer))


def detector_network(classifier: keras.Model, temperature: float) -> keras.Model:
    """Return the classifier in float32 with its temperature, for any number of clips.

    Returns:
        A model from `features`, `(clips, frames, values)` float32, to `probability`, `(clips,)`
        calibrated, and `attention`, `(clips, frames)`; of an ensemble the means of its members.
    """
    features = keras.Input(classifier.input.shape[1:], dtype="float32", name=FEATURES)
    logits, attentions = [], []
    for number, member in enumerate(_members(classifier) or [classifier], start=1):
        standardizing, judging = _in_two_parts(_plain_copy(member), number)
        logit, attention = judging(standardizing(features))
        logits.append(logit)
        attentions.append(attention)
    attention = attentions[0] if len(attentions) == 1 else ops.mean(ops.stack(attentions), axis=0)
    probability = _calibration(len(logits), temperature)(logits)
    outputs = {PROBABILITY: probability, ATTENTION: attention}
    return keras.Model(features, outputs, name="detector")


def end_to_end_network(
    detector: keras.Model,
    vgg19: keras.Model,
    streams: Sequence[str],
    frames: int,
    feature_dtype: str,
) -> keras.Model:
    """Return a network that begins at the images of a clip's streams.

    Args:
        detector: as `detector_network` returns it.
        vgg19: as `model_architecture.vgg19` makes it, in float32, with its weights.
        streams: the order of their features.
        frames: per clip.
        feature_dtype: that features are rounded to, as in the cache.

    Returns:
        A model from an input per stream, of its name, `(clips, frames, 224, 224, 3)` uint8, to
        what `detector` returns.
    """
    shape = (frames, FRAME_SIZE, FRAME_SIZE, 3)
    images = {name: keras.Input(shape, dtype="uint8", name=name) for name in streams}
    convolutions, pooling = _vgg19_in_two_parts(vgg19)
    preprocessed = [_preprocessing(name)(images[name]) for name in streams]
    # One pass for all streams: the weights are in the network once.
    together = preprocessed[0] if len(streams) == 1 else ops.concatenate(preprocessed, axis=0)
    features = pooling(convolutions(together))
    features = _by_clip(len(streams), frames, features.shape[-1], feature_dtype)(features)
    # VGG19 is nearly all of it. To tell the ranges of the rest, a few clips are not enough.
    exact = keras.Model(detector.input, detector.output, name=f"{EXACT}_detector")
    return keras.Model(images, exact(features), name="end_to_end")


def _members(classifier: keras.Model) -> list[keras.Model]:
    """Return the members of an ensemble; none of a single classifier."""
    return [layer for layer in classifier.layers if isinstance(layer, keras.Model)]


def _copy(
    classifier: keras.Model, kind_of: Callable[[keras.Layer], type[keras.Layer]]
) -> keras.Model:
    """Return a copy in float32 with the same weights, each layer of the kind that is asked for."""
    if members := _members(classifier):
        return average_of([_copy(member, kind_of) for member in members])

    def in_float32(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.Layer):  # a bare operation has no number format
            return type(layer).from_config(config)
        return kind_of(layer).from_config(config | {"dtype": "float32"})

    copy = keras.models.clone_model(classifier, clone_function=in_float32)
    copy.set_weights(classifier.get_weights())
    for name in STANDARDIZING:
        copy.get_layer(name).finalize_state()  # it computes with what it took from its weights
    return copy


def _plain_copy(classifier: keras.Model) -> keras.Model:
    """Return a copy without loops and without what it would take from outside its graph."""
    kinds = {layers.LSTM: OneProductLSTM, layers.Embedding: _AllPlaces}
    copy = _copy(classifier, lambda layer: kinds.get(type(layer), type(layer)))
    for name in STANDARDIZING:
        layer = copy.get_layer(name)
        # A tensor would be handed in from outside; a number is part of the graph.
        layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    return copy


class _AllPlaces(layers.Embedding):
    """What is learned of each place in time, as it is: all clips have the same places.

    Looking the places up takes a cumulative sum of integers, which TensorRT does not have.
    """

    def call(self, places: keras.KerasTensor) -> keras.KerasTensor:
        """Return `(1, frames, units)`, which is added to every clip."""
        return ops.expand_dims(self.embeddings, 0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int, ...]:
        """Return the shape of what `call` returns."""
        return (1, self.input_dim, self.output_dim)


def _in_two_parts(classifier: keras.Model, number: int) -> tuple[keras.Model, keras.Model]:
    """Return one up to the standardized features, and one from there to logit and attention."""
    standardized = [classifier.get_layer(name).output for name in STANDARDIZED]
    attention = with_attention(classifier).output["attention"]
    outputs = [classifier.get_layer("logit").output, attention]
    return (
        keras.Model(classifier.input, standardized, name=f"{EXACT}_standardizing_{number}"),
        keras.Model(standardized, outputs, name=f"judging_{number}"),
    )


def _calibration(members: int, temperature: float) -> keras.Model:
    """Return a model from `(clips, 1)` logits, a list of them, to `(clips,)` probabilities."""
    inputs = [keras.Input((1,), name=f"logit_{number}") for number in range(1, members + 1)]
    if members == 1:
        logit = inputs[0]
    else:  # of the mean of their probabilities; both sides, since 1 - p rounds to 0 before p does
        violent, other = (
            ops.mean(ops.stack([ops.sigmoid(sign * logit) for logit in inputs]), axis=0)
            for sign in (1.0, -1.0)
        )
        logit = ops.log(ops.maximum(violent, LEAST)) - ops.log(ops.maximum(other, LEAST))
    most = math.log((1 - LEAST) / LEAST)
    probability = ops.sigmoid(ops.clip(logit, -most, most) / temperature)
    return keras.Model(inputs, ops.reshape(probability, (-1,)), name=f"{EXACT}_calibration")


def _preprocessing(stream: str) -> keras.Model:
    """Return a model from `(clips, frames, 224, 224, 3)` uint8 to `(images, 224, 224, 3)`."""
    images = keras.Input((None, FRAME_SIZE, FRAME_SIZE, 3), dtype="uint8")
    x = ops.cast(images, "float32")  # first: TensorRT does nothing else with 8 bits
    x = ops.reshape(x, (-1, FRAME_SIZE, FRAME_SIZE, 3))
    # As `preprocess_input` does it, which takes the channels apart and does not convert to ONNX.
    blue_green_red = ops.take(x, [2, 1, 0], axis=-1)
    black = keras.applications.vgg19.preprocess_input(np.zeros((1, 1, 1, 3), np.float32))
    x = blue_green_red + black
    return keras.Model(images, x, name=f"{EXACT}_preprocessing_{stream}")


def _vgg19_in_two_parts(vgg19: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return VGG19 without its preprocessing, and what makes features of its last layer."""
    first, last = vgg19.layers[1], vgg19.layers[-1]
    body = keras.Model(first.input, last.output, name="vgg19")
    x = map_or_values = keras.Input(last.output.shape[1:])
    if len(x.shape) == 4:
        x = ops.mean(x, axis=(1, 2))
    return body, keras.Model(map_or_values, x, name=f"{EXACT}_pooling")


def _by_clip(streams: int, frames: int, values: int, dtype: str) -> keras.Model:
    """Return a model that rounds features and puts those of a clip's streams one after the other.

    It maps `(streams * clips * frames, values)` to `(clips, frames, streams * values)`.
    """
    features = keras.Input((values,))
    x = ops.cast(features, dtype)
    # In between: converters take two casts in a row for nothing, and leave them out.
    x = ops.reshape(x, (streams, -1, frames, values))
    x = ops.cast(x, "float32")
    x = ops.concatenate([x[stream] for stream in range(streams)], axis=-1)
    return keras.Model(features, x, name=f"{EXACT}_rounding")
