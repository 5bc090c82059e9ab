"""Exported files in their own runtimes, compared with the original in predictions and speed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from violence_detection.clips.decoders import decoder_count
from violence_detection.evaluation.calibration import calibrate
from violence_detection.export.graph import (
    ATTENTION,
    FEATURES,
    PROBABILITY,
    Source,
    float32_copy,
)
from violence_detection.export.inputs import Inputs, join
from violence_detection.export.saved_model import DEFAULT_SIGNATURE
from violence_detection.inference.detector import ClassifierOutput, Detector
from violence_detection.models.classifier import with_attention
from violence_detection.runtime.interrupts import raise_if_interrupted

FEWEST_ROUNDS, MOST_ROUNDS = 3, 50  # that are timed
SECONDS_EACH = 3.0  # of timing per predictor, if that is more than the fewest rounds


@dataclass(frozen=True)
class Predictor:
    """A network that can be run: a file in its runtime, or the original."""

    predict: Callable[[Inputs], ClassifierOutput]
    batch: int | None = None  # clips that it takes per call; None: any number


@dataclass(frozen=True)
class Comparison:
    """How the predictions on the same clips differ from the original's."""

    clips: int
    largest_difference: float  # of a probability; NaN if any probability is
    largest_attention_difference: float
    changed_predictions: int  # clips on the other side of the threshold
    accuracy: float


@dataclass(frozen=True)
class Speed:
    """How fast a predictor is."""

    latency_ms: float  # of one clip, median
    clips_per_second: float  # of a batch, median


def open_original(detector: Detector, sources: Sequence[Source] = ()) -> Predictor:
    """Return the detector's own networks in float32, the number format of exported files.

    Args:
        detector: the trained detector.
        sources: of its features in float32, to start from images; none: to start from features.
    """
    classifier = with_attention(float32_copy(detector.classifier))
    classify = tf.function(partial(classifier, training=False), autograph=False)
    extractors = [
        tf.function(partial(source.extractor, training=False), autograph=False)
        for source in sources
    ]

    def predict(clips: Inputs) -> ClassifierOutput:
        parts = {} if sources else {0: clips[FEATURES]}
        for source, extract in zip(sources, extractors, strict=True):
            for place, stream in zip(source.places, source.streams, strict=True):
                images = clips[stream]
                computed = extract(tf.constant(images.reshape(-1, *images.shape[2:]))).numpy()
                parts[place] = computed.reshape(*images.shape[:2], -1).astype(source.dtype)
        features = np.concatenate([parts[place] for place in sorted(parts)], axis=2)
        outputs = classify(tf.constant(features, tf.float32))
        probabilities = calibrate(outputs["violence"].numpy()[:, 0], detector.temperature)
        return ClassifierOutput(probabilities, outputs["attention"].numpy())

    return Predictor(predict)


def open_saved_model(folder: Path) -> Predictor:
    """Return the default signature of a SavedModel, run by TensorFlow."""
    model = tf.saved_model.load(str(folder))

    def predict(clips: Inputs) -> ClassifierOutput:
        signature = model.signatures[DEFAULT_SIGNATURE]
        outputs = signature(**{name: tf.constant(values) for name, values in clips.items()})
        return ClassifierOutput(outputs[PROBABILITY].numpy(), outputs[ATTENTION].numpy())

    _, inputs = model.signatures[DEFAULT_SIGNATURE].structured_input_signature
    return Predictor(predict, next(iter(inputs.values())).shape[0])


def open_litert(path: Path) -> Predictor:
    """Return a .tflite file, run by the LiteRT interpreter on all cores."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=decoder_count())
    signature = interpreter.get_signature_runner(DEFAULT_SIGNATURE)
    batch = int(interpreter.get_input_details()[0]["shape"][0])

    def predict(clips: Inputs) -> ClassifierOutput:
        outputs = signature(**clips)
        return ClassifierOutput(outputs[PROBABILITY], outputs[ATTENTION])

    return Predictor(predict, batch)


def open_onnx(path: Path) -> Predictor:
    """Return an ONNX file, run by ONNX Runtime on all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = decoder_count()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = session.get_inputs()[0].shape[0]

    def predict(clips: Inputs) -> ClassifierOutput:
        return ClassifierOutput(*session.run([PROBABILITY, ATTENTION], dict(clips)))

    return Predictor(predict, batch if isinstance(batch, int) else None)


def open_keras(path: Path) -> Predictor:
    """Return a `.keras` file, run by Keras."""
    model = keras.models.load_model(path, safe_mode=True)
    is_one = len(model.inputs) == 1 and not isinstance(model.input, dict)
    classify = tf.function(partial(model, training=False), autograph=False)

    def predict(clips: Inputs) -> ClassifierOutput:
        tensors = {name: tf.constant(values) for name, values in clips.items()}
        outputs = classify(next(iter(tensors.values())) if is_one else tensors)
        return ClassifierOutput(outputs[PROBABILITY].numpy(), outputs[ATTENTION].numpy())

    return Predictor(predict)


def open_openvino(path: Path) -> Predictor:
    """Return an OpenVINO model, run on all cores of the CPU, in float32 where it is."""
    import openvino

    core = openvino.Core()
    # Else it computes in bfloat16 on a CPU that has it.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": decoder_count()}
    model = core.compile_model(core.read_model(path), "CPU", options)
    batch = model.inputs[0].partial_shape[0]

    def predict(clips: Inputs) -> ClassifierOutput:
        outputs = model(dict(clips))
        return ClassifierOutput(outputs[PROBABILITY].copy(), outputs[ATTENTION].copy())

    return Predictor(predict, None if batch.is_dynamic else batch.get_length())


def predict_clips(
    predictor: Predictor, clips: Sequence[Inputs], batch_size: int
) -> ClassifierOutput:
    """Return the predictions on clips; where the batch is fixed, the last one is padded.

    Args:
        predictor: the network to run.
        clips: one clip each, at least one.
        batch_size: clips per call, if the predictor takes any number.

    Raises:
        Interrupted: the process was told to end.
    """
    size = predictor.batch or batch_size
    parts = []
    for first in range(0, len(clips), size):
        raise_if_interrupted()
        chosen = clips[first : first + size]
        outputs = predictor.predict(join(chosen, predictor.batch or len(chosen)))
        parts.append([values[: len(chosen)] for values in outputs])
    probabilities, attention = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ClassifierOutput(probabilities, attention)


def compare(
    found: ClassifierOutput, original: ClassifierOutput, labels: np.ndarray, threshold: float
) -> Comparison:
    """Return how predictions differ from the original's on the same clips.

    Args:
        found: the predictions to compare.
        original: the predictions to compare with.
        labels: `(clips,)`, 1 is violent.
        threshold: probabilities from it on count as violent.
    """
    violent = found.probabilities >= threshold
    return Comparison(
        len(labels),
        float(np.abs(found.probabilities - original.probabilities).max()),
        float(np.abs(found.attention - original.attention).max()),
        int((violent != (original.probabilities >= threshold)).sum()),
        float((violent == (labels == 1)).mean()),
    )


def measure_speeds(
    predictors: Mapping[str, Predictor], clips: Sequence[Inputs], batch_size: int
) -> dict[str, Speed]:
    """Return how fast each of the predictors is on the same clips.

    They take turns, so that other work of the machine slows all of them down alike.

    Args:
        predictors: by name.
        clips: one clip each, at least one.
        batch_size: clips per call, if a predictor takes any number.

    Raises:
        Interrupted: the process was told to end.
    """
    sizes = {name: predictor.batch or batch_size for name, predictor in predictors.items()}
    inputs = {
        name: (join(clips[:1], predictor.batch or 1), join(clips[: sizes[name]], sizes[name]))
        for name, predictor in predictors.items()
    }
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in predictors}
    rounds, number = FEWEST_ROUNDS, 0
    while number <= rounds:  # the first one warms up; the second shows how many there is time for
        started = time.perf_counter()
        for name, predictor in predictors.items():
            raise_if_interrupted()
            for measured, batch in zip(seconds[name], inputs[name], strict=True):
                began = time.perf_counter()
                predictor.predict(batch)
                measured.append(time.perf_counter() - began)
        if number == 1:
            affordable = SECONDS_EACH * len(predictors) / (time.perf_counter() - started)
            rounds = int(np.clip(affordable, FEWEST_ROUNDS, MOST_ROUNDS))
        number += 1
    return {
        name: Speed(
            1000 * float(np.median(one_clip[1:])),
            sizes[name] / float(np.median(batch[1:])),
        )
        for name, (one_clip, batch) in seconds.items()
    }
