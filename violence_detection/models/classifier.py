"""The classifier: from a clip's features to its probability of violence. Keras only."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from violence_detection.models.fine_tuning import upper_layers
from violence_detection.models.heads import Heads
from violence_detection.settings.constants import FUSION_BOUND

# Layers of `classifier`: adapted to the training clips; the inputs of the first weights. A network
# from pixels has the first of the latter alone.
STANDARDIZING = ("standardize", "standardize_change")
STANDARDIZED = ("standardized", "standardized_change")


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
    fine_tune: str = "none",
    streams: int = 1,
) -> keras.Model:
    """Build the classifier: frames and their changes, a head over time, attention.

    Each frame's features, and the absolute change of each since the previous frame, are
    standardized (`standardize_on` in `training.trainer`), projected, added and passed to the head.
    A frame's attention is softmax(v . tanh(W h)), after Bahdanau et al.,
    https://arxiv.org/abs/1409.0473, and the clip is the weighted sum of the head's states.

    Args:
        frames, features: shape of a clip: number of frames, and of values per frame.
        dropout: rate, 0 to 1, on the projection and the context.
        l2: weight of the L2 penalty on all kernels except the logit's.
        head: one of `HEADS`.
        dtype: Keras dtype policy of the body; output and attention are always float32.
        fused_kernel: let a GPU use cuDNN's LSTM, which cannot be part of an XLA program.
        projection, units: widths of the frames' projection and of the head.
        dropout_layer: the class used in training; a saved model has Keras's own.
        fine_tune: begin with upper layers of VGG19, see `fine_tuning.upper_layers`; or "none".
        streams: number of streams that the features are of.

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
    if fine_tune == "none":
        x = _projected(inputs, projection, penalty, dtype, STANDARDIZED)
    else:  # nothing is standardized before the first weights
        cached = layers.Identity(dtype=dtype, name=STANDARDIZED[0])(inputs)
        x = upper_layers(
            *(cached, fine_tune, streams, dtype),
            lambda name: dropout_layer(dropout, dtype=dtype, name=name),
        )
        x = _projected(x, projection, penalty, dtype, ("normalized", "normalized_change"))
    x = layers.Activation("relu", dtype=dtype, name="projection_relu")(x)
    x = dropout_layer(dropout, dtype=dtype, name="projection_dropout")(x)
    heads = Heads(units, dropout, penalty, dtype, fused_kernel, dropout_layer)
    states = {
        "attention-lstm": heads.lstm,
        "bidirectional": heads.bidirectional,
        "self-attention": heads.self_attention,
        "transformer": heads.transformer,
        "mean": lambda x: x,
    }[head](x)
    weights = heads.even_weights(states) if head == "mean" else heads.attention(states)
    context = layers.Dot(axes=1, dtype="float32", name="context")([weights, states])
    context = dropout_layer(dropout, dtype="float32", name="context_dropout")(context)
    logit = layers.Dense(1, dtype="float32", name="logit")(context)
    violence = layers.Activation("sigmoid", dtype="float32", name="violence")(logit)
    return keras.Model(inputs, violence, name=head.replace("-", "_"))


def _projected(
    inputs: Any,
    projection: int,
    penalty: keras.Regularizer | None,
    dtype: str,
    names: tuple[str, str],
) -> Any:
    """Return `(clips, frames, projection)`: frames and their changes, standardized and added."""
    frames = inputs.shape[1]
    # VGG19's features are never negative (except with added noise), and a few are far larger than
    # the rest.
    logarithms = ops.log1p(ops.relu(inputs))
    # The first frame has no predecessor: it is compared with the second.
    before = ops.take(logarithms, [min(1, frames - 1), *range(frames - 1)], axis=1)
    change = ops.absolute(logarithms - before)
    # In float32, then cast to the compute dtype of the body.
    seen = layers.Normalization(axis=-1, dtype="float32", name="standardize")(logarithms)
    seen = layers.Identity(dtype=dtype, name=names[0])(seen)
    change = layers.Normalization(axis=-1, dtype="float32", name="standardize_change")(change)
    change = layers.Identity(dtype=dtype, name=names[1])(change)
    # A kernel each: concatenating the inputs would copy both in every step.
    joint = keras.initializers.VarianceScaling(0.5, "fan_avg", "uniform")  # as for twice the inputs
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
    return layers.Add(dtype=dtype, name="seen_and_change")([projected, projected_change])


def as_plain_keras(classifier: keras.Model) -> keras.Model:
    """Return a copy with the same weights and only Keras's own layers, to load anywhere."""

    def plain(layer: keras.Layer) -> keras.Layer:
        kinds = (keras.layers.LSTM, keras.layers.Dropout)
        kind = next((kind for kind in kinds if isinstance(layer, kind)), type(layer))
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(classifier, clone_function=plain)
    copy_weights(classifier, copy)
    return copy


def copy_weights(classifier: keras.Model, plain: keras.Model) -> None:
    """Give an earlier result of `as_plain_keras` the classifier's present weights."""
    plain.set_weights(classifier.get_weights())
    for layer in layers_named(plain, STANDARDIZING):
        layer.finalize_state()  # updates what it derives from its weights


def layers_named(classifier: keras.Model, names: Sequence[str]) -> list[keras.Layer]:
    """Return those layers of a classifier that have one of the names, in their order."""
    known = {layer.name for layer in classifier.layers}
    return [classifier.get_layer(name) for name in names if name in known]


def average_of(classifiers: Sequence[keras.Model]) -> keras.Model:
    """Return an ensemble: its probability is the mean of the classifiers' probabilities."""
    of_one = classifiers[0].input
    inputs = keras.Input(of_one.shape[1:], dtype=of_one.dtype, name="features")
    members = [
        keras.Model(classifier.input, classifier.output, name=f"member_{number}")
        for number, classifier in enumerate(classifiers, start=1)
    ]
    violence = layers.Average(dtype="float32", name="violence")([m(inputs) for m in members])
    return keras.Model(inputs, violence, name="ensemble")


class Member(NamedTuple):
    """A classifier in an ensemble."""

    model: keras.Model
    part: slice  # of a frame's features: what it takes
    weight: float  # of its logit in a fusion's; of its probability in an average's


def fusion_of(members: Sequence[Member], bias: float, features: int) -> keras.Model:
    """Return an ensemble of classifiers of different kinds: the weighted sum of their logits.

    Args:
        members: each takes a part of a frame's features.
        bias: is added to the sum.
        features: per frame, of all parts.
    """
    frames = members[0].model.input.shape[1]
    inputs = keras.Input((frames, features), dtype="float32", name="features")
    row = layers.Reshape((frames, features, 1), dtype="float32", name="row")(inputs)
    weighted = []
    for number, (model, part, weight) in enumerate(members, start=1):
        own = keras.Model(model.input, model.output, name=f"member_{number}")
        cut = ((0, 0), (part.start, features - part.stop))
        taken = layers.Cropping2D(cut, dtype="float32", name=f"part_{number}")(row)
        taken = layers.Reshape((frames, part.stop - part.start), dtype="float32")(taken)
        taken = ops.cast(taken, model.input.dtype)  # of pixels bytes
        taken = layers.Identity(dtype=model.input.dtype, name=f"input_{number}")(taken)
        probability = ops.clip(own(taken), FUSION_BOUND, 1 - FUSION_BOUND)
        logit = ops.log(probability) - ops.log(1 - probability)
        weighted.append(layers.Rescaling(weight, dtype="float32", name=f"weight_{number}")(logit))
    total = layers.Add(dtype="float32", name="sum")(weighted)
    total = layers.Rescaling(1.0, bias, dtype="float32", name="bias")(total)
    violence = layers.Activation("sigmoid", dtype="float32", name="violence")(total)
    return keras.Model(inputs, violence, name="ensemble")


def bias_of(model: keras.Model) -> float | None:
    """Return the bias of a `fusion_of`; None: the model is none."""
    known = {layer.name for layer in model.layers}
    return float(model.get_layer("bias").offset) if "part_1" in known else None


def members_of(model: keras.Model) -> list[Member]:
    """Return the members of an ensemble; a single classifier is its only one."""
    models = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    features = model.input.shape[-1]
    if bias_of(model) is None:
        whole = slice(0, features)
        return [Member(each, whole, 1 / len(models or [1])) for each in models or [model]]
    found = []
    for each in models:
        number = each.name.rpartition("_")[2]
        _, (first, rest) = model.get_layer(f"part_{number}").cropping
        weight = float(model.get_layer(f"weight_{number}").scale)
        found.append(Member(each, slice(first, features - rest), weight))
    return found


def with_attention(model: keras.Model) -> keras.Model:
    """Return the classifier with two named outputs; the weights are shared.

    `violence` is `(clips, 1)` float32 and `attention` `(clips, frames)` float32; for an ensemble,
    the mean over its members, by their weights.
    """
    members = members_of(model)
    if members[0].model is model:
        attention = model.get_layer("attention").output
    elif bias_of(model) is None:
        each = [with_attention(member.model)(model.input)["attention"] for member in members]
        attention = layers.Average(dtype="float32", name="attention")(each)
    else:
        attention = layers.Add(dtype="float32", name="attention")(_weighted_attention(model))
    outputs = {"violence": model.output, "attention": attention}
    return keras.Model(model.input, outputs, name=f"{model.name}_with_attention")


def _weighted_attention(fusion: keras.Model) -> list[Any]:
    members = members_of(fusion)
    total = sum(member.weight for member in members)
    weighted = []
    for member in members:
        number = member.model.name.rpartition("_")[2]
        own = with_attention(member.model)(fusion.get_layer(f"input_{number}").output)
        share = member.weight / total if total else 1 / len(members)
        scale = layers.Rescaling(share, dtype="float32", name=f"attention_{number}")
        weighted.append(scale(own["attention"]))
    return weighted
