"""Exported files, run by their own runtimes, and how they compare with the original."""

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
from violence_detection.export.formats import DEFAULT_SIGNATURE, together
from violence_detection.export.graph import ATTENTION, FEATURES, PROBABILITY, float32_copy
from violence_detection.export.validation_clips import Inputs
from violence_detection.inference.detector import Detector
from violence_detection.models.classifier import with_attention
from violence_detection.runtime.interrupts import raise_if_interrupted

FEWEST_TURNS, MOST_TURNS = 3, 50  # of each that is timed
SECONDS_EACH = 3.0  # of timing, if that is more than the fewest turns

Judged = tuple[np.ndarray, np.ndarray]  # (clips,) probabilities, (clips, frames) attention


@dataclass(frozen=True)
class Judge:
    """Something that judges clips: a file in its runtime, or the original."""

    run: Callable[[Inputs], Judged]
    batch: int | None = None  # clips that it takes at once; None: any number


@dataclass(frozen=True)
class Agreement:
    """How what a judge says of clips differs from what the original says."""

    clips: int
    largest_difference: float  # in probability; nan if one of them is no number
    largest_attention_difference: float
    changed_verdicts: int
    accuracy: float


@dataclass(frozen=True)
class Speed:
    """How fast a judge is."""

    latency_ms: float  # of one clip, the median
    clips_per_second: float  # several at once, the median


def open_original(detector: Detector, vgg19: keras.Model | None = None) -> Judge:
    """Return the detector's own networks in float32, which is what exported files compute in.

    Args:
        vgg19: to begin at images, in float32, with its weights; None: to begin at features.
    """
    classifier = with_attention(float32_copy(detector.classifier))
    judge = tf.function(partial(classifier, training=False), autograph=False)
    extract = vgg19 and tf.function(partial(vgg19, training=False), autograph=False)

    def run(clips: Inputs) -> Judged:
        if extract:
            features = [
                extract(tf.constant(images.reshape(-1, *images.shape[2:])))
                .numpy()
                .reshape(*images.shape[:2], -1)
                .astype(detector.recipes[0].dtype)
                for images in (clips[stream] for stream in detector.streams)
            ]
        else:
            features = [clips[FEATURES]]
        judged = judge(tf.constant(np.concatenate(features, axis=2), tf.float32))
        probabilities = calibrate(judged["violence"].numpy()[:, 0], detector.temperature)
        return probabilities, judged["attention"].numpy()

    return Judge(run)


def open_saved_model(folder: Path) -> Judge:
    """Return the default signature of a SavedModel, run by TensorFlow."""
    model = tf.saved_model.load(str(folder))

    def run(clips: Inputs) -> Judged:
        signature = model.signatures[DEFAULT_SIGNATURE]
        judged = signature(**{name: tf.constant(values) for name, values in clips.items()})
        return judged[PROBABILITY].numpy(), judged[ATTENTION].numpy()

    _, inputs = model.signatures[DEFAULT_SIGNATURE].structured_input_signature
    return Judge(run, next(iter(inputs.values())).shape[0])


def open_litert(path: Path) -> Judge:
    """Return a .tflite file, run by the LiteRT interpreter on all cores."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=decoder_count())
    signature = interpreter.get_signature_runner(DEFAULT_SIGNATURE)
    batch = int(interpreter.get_input_details()[0]["shape"][0])

    def run(clips: Inputs) -> Judged:
        judged = signature(**clips)
        return judged[PROBABILITY], judged[ATTENTION]

    return Judge(run, batch)


def open_onnx(path: Path) -> Judge:
    """Return an ONNX file, run by ONNX Runtime on all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = decoder_count()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = session.get_inputs()[0].shape[0]

    def run(clips: Inputs) -> Judged:
        probabilities, attention = session.run([PROBABILITY, ATTENTION], dict(clips))
        return probabilities, attention

    return Judge(run, batch if isinstance(batch, int) else None)


def predict_clips(judge: Judge, clips: Sequence[Inputs], at_once: int) -> Judged:
    """Return what a judge says of clips; a batch that it cannot be without is padded.

    Args:
        clips: one clip each.
        at_once: clips, if the judge takes any number.
    """
    batch = judge.batch or at_once
    kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for first in range(0, len(clips), batch):
        raise_if_interrupted()
        some = clips[first : first + batch]
        judged = judge.run(together(some, judge.batch or len(some)))
        for parts, values in zip(kept, judged, strict=True):
            parts.append(values[: len(some)])
    return np.concatenate(kept[0]), np.concatenate(kept[1])


def compare(judged: Judged, original: Judged, labels: np.ndarray, threshold: float) -> Agreement:
    """Return how verdicts on the same clips agree.

    Args:
        labels: `(clips,)`, 1 is violent.
        threshold: of the probability.
    """
    (probabilities, attention), (expected, expected_attention) = judged, original
    verdicts = probabilities >= threshold
    return Agreement(
        len(labels),
        float(np.abs(probabilities - expected).max()),
        float(np.abs(attention - expected_attention).max()),
        int((verdicts != (expected >= threshold)).sum()),
        float((verdicts == (labels == 1)).mean()),
    )


def time_in_turns(
    judges: Mapping[str, Judge], clips: Sequence[Inputs], at_once: int
) -> dict[str, Speed]:
    """Return how fast each of the judges is on the same clips.

    They take turns, so that whatever else the machine does meanwhile slows all of them down.

    Args:
        clips: one clip each.
        at_once: clips, if the judge takes any number.
    """
    batches = {
        name: (
            together(clips[:1], judge.batch or 1),
            together(clips[: judge.batch or at_once], judge.batch or at_once),
        )
        for name, judge in judges.items()
    }
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in judges}
    turns, turn = FEWEST_TURNS, 0
    while turn <= turns:  # the first is to warm up, and tells how many there is time for
        started = time.perf_counter()
        for name, judge in judges.items():
            raise_if_interrupted()
            for kept, batch in zip(seconds[name], batches[name], strict=True):
                began = time.perf_counter()
                judge.run(batch)
                kept.append(time.perf_counter() - began)
        if turn == 1:
            fitting = SECONDS_EACH * len(judges) / (time.perf_counter() - started)
            turns = int(np.clip(fitting, FEWEST_TURNS, MOST_TURNS))
        turn += 1
    return {
        name: Speed(
            1000 * float(np.median(singly[1:])),
            (judges[name].batch or at_once) / float(np.median(together[1:])),
        )
        for name, (singly, together) in seconds.items()
    }
