"""Classifiers with drawn weights, their inputs, and how their exported files are checked."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from violence_detection.export.inputs import Inputs
from violence_detection.inference.detector import ClassifierOutput
from violence_detection.models.classifier import (
    STANDARDIZING,
    Member,
    as_plain_keras,
    average_of,
    classifier,
    fusion_of,
)
from violence_detection.settings.constants import HEADS

FRAMES, VALUES = 4, 32
KINDS = (*HEADS, "ensemble", "fusion")
STREAMS = ("difference", "flow")  # of the end-to-end network


def make_classifier(
    kind: str, values: int = VALUES, dtype: str = "float32", deviation: float = 1.0
) -> keras.Model:
    """Return a classifier as a run saves it.

    Args:
        kind: one of `KINDS`.
        values: features per frame.
        dtype: of the computation.
        deviation: standard deviation of the logits of drawn features.
    """
    if kind == "ensemble":
        return average_of(
            [make_classifier(head, values, dtype) for head in ("attention-lstm", "transformer")]
        )
    if kind == "fusion":
        parts = (slice(0, 8), slice(8, values))
        members = [
            Member(make_classifier(head, part.stop - part.start, dtype), part, weight)
            for head, part, weight in zip(
                ("mean", "attention-lstm"), parts, (0.4, 1.3), strict=True
            )
        ]
        return fusion_of(members, 0.2, values)
    keras.utils.set_random_seed(HEADS.index(kind))
    model = classifier(
        FRAMES, values, dropout=0.5, l2=1e-2, head=kind, dtype=dtype, projection=24, units=24
    )
    random = np.random.default_rng(0)
    for name in STANDARDIZING:
        layer = model.get_layer(name)
        mean, variance, count = layer.get_weights()
        drawn = (random.uniform(0.2, 1, part.shape) for part in (mean, variance))
        layer.set_weights([*drawn, count])
        layer.finalize_state()
    last = model.get_layer("logit")
    logits = np.asarray(keras.Model(model.input, last.output)(draw_features(40, values)))
    factor = deviation / logits.std()
    last.set_weights([factor * last.get_weights()[0], -factor * logits.mean(axis=0)])
    return as_plain_keras(model)


def draw_features(clips: int, values: int = VALUES) -> np.ndarray:
    """Return `(clips, frames, values)` float32, distributed like VGG19's: a few are far larger."""
    random = np.random.default_rng(1)
    features = np.exp(random.normal(0, 2, (clips, FRAMES, values)))
    return (features * (random.random(features.shape) < 0.5)).astype(np.float16).astype(np.float32)


def draw_images(clips: int, streams: Sequence[str]) -> dict[str, np.ndarray]:
    """Return `(clips, frames, 224, 224, 3)` uint8 by stream."""
    random = np.random.default_rng(2)
    shape = (clips, FRAMES, 224, 224, 3)
    return {stream: random.integers(0, 256, shape, np.uint8) for stream in streams}


def split_clips(inputs: Mapping[str, np.ndarray]) -> list[Inputs]:
    """Return the inputs of each clip of a batch."""
    clips = len(next(iter(inputs.values())))
    return [{name: values[n : n + 1] for name, values in inputs.items()} for n in range(clips)]


def feature_clips(clips: int, values: int = VALUES) -> list[Inputs]:
    """Return drawn features, one clip each."""
    return split_clips({"features": draw_features(clips, values)})


def run_network(network: keras.Model, clips: Sequence[Inputs]) -> ClassifierOutput:
    """Return what a network itself computes from clips."""
    inputs = {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}
    takes_dict = isinstance(network.input, dict)
    outputs = network(inputs if takes_dict else next(iter(inputs.values())), training=False)
    return ClassifierOutput(outputs["probability"].numpy(), outputs["attention"].numpy())


def largest_difference(found: ClassifierOutput, expected: ClassifierOutput) -> float:
    """Return the largest difference of any probability or attention weight."""
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
