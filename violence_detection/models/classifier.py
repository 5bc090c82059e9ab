"""The two networks: VGG19 up to a layer, which turns frames into features, and the classifier,
an attention-LSTM or another head, which turns a clip's features into the probability of violence.

Keras only, so that it runs on any of Keras's backends.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers, ops

from violence_detection.errors import RunError, UserError
from violence_detection.settings.constants import FRAME_SIZE, VGG19_LAYERS

FILTERS = (64, 128, 256, 512, 512)  # of the convolutions of each block
# The files that keras.applications.VGG19 downloads, whole and without the dense layers.
IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
IMAGENET_WHOLE = (
    "vgg19_weights_tf_dim_ordering_tf_kernels.h5",
    "cbe5617147190e668d6c5d5026f83318",
)
IMAGENET_NO_TOP = (
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "253f8cb515780f3b799900260a226db6",
)
# Layers of `classifier`: set from the training clips, and where the first weights begin.
STANDARDIZING = ("standardize", "standardize_change")
STANDARDIZED = ("standardized", "standardized_change")
ATTENTION_UNITS = 64
RANDOM_WEIGHTS_SEED = 0  # its own: another --seed is no reason to extract anew


def vgg19(feature_layer: str, dtype: str = "float32") -> keras.Model:
    """Build VGG19 up to `feature_layer`; nothing above that layer is made.

    The ImageNet preprocessing (BGR, channel means taken off) is inside, so that frames are handed
    to the device as uint8. Paper: Simonyan and Zisserman, https://arxiv.org/abs/1409.1556.

    Args:
        feature_layer: a name out of `config.VGG19_LAYERS`.
        dtype: of the weights and the computation.

    Returns:
        A model from `(frames, 224, 224, 3)` uint8 RGB to `(frames, features)` float32.
    """
    frames = keras.Input((FRAME_SIZE, FRAME_SIZE, 3), dtype="uint8", name="frames")
    # In float32: the means have fractions that 8 bits of bfloat16 would round away.
    x = keras.applications.vgg19.preprocess_input(ops.cast(frames, "float32"))
    x = ops.cast(x, dtype)
    for name in VGG19_LAYERS[: VGG19_LAYERS.index(feature_layer) + 1]:
        x = _vgg19_layer(name, dtype)(x)
    x = ops.cast(x, "float32")
    if len(x.shape) == 4:
        x = ops.mean(x, axis=(1, 2))
    return keras.Model(frames, x, name="vgg19")


def _vgg19_layer(name: str, dtype: str) -> keras.Layer:
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


def layers_with_weights(feature_layer: str) -> list[str]:
    """Return the names of the layers up to `feature_layer` that have a kernel and a bias."""
    needed = VGG19_LAYERS[: VGG19_LAYERS.index(feature_layer) + 1]
    return [name for name in needed if "conv" in name or name in ("fc1", "fc2", "predictions")]


def feature_size(feature_layer: str) -> int:
    """Return how many values a frame has at `feature_layer`."""
    if feature_layer.startswith("block"):
        return FILTERS[int(feature_layer[len("block")]) - 1]
    return {"flatten": 25088, "fc1": 4096, "fc2": 4096, "predictions": 1000}[feature_layer]


def identify_weights(weights: str, feature_layer: str) -> str:
    """Return what tells one set of VGG19 weights from another: the MD5 of their file.

    Raises:
        UserError: a file that is not HDF5 or lacks a layer that is needed.
    """
    if weights == "random":
        return f"random-{RANDOM_WEIGHTS_SEED}"
    if weights == "imagenet":  # as published: known without the file being there
        return "md5-" + _imagenet_file(feature_layer)[1]
    _check_weights_file(Path(weights), feature_layer)
    with Path(weights).open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return "md5-" + digest.hexdigest()


def load_vgg19_weights(model: keras.Model, weights: str, feature_layer: str) -> None:
    """Give `model` (made by `vgg19`) its weights: "imagenet", "random" or a file's path."""
    if weights == "random":
        _set_random_weights(model, feature_layer)
        return
    if weights == "imagenet":
        weights = _download_imagenet(feature_layer)
    with h5py.File(weights, "r") as file:
        for name in layers_with_weights(feature_layer):
            group = file[name]
            model.get_layer(name).set_weights([group[key][()] for key in _weight_names(group)])


def build_extractor(feature_layer: str, weights: str, dtype: str = "float32") -> keras.Model:
    """Return VGG19 up to `feature_layer` with its weights, as `vgg19` and `load_vgg19_weights` do.

    Args:
        feature_layer: a name out of `VGG19_LAYERS`.
        weights: "imagenet", "random" or a file's path.
        dtype: of the weights and the computation.

    Returns:
        A model from `(frames, 224, 224, 3)` uint8 RGB to `(frames, features)` float32.

    Raises:
        RunError: the weights cannot be downloaded.
    """
    model = vgg19(feature_layer, dtype)
    load_vgg19_weights(model, weights, feature_layer)
    return model


def _set_random_weights(model: keras.Model, feature_layer: str) -> None:
    for name in layers_with_weights(feature_layer):
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        random = np.random.default_rng([RANDOM_WEIGHTS_SEED, VGG19_LAYERS.index(name)])
        # He's initialization: activations keep their size from layer to layer.
        deviation = np.sqrt(2 / np.prod(kernel.shape[:-1]))
        noise = random.standard_normal(kernel.shape, dtype=np.float32) * np.float32(deviation)
        layer.set_weights([noise, np.zeros_like(bias)])


def _imagenet_file(feature_layer: str) -> tuple[str, str]:
    return IMAGENET_NO_TOP if feature_layer.startswith("block") else IMAGENET_WHOLE


def _download_imagenet(feature_layer: str) -> str:
    name, md5 = _imagenet_file(feature_layer)
    try:
        # Keras's own folder: a file that keras.applications has fetched serves here too.
        return keras.utils.get_file(
            name, IMAGENET_URL + name, cache_subdir="models", file_hash=md5, hash_algorithm="md5"
        )
    except Exception as error:
        raise RunError(
            f"--vgg19-weights imagenet: {name} could not be downloaded ({error}). Give a local "
            "copy of that file's path instead, or random to try the program out"
        ) from error


def _weight_names(group: h5py.Group) -> list[str]:
    names = group.attrs.get("weight_names", list(group))
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _check_weights_file(path: Path, feature_layer: str) -> None:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"--vgg19-weights {path}: not an HDF5 file that can be read; it must have the layout "
            "of Keras's own VGG19 files"
        ) from error
    with file:
        kernel_inputs = 3
        for name in layers_with_weights(feature_layer):
            group = file.get(name)
            if not isinstance(group, h5py.Group) or len(_weight_names(group)) != 2:
                raise UserError(
                    f"--vgg19-weights {path}: layer {name} is not in it, and --feature-layer "
                    f"{feature_layer} needs it; take a lower layer or the full file"
                )
            kernel, bias = (group[key] for key in _weight_names(group))
            expected = _kernel_shape(name, kernel_inputs)
            if kernel.shape != expected or bias.shape != expected[-1:]:
                raise UserError(
                    f"--vgg19-weights {path}: the kernel of {name} is {kernel.shape}, "
                    f"VGG19 has {expected}"
                )
            kernel_inputs = expected[-1]


def _kernel_shape(name: str, inputs: int) -> tuple[int, ...]:
    if name.startswith("block"):
        return (3, 3, inputs, feature_size(name))
    return (25088 if name == "fc1" else inputs, feature_size(name))


class _InputsFirst(keras.layers.RNN):
    """Stands before `RNN` in `OneProductLSTM`: what its LSTM falls back on without cuDNN."""

    def inner_loop(
        self, sequences: Any, initial_state: list[Any], mask: Any, training: bool = False
    ) -> tuple[Any, Any, list[Any]]:
        """Return the last output, all outputs and the last state, as `RNN.inner_loop` does."""
        cell, dtype = self.cell, self.compute_dtype
        if mask is not None or cell.dropout or cell.recurrent_dropout or self.go_backwards:
            return super().inner_loop(sequences, initial_state, mask, training)
        gates = ops.matmul(sequences, ops.cast(cell.kernel, dtype)) + ops.cast(cell.bias, dtype)
        kernel = ops.cast(cell.recurrent_kernel, dtype)
        hidden, carry = initial_state
        outputs = []
        for from_inputs in ops.unstack(gates, axis=1):
            both = from_inputs + ops.matmul(hidden, kernel)
            enter, forget, candidate, leave = ops.split(both, 4, axis=-1)
            carry = ops.sigmoid(forget) * carry + ops.sigmoid(enter) * ops.tanh(candidate)
            hidden = ops.sigmoid(leave) * ops.tanh(carry)
            outputs.append(hidden)
        return hidden, ops.stack(outputs, axis=1), [hidden, carry]


@keras.saving.register_keras_serializable("violence")
class OneProductLSTM(keras.layers.LSTM, _InputsFirst):
    """Keras's LSTM, its inputs multiplied for all time steps at once where cuDNN is not used.

    Same weights, same results. Keras multiplies step by step, in products too small for a device,
    and adds up as many gradients of the kernel. For a fixed number of steps and the default
    activations.
    """


def as_plain_keras(classifier: keras.Model) -> keras.Model:
    """Return a copy with Keras's own layers only, so that it loads without this program."""

    def plain(layer: keras.Layer) -> keras.Layer:
        kinds = (keras.layers.LSTM, keras.layers.Dropout)
        kind = next((kind for kind in kinds if isinstance(layer, kind)), type(layer))
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(classifier, clone_function=plain)
    copy.set_weights(classifier.get_weights())
    for name in STANDARDIZING:
        copy.get_layer(name).finalize_state()  # it computes with what it took from its weights
    return copy


def classifier(
    frames: int,
    features: int,
    *,
    dropout: float,
    l2: float,
    head: str = "attention-lstm",
    dtype: str = "float32",
    fused_kernel: bool = True,
    projection: int = 192,
    units: int = 192,
    dropout_layer: type[keras.layers.Dropout] = layers.Dropout,
) -> keras.Model:
    """Build the classifier: what is seen and how it changes, a head in time, attention.

    Each frame's features, and how much each of them has changed since the frame before, are
    standardized (`training.standardize_on`), projected, added and read by the head. A frame's
    attention is softmax(v . tanh(W h)), after Bahdanau et al., https://arxiv.org/abs/1409.0473,
    and the clip is the weighted sum of the head's states.

    Args:
        frames, features: the shape of a clip.
        dropout: share of the projection's and the context's values dropped in training.
        l2: penalty on all kernels but the logit's.
        head: one of `config.HEADS`.
        dtype: Keras dtype policy of the body; output and attention are float32 in any case.
        fused_kernel: let a GPU use cuDNN's LSTM, which cannot be part of an XLA program.
        projection, units: widths, of the frames' projection and of the head.
        dropout_layer: the kind that is used in training; a saved model has Keras's own.

    Returns:
        A model from `(clips, frames, features)` to `(clips, 1)` float32 probabilities of violence.
        Its layer `attention` gives `(clips, frames)` float32 weights that sum to 1.

    Example:
        >>> model = classifier(16, 4096, dropout=0.5, l2=1e-4)
        >>> model(np.zeros((2, 16, 4096), "float16")).shape
        TensorShape([2, 1])
    """
    penalty = keras.regularizers.L2(l2) if l2 else None
    inputs = keras.Input((frames, features), dtype="float32", name="features")
    # VGG19's features are never negative (but with noise on them), and a few are far larger than
    # the rest.
    logarithms = ops.log1p(ops.relu(inputs))
    # The first frame has none before it: it is compared with the second.
    before = ops.take(logarithms, [min(1, frames - 1), *range(frames - 1)], axis=1)
    change = ops.absolute(logarithms - before)
    # In float32, then rounded to what the body computes in.
    seen = layers.Normalization(axis=-1, dtype="float32", name="standardize")(logarithms)
    seen = layers.Identity(dtype=dtype, name="standardized")(seen)
    change = layers.Normalization(axis=-1, dtype="float32", name="standardize_change")(change)
    change = layers.Identity(dtype=dtype, name="standardized_change")(change)
    # Each with a kernel of its own: joining them first would copy both in every step.
    joint = keras.initializers.VarianceScaling(0.5, "fan_avg", "uniform")  # of twice the inputs
    projected = layers.Dense(
        projection,
        kernel_initializer=joint,
        kernel_regularizer=penalty,
        dtype=dtype,
        name="projection",
    )(seen)
    projected_change = layers.Dense(
        projection,
        use_bias=False,
        kernel_initializer=joint,
        kernel_regularizer=penalty,
        dtype=dtype,
        name="projection_of_change",
    )(change)
    x = layers.Add(dtype=dtype, name="seen_and_change")([projected, projected_change])
    x = layers.Activation("relu", dtype=dtype, name="projection_relu")(x)
    x = dropout_layer(dropout, dtype=dtype, name="projection_dropout")(x)
    parts = _Parts(units, dropout, penalty, dtype, fused_kernel, dropout_layer)
    states = {
        "attention-lstm": parts.lstm,
        "bidirectional": parts.bidirectional,
        "self-attention": parts.self_attention,
        "transformer": parts.transformer,
        "mean": lambda x: x,
    }[head](x)
    weights = parts.even_weights(states) if head == "mean" else parts.attention(states)
    context = layers.Dot(axes=1, dtype="float32", name="context")([weights, states])
    context = dropout_layer(dropout, dtype="float32", name="context_dropout")(context)
    logit = layers.Dense(1, dtype="float32", name="logit")(context)
    violence = layers.Activation("sigmoid", dtype="float32", name="violence")(logit)
    return keras.Model(inputs, violence, name=head.replace("-", "_"))


@dataclass(frozen=True)
class _Parts:
    """What heads are made of: each from `(clips, frames, values)` to `(clips, frames, units)`."""

    units: int
    dropout: float
    penalty: keras.Regularizer | None
    dtype: str
    fused_kernel: bool
    dropout_layer: type[keras.layers.Dropout]

    def lstm(self, x: Any, name: str = "lstm", units: int | None = None) -> Any:
        return OneProductLSTM(
            units or self.units,
            return_sequences=True,
            kernel_regularizer=self.penalty,
            recurrent_regularizer=self.penalty,
            use_cudnn="auto" if self.fused_kernel else False,
            dtype=self.dtype,
            name=name,
        )(x)

    def bidirectional(self, x: Any) -> Any:
        """Two LSTMs of half the width, one of them on the frames in reverse."""
        half = max(1, self.units // 2)
        forward = self.lstm(x, "lstm", half)
        backward = ops.flip(self.lstm(ops.flip(x, axis=1), "lstm_backward", half), axis=1)
        return layers.Concatenate(dtype=self.dtype, name="both_ways")([forward, backward])

    def self_attention(self, x: Any) -> Any:
        """Vaswani et al., https://arxiv.org/abs/1706.03762: one layer, and what came in."""
        x = self._positioned(x)
        return layers.Add(dtype=self.dtype, name="attended")([x, self._attend(x, "1")])

    def transformer(self, x: Any) -> Any:
        """Two encoder layers, normalized before each part (https://arxiv.org/abs/2002.04745)."""
        x = self._positioned(x)
        for number in ("1", "2"):
            normal = layers.LayerNormalization(dtype=self.dtype, name=f"norm_{number}")(x)
            attended = self._attend(normal, number)
            x = layers.Add(dtype=self.dtype, name=f"attended_{number}")([x, attended])
            normal = layers.LayerNormalization(dtype=self.dtype, name=f"norm_dense_{number}")(x)
            wide = self._dense(2 * self.units, f"wide_{number}", "gelu")(normal)
            wide = self.dropout_layer(self.dropout, dtype=self.dtype, name=f"drop_{number}")(wide)
            narrow = self._dense(self.units, f"narrow_{number}")(wide)
            x = layers.Add(dtype=self.dtype, name=f"encoded_{number}")([x, narrow])
        return x

    def _positioned(self, x: Any) -> Any:
        """Bring the frames to the head's width and add what is learned of each place in time."""
        x = self._dense(self.units, "to_units")(x)
        places = ops.cumsum(ops.ones_like(x[:, :, 0], dtype="int32"), axis=1) - 1
        embedding = layers.Embedding(x.shape[1], self.units, dtype=self.dtype, name="places")
        return layers.Add(dtype=self.dtype, name="in_time")([x, embedding(places)])

    def _attend(self, x: Any, number: str) -> Any:
        heads = 4 if self.units % 4 == 0 else 1
        attended = layers.MultiHeadAttention(
            heads,
            self.units // heads,
            kernel_regularizer=self.penalty,
            dtype=self.dtype,
            name=f"self_attention_{number}",
        )(x, x)
        return self.dropout_layer(self.dropout, dtype=self.dtype, name=f"attend_{number}")(attended)

    def _dense(self, units: int, name: str, activation: str | None = None) -> keras.Layer:
        return layers.Dense(
            units,
            activation=activation,
            kernel_regularizer=self.penalty,
            dtype=self.dtype,
            name=name,
        )

    def attention(self, states: Any) -> Any:
        """Return `(clips, frames)` float32 weights that sum to 1."""
        scores = self._dense(ATTENTION_UNITS, "attention_hidden", "tanh")(states)
        scores = layers.Dense(1, use_bias=False, dtype="float32", name="attention_scores")(scores)
        frames = states.shape[1]
        scores = layers.Reshape((frames,), dtype="float32", name="scores_by_frame")(scores)
        return layers.Softmax(dtype="float32", name="attention")(scores)

    def even_weights(self, states: Any) -> Any:
        """Return weights that are the same for all frames."""
        same = ops.zeros_like(states[:, :, 0], dtype="float32")
        return layers.Softmax(dtype="float32", name="attention")(same)


def average_of(classifiers: Sequence[keras.Model]) -> keras.Model:
    """Return one classifier whose probability is the mean of those of several."""
    inputs = keras.Input(classifiers[0].input.shape[1:], dtype="float32", name="features")
    members = [
        keras.Model(classifier.input, classifier.output, name=f"member_{number}")
        for number, classifier in enumerate(classifiers, start=1)
    ]
    violence = layers.Average(dtype="float32", name="violence")([m(inputs) for m in members])
    return keras.Model(inputs, violence, name="ensemble")


def with_attention(model: keras.Model) -> keras.Model:
    """Return the classifier with two outputs by name.

    `violence` is `(clips, 1)`, `attention` is `(clips, frames)`, of an ensemble the mean over its
    members; the weights are shared.
    """
    members = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if members:
        of_members = [with_attention(member)(model.input)["attention"] for member in members]
        attention = layers.Average(dtype="float32", name="attention")(of_members)
    else:
        attention = model.get_layer("attention").output
    outputs = {"violence": model.output, "attention": attention}
    return keras.Model(model.input, outputs, name=f"{model.name}_with_attention")
