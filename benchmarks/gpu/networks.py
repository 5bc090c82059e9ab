"""VGG19, the classifier's training step and copies, in Keras alone: on whichever backend it has."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks.gpu.cells import Budget, Cell, measure_into, rate_of
from benchmarks.gpu.tables import COPIES
from violence_detection.models.classifier import classifier
from violence_detection.models.vgg19 import vgg19
from violence_detection.settings.constants import FRAME_SIZE
from violence_detection.settings.schema import Settings
from violence_detection.settings.training import LossSettings

SECONDS = 2.0  # that a cell is repeated for
COPY_BYTES = 256 * 2**20
Rates = dict[str, dict[int, Cell]]  # by row, and by the size of a batch
CUDNN, UNROLLED = "cuDNN", "unrolled"  # how the LSTM is computed
AS_IT_IS, COMPILED = "not compiled", "compiled"
VARIANTS = [(how, lstm) for how in (AS_IT_IS, COMPILED) for lstm in (CUDNN, UNROLLED)]
# Why cuDNN's LSTM cannot be in a compiled step.
CANNOT_COMPILE_CUDNN = {
    "tensorflow": "XLA cannot contain cuDNN",
    "torch": "Keras leaves cuDNN out",
}


def on_gpu() -> bool:
    """Return whether Keras computes on a GPU."""
    place = str(keras.ops.convert_to_tensor(np.zeros(1, np.float32)).device).lower()
    return "gpu" in place or "cuda" in place


def describe_backend() -> str:
    """Return Keras and its backend, with their versions."""
    import importlib

    backend = keras.backend.backend()
    version = importlib.import_module(backend).__version__
    return f"Keras {keras.__version__}, {backend} {version}"


def build_extractor(layer: str, dtype: str) -> keras.Model:
    """Return VGG19 as the program builds it, with Keras's initial weights.

    JAX is fast only when it compiles; the others compute as the program does, without XLA.

    Args:
        layer: the last one.
        dtype: of weights and computation.
    """
    network = vgg19(layer, dtype)
    network.compile(jit_compile=keras.backend.backend() == "jax")
    return network


def measure_extraction(
    rates: Rates, layer: str, dtypes: Sequence[str], batches: Sequence[int], budget: Budget
) -> None:
    """Measure frames per second of VGG19 for each dtype and number of frames in a batch.

    Frames come from the host's memory and features return to it.

    Args:
        rates: filled, by dtype.
        layer: the last one.
        dtypes: of weights and computation.
        batches: numbers of frames.
        budget: seconds.
    """
    for number, dtype in enumerate(dtypes):
        own = budget.share(1 / (len(dtypes) - number))
        network: list[keras.Model] = []  # built within the first cell: it may not fit
        rates[dtype] = {}

        def rate(batch: int, dtype: str = dtype, network: list[keras.Model] = network) -> float:
            if not network:
                network.append(build_extractor(layer, dtype))
            frames = np.zeros((batch, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
            predict = network[0].predict_on_batch  # returns when the features are on the host
            return rate_of(lambda: predict(frames), batch, SECONDS)

        for batch in batches:
            name = f"VGG19 to {layer}, {dtype}, {batch} frames: frames/s"
            measure_into(rates[dtype], batch, name, own, partial(rate, batch))
        network.clear()
        keras.backend.clear_session()


def build_classifier(frames: int, features: int, dtype: str, cudnn: bool) -> keras.Model:
    """Return the program's classifier, with its default head and widths.

    Args:
        frames, features: shape of a clip.
        dtype: Keras dtype policy.
        cudnn: leave the LSTM to cuDNN where Keras can; otherwise a loop over the frames.
    """
    settings = Settings()
    loss, model = LossSettings(), settings.model
    return classifier(
        frames,
        features,
        dropout=loss.dropout,
        l2=loss.l2,
        head=model.head,
        dtype=dtype,
        fused_kernel=cudnn,
        projection=model.projection,
        units=model.units,
    )


def training_step(
    frames: int, features: int, batch: int, dtype: str, cudnn: bool, compiled: bool
) -> Callable[[], object]:
    """Return a function that makes a training step; it returns when the loss is on the host.

    The step after it needs its weights, so that the time of several is that of whole steps. Clips
    are on the device already: copies are measured by themselves.

    Args:
        frames, features: shape of a clip.
        batch: clips.
        dtype: Keras dtype policy; mixed_float16 brings loss scaling.
        cudnn, compiled: how it is computed.
    """
    model = build_classifier(frames, features, dtype, cudnn)
    model.compile(optimizer="adam", loss="binary_crossentropy", jit_compile=compiled)
    random = np.random.default_rng(0)
    values = random.random((batch, frames, features), np.float32)
    clips = keras.ops.convert_to_tensor(values)
    labels = keras.ops.convert_to_tensor(random.integers(0, 2, (batch, 1)).astype(np.float32))
    return lambda: model.train_on_batch(clips, labels)


def measure_training(
    rates: Rates, frames: int, features: int, batches: Sequence[int], dtype: str, budget: Budget
) -> None:
    """Measure clips per second of a training step.

    Args:
        rates: filled, by variant.
        frames, features: shape of a clip.
        batches: numbers of clips.
        dtype: Keras dtype policy.
        budget: seconds.
    """
    gpu, backend = on_gpu(), keras.backend.backend()
    for number, (how, lstm) in enumerate(VARIANTS):
        own = budget.share(1 / (len(VARIANTS) - number))
        variant = f"{how}, {lstm}"
        rates[variant] = {}
        without = "" if lstm == UNROLLED or gpu else "no GPU"
        if lstm == CUDNN and how == COMPILED:
            without = without or CANNOT_COMPILE_CUDNN.get(backend, "")
        for batch in batches:
            if without:
                rates[variant][batch] = Cell(None, without)
                continue

            def rate(
                batch: int = batch, cudnn: bool = lstm == CUDNN, compiled: bool = how == COMPILED
            ) -> float:
                step = training_step(frames, features, batch, dtype, cudnn, compiled)
                return rate_of(step, batch, SECONDS)

            name = f"training, {dtype}, {variant}, {batch} clips: clips/s"
            measure_into(rates[variant], batch, name, own, rate)
            keras.backend.clear_session()


def measure_copies(cells: dict[str, Cell], budget: Budget, size: int = COPY_BYTES) -> None:
    """Measure the GB per second that are copied from the host's memory to the device."""
    pixels = np.ones(size, np.uint8)

    def copy() -> Any:
        # One value is read back: it is there when all are.
        return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(pixels)[-1:])

    name = "host to device: GB/s"
    measure_into(cells, COPIES, name, budget, lambda: rate_of(copy, size / 1e9, SECONDS / 2))
