"""A trained detector written in the formats of other runtimes, each file compared with it."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import keras

from violence_detection.errors import failing_as
from violence_detection.evaluation.calibration import calibrate
from violence_detection.export.comparison_data import ComparisonData
from violence_detection.export.graph import Source, detector_network, end_to_end_network
from violence_detection.export.inputs import Inputs
from violence_detection.export.litert import write_litert
from violence_detection.export.metadata import add_to_onnx, add_to_saved_model, add_to_zip, describe
from violence_detection.export.onnx import write_onnx
from violence_detection.export.openvino import write_openvino
from violence_detection.export.report import (
    RESULTS,
    ExportedFile,
    Original,
    with_speeds,
    write_results,
)
from violence_detection.export.runtimes import (
    Comparison,
    compare,
    measure_speeds,
    open_keras,
    open_litert,
    open_onnx,
    open_openvino,
    open_original,
    open_saved_model,
    predict_clips,
)
from violence_detection.export.saved_model import write_saved_model
from violence_detection.inference.detector import ClassifierOutput, Detector
from violence_detection.runtime.progress import running_clock
from violence_detection.storage.files import PARTIAL, replace_file

log = logging.getLogger(__name__)

SUFFIXES = {
    "saved_model": "",
    "litert": ".tflite",
    "onnx": ".onnx",
    "keras": ".keras",
    "openvino": ".xml",
}
OPENERS = {
    "saved_model": open_saved_model,
    "litert": open_litert,
    "onnx": open_onnx,
    "keras": open_keras,
    "openvino": open_openvino,
}
FROM_FEATURES, FROM_IMAGES = "from_features", "from_images"  # signatures of a SavedModel
WEIGHTS = ".bin"  # of an OpenVINO model, beside it
FAILED = ".failed"  # in the names of files that differ from the original by too much
BATCH_SIZE, BATCH_SIZE_END_TO_END = 16, 1  # clips per call, where a file takes any number


@dataclass(frozen=True)
class ExportOptions:
    """How a detector is exported."""

    formats: Sequence[str]  # keys of `SUFFIXES`
    quantize: str  # "none", "float16", "dynamic" or "int8"
    end_to_end: bool  # from images, with the backbone, instead of from features
    batch: int | None  # clips per call, fixed; None: any number, LiteRT 1
    tolerance: float  # of the largest difference of a probability
    calibrated: bool = True  # the temperature is in the file; else whoever runs it applies it


def export_detector(
    detector: Detector,
    data: ComparisonData,
    options: ExportOptions,
    output: Path,
    screen: TextIO | None = None,
) -> tuple[Original, list[ExportedFile]]:
    """Write a file of each format, and compare its predictions and its speed with the original's.

    `export.json` is written after each file, and again when speeds are known.

    Args:
        detector: the trained detector.
        data: what to compare on.
        options: what to write.
        output: an existing folder for the files.
        screen: shows for how long each file has been worked on, see `running_clock`.

    Returns:
        The original and the files, as they compare with it.

    Raises:
        RunError: a file cannot be written.
        Interrupted: a signal asked the process to end.
    """
    sources = sources_of(detector) if options.end_to_end else []
    batch_size = BATCH_SIZE_END_TO_END if options.end_to_end else BATCH_SIZE
    log.info("%s: validation clips to compare on: %d", detector.name, len(data.labels))
    with running_clock("predicting with the original", screen=screen):
        predictors = {"original": open_original(detector, sources)}
        expected = predict_clips(predictors["original"], data.validation, batch_size)

    def comparison(predictions: ClassifierOutput) -> Comparison:
        return compare(predictions, expected, data.labels, detector.threshold)

    original = Original(
        detector.model_path.stat().st_size
        + sum(4 * source.extractor.count_params() for source in sources),
        comparison(expected),
        data.trained_in,
        data.as_trained and comparison(data.as_trained),
    )
    exported = []
    for name in options.formats:
        log.info("writing %s and comparing it", name)
        with (
            running_clock(name, screen=screen),
            tempfile.TemporaryDirectory(dir=output, prefix=PARTIAL) as folder,
        ):
            path = Path(folder) / f"exported{SUFFIXES[name]}"
            metadata = write_file(name, detector, sources, path, options, data.calibration)
            predictors[name] = OPENERS[name](path)
            predictions = predict_clips(predictors[name], data.validation, batch_size)
            if not options.calibrated:
                calibrated = calibrate(predictions.probabilities, detector.temperature)
                predictions = predictions._replace(probabilities=calibrated)
            item = ExportedFile(
                *(name, options.quantize, options.end_to_end, predictors[name].batch, path),
                *(_size_of(Path(folder)), options.tolerance, comparison(predictions), metadata),
            )
            exported.append(_put_in_place(item, output))
        write_results(output / RESULTS, detector, original, exported)
    with running_clock("measuring speeds", screen=screen):
        speeds = measure_speeds(predictors, data.validation, batch_size)
    original, exported = with_speeds(original, exported, speeds)
    write_results(output / RESULTS, detector, original, exported)
    return original, exported


def sources_of(detector: Detector) -> list[Source]:
    """Return the backbones of a detector, with their weights.

    Raises:
        UserError: a backbone is a file that Keras cannot take apart.
        RunError: the weights cannot be downloaded.
    """
    return [
        Source(
            detector.make_extractor(recipe),
            recipe.backbone,
            [detector.recipes[index].stream for index in places],
            *(places, recipe.dtype, recipe.pooling),
        )
        for recipe, places in detector.by_network.items()
    ]


def make_networks(
    detector: Detector,
    sources: Sequence[Source],
    calibrated: bool = True,
    name: str = "",
) -> dict[str, keras.Model]:
    """Return the networks to write, by the signature that a SavedModel gives them.

    Args:
        detector: the trained detector.
        sources: of its features, in float32; none: networks start from features only.
        calibrated: the temperature is in the networks.
        name: of the format: "keras" needs Keras's own layers alone, and OpenVINO drops casts.

    Returns:
        The default signature first; a file of another format is written from this one alone.
    """
    temperature = detector.temperature if calibrated else 1.0
    head = detector_network(detector.classifier, temperature, only_keras=name == "keras")
    if not sources:
        return {FROM_FEATURES: head}
    whole = end_to_end_network(head, sources, detector.frames, by_casts=name != "openvino")
    return {FROM_IMAGES: whole, FROM_FEATURES: head}


def write_file(
    name: str,
    detector: Detector,
    sources: Sequence[Source],
    path: Path,
    options: ExportOptions,
    calibration: Sequence[Inputs],
) -> dict[str, Any]:
    """Write a detector in one format, and return how the file is fed.

    Args:
        name: of the format.
        detector: the trained detector.
        sources: of its features; none: the file starts from features.
        path: the new file, of a SavedModel a folder.
        options: of the export.
        calibration: training clips that int8 ranges are measured on, one clip each.

    Returns:
        The metadata that are in the file, too: see `metadata.describe`.

    Raises:
        RunError: the file cannot be written.
    """
    networks = make_networks(detector, sources, options.calibrated, name)
    network = next(iter(networks.values()))
    batch = {"litert": options.batch or 1, "keras": None}.get(name, options.batch)
    metadata = describe(detector, network, batch, options.calibrated)
    if name == "saved_model":
        write_saved_model(networks, path, batch)
        add_to_saved_model(path, metadata)
    elif name == "litert":
        write_litert(network, path, options.quantize, options.batch or 1, calibration)
        add_to_zip(path, metadata)
    elif name == "keras":
        with failing_as(path):
            network.save(path)
        add_to_zip(path, metadata)
    elif name == "openvino":
        write_openvino(network, path, options.quantize, batch, calibration, metadata)
    else:
        write_onnx(network, path, options.quantize, batch, calibration)
        add_to_onnx(path, metadata)
    return metadata


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _put_in_place(item: ExportedFile, output: Path) -> ExportedFile:
    """Move a file to its final path, which says how it was made and whether it failed."""
    path = _path_in(output, item)
    if item.format == "saved_model":
        with failing_as(path):
            path.parent.mkdir(exist_ok=True)
            item.path.rename(path)
        return replace(item, path=path)
    parts = [path]
    if item.format == "openvino":
        parts.insert(0, path.with_suffix(WEIGHTS))
        path.unlink(missing_ok=True)  # an earlier model must not be found with these weights
    for part in parts:
        written = item.path.with_suffix(part.suffix)
        replace_file(part, written.rename)
        if item.passed:
            part.with_stem(part.stem + FAILED).unlink(missing_ok=True)
    return replace(item, path=path)


def _path_in(output: Path, item: ExportedFile) -> Path:
    failed = "" if item.passed else FAILED
    kind = "_end_to_end" if item.end_to_end else ""
    kind += "" if item.metadata["calibrated"] else "_uncalibrated"
    if item.format == "saved_model":  # TensorFlow Serving needs numbered versions
        versions = output / f"saved_model{kind}"
        taken = [int(path.name.split(".")[0]) for path in versions.glob("[0-9]*")]
        return versions / f"{max(taken, default=0) + 1}{failed}"
    quantized = "" if item.quantize == "none" else f"_{item.quantize}"
    usual = 1 if item.format == "litert" else None
    batch = "" if item.batch == usual else f"_batch{item.batch}"
    return output / f"detector{kind}{quantized}{batch}{failed}{item.path.suffix}"
