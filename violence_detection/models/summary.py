"""Both networks layer by layer, and the GPU memory that they need."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from violence_detection.models import backbone_title, extractor_title
from violence_detection.models.backbones import BODY
from violence_detection.models.extractor import build_extractor, features_per_frame
from violence_detection.models.networks import build_classifier
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA
from violence_detection.runtime.devices import gpu_names
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import FRAME_SIZE, ONNX
from violence_detection.settings.kinds import kinds_of
from violence_detection.settings.schema import Settings

MEGABYTE = 2**20
ADAM_MOMENTS = 2  # float32 values of Adam's state per weight
BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class Memory:
    """Memory that one GPU needs at a time, in bytes."""

    weights: int
    optimizer: int  # gradients and moments
    activations: int
    batch: int

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return self.weights + self.optimizer + self.activations + self.batch


def describe_networks(settings: Settings) -> str:
    """Return the backbone up to the feature layer and the classifier as tables, and their memory.

    Args:
        settings: layer, streams, head and widths, batch size, replicas.
    """
    return "\n\n".join(_describe_kind(kind) for kind in kinds_of(settings))


def _describe_kind(settings: Settings) -> str:
    """Return the tables of one kind of classifier."""
    features = settings.features
    extractors, lines, values = [], [], 0
    for name, layer, weights in features.backbones:
        pooling = features.feature_pooling
        values += features_per_frame(name, layer, pooling, weights, features.frames_in_cache)
        lines.append(f"{extractor_title(name, layer)}, per frame")
        if name.endswith(ONNX):
            lines += ["  in an ONNX file, run as it is", ""]
            continue
        extractor = build_extractor(name, layer, weights=None, pooling=pooling)
        extractors.append((backbone_title(name), extractor))
        lines += [*_table(extractor), ""]
    values *= len(features.streams)
    head = build_classifier(settings, features.frames, values)
    model = settings.model
    lines += [
        f"{model.model if model.from_pixels else model.head}, per clip of "
        f"{count_of(features.frames, 'frame')} with {values} values "
        f"({', '.join(features.streams)})",
        *_table(head),
        "",
        *_budget(extractors, head, settings),
    ]
    return "\n".join(lines)


def _table(network: keras.Model) -> list[str]:
    """Return a line per layer: name, output shape, parameters."""
    rows = [
        (layer.name, _shape(layer.output), f"{layer.count_params():,}")
        for layer in _layers(network)
    ]
    rows.append(("total", "", f"{network.count_params():,}"))
    return [f"  {name:<28}{shape:<24}{count:>14}" for name, shape, count in rows]


def _layers(network: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers, those of another backbone than VGG19 in its place."""
    for layer in network.layers:
        yield from layer.layers if layer.name == BODY else [layer]


def _shape(output: Any) -> str:
    shapes = output if isinstance(output, list | tuple) else [output]
    return ", ".join(" x ".join(str(size) for size in tensor.shape[1:]) or "1" for tensor in shapes)


def _budget(
    extractors: Sequence[tuple[str, keras.Model]], head: keras.Model, settings: Settings
) -> list[str]:
    """Return the memory that each stage needs per GPU, in float32 and in float16."""
    gpus = tf.config.list_physical_devices("GPU")
    replicas = settings.devices.replicas or len(gpus) or 1
    clips = math.ceil(settings.training.batch_size / replicas)
    frames = CLIPS_PER_REPLICA * settings.features.frames
    name = backbone_title(settings.features.backbone)
    lines = [
        f"Memory per GPU, in MiB: {count_of(replicas, 'replica')}, "
        f"{name} on {count_of(frames, 'frame')}, training on {count_of(clips, 'clip')}",
        f"  {'':<20}{'weights':>10}{'optimizer':>11}{'activations':>13}{'batch':>8}{'total':>9}",
    ]
    for dtype, size in BYTES.items():
        for title, extractor in extractors:
            memory = extractor_memory(extractor, frames, size)
            lines.append(_memory_line(f"{title}, {dtype}", memory))
        lines.append(_memory_line(f"training, {dtype}", training_memory(head, clips, size)))
    lines.append("  Estimates without the framework (about 500 MiB) and convolution workspaces")
    for name, mib in _gpu_memory(gpus):
        lines.append(f"  this machine: {name}, {mib:,.0f} MiB")
    return lines


def extractor_memory(extractor: keras.Model, frames: int, size: int) -> Memory:
    """Return the memory for extraction: weights, largest adjacent activations, frames.

    Args:
        extractor: VGG19 or another backbone.
        frames: frames per forward pass.
        size: bytes per number.
    """
    layers = [math.prod(layer.output.shape[1:]) for layer in _layers(extractor)]
    neighbours = max(before + after for before, after in itertools.pairwise(layers))
    return Memory(
        weights=extractor.count_params() * size,
        optimizer=0,
        activations=frames * neighbours * size,
        batch=frames * FRAME_SIZE**2 * 3,  # uint8
    )


def training_memory(head: keras.Model, clips: int, size: int) -> Memory:
    """Return the memory for a training step: the backward pass needs all activations.

    Weights, moments and gradients are float32 in mixed precision, too.

    Args:
        head: `classifier`.
        clips: clips per batch of one replica.
        size: bytes per number of the activations.
    """
    trainable = sum(math.prod(weight.shape) for weight in head.trainable_weights)
    values = sum(_values_of(layer) for layer in head.layers)
    cached = 1 if head.input.dtype == "uint8" else 2  # bytes: pixels, or features in float16
    return Memory(
        weights=head.count_params() * 4,
        optimizer=(ADAM_MOMENTS + 1) * trainable * 4,
        activations=clips * values * size,
        batch=clips * math.prod(head.input.shape[1:]) * cached,
    )


def _values_of(layer: keras.Layer) -> int:
    output = layer.output
    tensors: Sequence[Any] = output if isinstance(output, list | tuple) else [output]
    return sum(math.prod(tensor.shape[1:]) for tensor in tensors)


def _memory_line(name: str, memory: Memory) -> str:
    columns = (memory.weights, memory.optimizer, memory.activations, memory.batch, memory.total)
    widths = (10, 11, 13, 8, 9)
    cells = (f"{c / MEGABYTE:>{w},.0f}" for c, w in zip(columns, widths, strict=True))
    return f"  {name:<20}{''.join(cells)}"


def _gpu_memory(gpus: Sequence[Any]) -> Iterator[tuple[str, float]]:
    if not gpus:
        return
    from violence_detection.runtime.hardware import hardware_source

    devices = tf.config.list_logical_devices("GPU")
    source = hardware_source(gpu_names(devices))
    try:
        for name, gib in zip(gpu_names(devices), source.memory_gib, strict=False):
            if gib is not None:
                yield name, 1024 * gib
    finally:
        source.close()
