"""A trained detector written in the formats of other runtimes, each file compared with it."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import keras

from violence_detection.errors import failing_as
from violence_detection.export.comparison_data import ComparisonData
from violence_detection.export.graph import Source, detector_network, end_to_end_network
from violence_detection.export.inputs import Inputs
from violence_detection.export.litert import write_litert
from violence_detection.export.onnx import write_onnx
from violence_detection.export.report import (
    RESULTS,
    ExportedFile,
    Original,
    with_speeds,
    write_results,
)
from violence_detection.export.runtimes import (
    Comparison,
    Predictor,
    compare,
    measure_speeds,
    open_litert,
    open_onnx,
    open_original,
    open_saved_model,
    predict_clips,
)
from violence_detection.export.saved_model import write_saved_model
from violence_detection.inference.detector import ClassifierOutput, Detector
from violence_detection.runtime.progress import running_clock
from violence_detection.storage.files import PARTIAL, replace_file

log = logging.getLogger(__name__)

SUFFIXES = {"saved_model": "", "litert": ".tflite", "onnx": ".onnx"}
OPENERS = {"saved_model": open_saved_model, "litert": open_litert, "onnx": open_onnx}
FROM_FEATURES, FROM_IMAGES = "from_features", "from_images"  # signatures of a SavedModel
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
    networks = make_networks(detector, sources)
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
            write_file(name, networks, path, options, data.calibration)
            predictors[name] = OPENERS[name](path)
            predictions = predict_clips(predictors[name], data.validation, batch_size)
            exported.append(
                _put_in_place(
                    _described(name, path, options, predictors[name], comparison(predictions)),
                    output,
                )
            )
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


def make_networks(detector: Detector, sources: Sequence[Source]) -> dict[str, keras.Model]:
    """Return the networks to write, by the signature that a SavedModel gives them.

    Args:
        detector: the trained detector.
        sources: of its features, in float32; none: networks start from features only.

    Returns:
        The default signature first; a file of another format is written from this one alone.
    """
    head = detector_network(detector.classifier, detector.temperature)
    if not sources:
        return {FROM_FEATURES: head}
    whole = end_to_end_network(head, sources, detector.frames)
    return {FROM_IMAGES: whole, FROM_FEATURES: head}


def write_file(
    name: str,
    networks: Mapping[str, keras.Model],
    path: Path,
    options: ExportOptions,
    calibration: Sequence[Inputs],
) -> None:
    """Write networks in one format.

    Args:
        name: of the format.
        networks: made by `make_networks`.
        path: the new file, of a SavedModel a folder.
        options: of the export.
        calibration: training clips that int8 ranges are measured on, one clip each.
    """
    network = next(iter(networks.values()))
    if name == "saved_model":
        write_saved_model(networks, path, options.batch)
    elif name == "litert":
        write_litert(network, path, options.quantize, options.batch or 1, calibration)
    else:
        write_onnx(network, path, options.quantize, options.batch, calibration)


def _described(
    name: str, path: Path, options: ExportOptions, predictor: Predictor, comparison: Comparison
) -> ExportedFile:
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return ExportedFile(
        *(name, options.quantize, options.end_to_end, predictor.batch),
        *(path, size, options.tolerance, comparison),
    )


def _put_in_place(item: ExportedFile, output: Path) -> ExportedFile:
    """Move a file to its final path, which says how it was made and whether it failed."""
    path = _path_in(output, item)
    if item.format == "saved_model":
        with failing_as(path):
            path.parent.mkdir(exist_ok=True)
            item.path.rename(path)
    else:
        replace_file(path, lambda partial: item.path.rename(partial))
        if item.passed:
            path.with_stem(path.stem + FAILED).unlink(missing_ok=True)
    return replace(item, path=path)


def _path_in(output: Path, item: ExportedFile) -> Path:
    failed = "" if item.passed else FAILED
    end_to_end = "_end_to_end" if item.end_to_end else ""
    if item.format == "saved_model":  # TensorFlow Serving needs numbered versions
        versions = output / f"saved_model{end_to_end}"
        taken = [int(path.name.split(".")[0]) for path in versions.glob("[0-9]*")]
        return versions / f"{max(taken, default=0) + 1}{failed}"
    quantized = "" if item.quantize == "none" else f"_{item.quantize}"
    usual = 1 if item.format == "litert" else None
    batch = "" if item.batch == usual else f"_batch{item.batch}"
    return output / f"detector{end_to_end}{quantized}{batch}{failed}{item.path.suffix}"
