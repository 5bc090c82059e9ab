"""Write a trained detector in the formats of other runtimes, and run each file to compare it.

python export.py --checkpoint-dir ./checkpoints --format saved_model litert onnx
python export.py --checkpoint-dir ./checkpoints --format litert --quantize int8 --end-to-end
"""

import argparse
import contextlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from violence_detection.errors import RunError, UserError
from violence_detection.models import RANDOM_WEIGHTS_WARNING
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.runtime.tensorflow_log import quiet_tensorflow
from violence_detection.settings.constants import CLIP_TIMEOUT
from violence_detection.settings.parser import FlagParser
from violence_detection.settings.schema import Settings
from violence_detection.settings.values import finite, folder_or_url

if TYPE_CHECKING:
    import keras
    import numpy as np

    from violence_detection.export.inputs import Inputs
    from violence_detection.export.report import ExportedFile
    from violence_detection.export.runtimes import Comparison, Predictor
    from violence_detection.inference.detector import ClassifierOutput, Detector

log = logging.getLogger(__name__)

FORMATS = ("saved_model", "litert", "onnx")
QUANTIZATIONS = {  # and the formats that know them
    "none": FORMATS,
    "float16": ("litert", "onnx"),
    "dynamic": ("litert", "onnx"),
    "int8": ("litert", "onnx"),
}
SUFFIXES = {"saved_model": "", "litert": ".tflite", "onnx": ".onnx"}
MODULES = {  # beside what training needs
    "saved_model": (),
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
}
REQUIREMENTS = "requirements-deploy.txt"
EXPORT, LOG = "export", "export.log"
FROM_FEATURES, FROM_IMAGES = "from_features", "from_images"  # signatures of a SavedModel
TOLERANCE, QUANTIZED_TOLERANCE = 1e-3, 0.02  # of a probability: in float32, and quantized
FAILED = ".failed"  # in the names of files that differ by more
CHECKED_END_TO_END = 32  # clips: on two cores, VGG19 takes seconds for each
CALIBRATED_ON, CALIBRATED_ON_END_TO_END = 200, 8  # training clips: ranges, not weights, are told
AT_ONCE, AT_ONCE_END_TO_END = 16, 1  # clips of a batch, where the file leaves it open


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    flags = make_parser().parse_args(arguments)

    def job() -> int:
        with contextlib.ExitStack() as held:
            return export(flags, held)

    return run_or_explain(job, flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command."""
    parser = FlagParser(
        description="Write a trained detector in the formats of other runtimes. Each file is then "
        "run by its own runtime over the run's validation clips and compared with the original.",
        epilog="A file takes features, (clips, frames, values) float32; with --end-to-end, what "
        "the streams show of a clip, an input (clips, frames, 224, 224, 3) uint8 each: rgb is the "
        "frames; difference and flow are made from them by OpenCV, which no file can hold "
        "(streams.stream_images). It gives probability, calibrated, and attention. Exit status: "
        "0; 1 if a file differs by more than --tolerance; 2 for a wrong flag.",
        allow_abbrev=False,
    )
    parser.add_checkpoint_dir()
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        metavar="FORMAT",
        help="saved_model (TensorFlow, TensorFlow Serving), litert (.tflite), onnx (ONNX Runtime, "
        "TensorRT) (default: all that know --quantize)",
    )
    parser.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        default="none",
        help="none: float32; float16: weights, in onnx activations, too; dynamic: weights in 8 "
        "bits, in onnx those of dense layers; int8: activations, too, in ranges told from training "
        "clips. saved_model knows none only; end to end, VGG19 alone is rounded (default: none)",
    )
    parser.add_argument(
        "--end-to-end",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="from images, with VGG19 inside, instead of from its features (default: off)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="clips that the file takes at once, always (default: any number; litert, which can "
        "do nothing else: 1)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"where the files and export.json go (default: {EXPORT} in --checkpoint-dir)",
    )
    comparing = parser.add_argument_group("comparing")
    comparing.add_argument(
        "--tolerance",
        type=finite,
        metavar="P",
        help="most that a probability may differ; a file that differs by more keeps "
        f"{FAILED} in its name (default: {TOLERANCE:g}, quantized {QUANTIZED_TOLERANCE:g})",
    )
    comparing.add_argument(
        "--clips",
        type=int,
        metavar="N",
        help="validation clips to compare on, evenly chosen (default: all; end to end "
        f"{CHECKED_END_TO_END})",
    )
    computing = parser.add_argument_group("where things are")
    computing.add_argument(
        "--vgg19-weights",
        metavar="NAME|FILE",
        help="imagenet, random or an .h5 file: those of the training, wherever they are now "
        "(default: where they were then)",
    )
    computing.add_argument(
        "--cache-dir",
        type=folder_or_url,
        metavar="DIR|URL",
        help="the training's cache of features (default: where it was then)",
    )
    computing.add_argument(
        "--dataset-path",
        type=folder_or_url,
        metavar="DIR|URL",
        help="the training's clips (default: where they were then)",
    )
    computing.add_argument(
        "--spool-dir",
        type=Path,
        metavar="DIR",
        help="where copies of what is at a URL are (default: where they were then)",
    )
    computing.add_argument(
        "--clip-timeout",
        type=finite,
        default=CLIP_TIMEOUT,
        metavar="SECONDS",
        help=f"that reading a clip may take (default: {CLIP_TIMEOUT:g})",
    )
    parser.add_argument(
        "--debug", action="store_true", help="show errors with their traceback (default: off)"
    )
    return parser


def check(flags: argparse.Namespace) -> tuple[str, ...]:
    """Return the formats to write.

    Raises:
        UserError: a value out of its range, a format that does not know the quantization, or a
            package that is not installed.
    """
    knowing = QUANTIZATIONS[flags.quantize]
    formats = tuple(dict.fromkeys(flags.format or knowing))
    for name in formats:
        if name not in knowing:
            others = ", ".join(kind for kind in QUANTIZATIONS if name in QUANTIZATIONS[kind])
            raise UserError(
                f"--quantize {flags.quantize}: {name} knows {others} only; give --format "
                f"{' '.join(knowing)}"
            )
    for name, value in (("--batch", flags.batch), ("--clips", flags.clips)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: must be 1 or more")
    for name, value in (("--tolerance", flags.tolerance), ("--clip-timeout", flags.clip_timeout)):
        if value is not None and not value > 0:
            raise UserError(f"{name} {value:g}: must be above 0")
    for name in formats:
        for module in MODULES[name]:
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"--format {name} needs {module}, which is not installed: "
                    f"pip install -r {REQUIREMENTS}"
                )
    return formats


def export(flags: argparse.Namespace, held: contextlib.ExitStack) -> int:
    """Write and compare the files that `flags` ask for; the output folder is let go with `held`."""
    formats = check(flags)

    # TensorFlow takes seconds to load: only now, when the rest is known to be right.
    from violence_detection.runtime.logs import native_messages_to, start_log

    quiet_tensorflow()
    with native_messages_to(Path(os.devnull)):
        import tensorflow as tf

        from violence_detection.inference.detector import load_detector

        tf.get_logger().setLevel("ERROR")
        detector = load_detector(flags.checkpoint_dir, flags.vgg19_weights, mixed_precision=False)

    layer = detector.recipes[0].layer
    if flags.end_to_end and flags.quantize == "dynamic" and "onnx" in formats and "block" in layer:
        raise UserError(
            "--quantize dynamic --end-to-end: in onnx it rounds dense layers, and VGG19 to "
            f"{layer} has none: give --format litert, or another --quantize"
        )
    output = (flags.output or detector.checkpoint_dir / EXPORT).expanduser().absolute()
    take_hold(output, held)
    start_log(output / LOG)
    if detector.untrained_vgg19:
        log.warning("%s", RANDOM_WEIGHTS_WARNING)
    with native_messages_to(output / LOG):
        return write_and_compare(flags, formats, detector, output)


def take_hold(output: Path, held: contextlib.ExitStack) -> None:
    """Make the output folder this process's own, and remove what a killed one was writing."""
    from violence_detection.errors import require_room
    from violence_detection.storage.files import PARTIAL
    from violence_detection.storage.locks import locked

    def refuse(holder: str) -> NoReturn:
        raise UserError(
            f"--output {output} is in use by {holder}: wait for its end, or name another"
        )

    try:
        output.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(output, refuse))
    except OSError as error:
        require_room(error, output)
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error
    for path in output.glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@dataclass(frozen=True)
class Data:
    """What files are compared on, and what ranges are told from; one clip each."""

    validation: "list[Inputs]"
    labels: "np.ndarray"  # of the validation clips
    trained_in: str  # number format
    as_trained: "ClassifierOutput | None"  # in `trained_in`; None: not known, or the same
    calibration: "list[Inputs]"


def write_and_compare(
    flags: argparse.Namespace, formats: Sequence[str], detector: "Detector", output: Path
) -> int:
    """Write a file of each format, compare each with the original, and say how they do."""
    from violence_detection.export.report import (
        RESULTS,
        ExportedFile,
        Original,
        format_table,
        with_speeds,
        write_results,
    )
    from violence_detection.export.runtimes import (
        compare,
        measure_speeds,
        open_original,
        predict_clips,
    )
    from violence_detection.storage.files import PARTIAL

    with contextlib.ExitStack() as held:
        data = find_data(flags, detector, held)
    vgg19 = detector.make_vgg19() if flags.end_to_end else None
    networks = make_networks(detector, vgg19)
    at_once = AT_ONCE_END_TO_END if flags.end_to_end else AT_ONCE
    log.info("%s: predicting %d validation clips", detector.name, len(data.labels))
    predictors = {"original": open_original(detector, vgg19)}
    expected = predict_clips(predictors["original"], data.validation, at_once)

    def comparison(predictions: "ClassifierOutput") -> "Comparison":
        return compare(predictions, expected, data.labels, detector.threshold)

    original = Original(
        detector.model_path.stat().st_size + (4 * vgg19.count_params() if vgg19 else 0),
        comparison(expected),
        data.trained_in,
        data.as_trained and comparison(data.as_trained),
    )
    exported = []
    for name in formats:
        log.info("writing and running %s", name)
        with tempfile.TemporaryDirectory(dir=output, prefix=PARTIAL) as folder:
            made = Path(folder) / f"made{SUFFIXES[name]}"
            write(name, networks, made, flags, data.calibration)
            predictors[name] = open_file(name, made)
            item = ExportedFile(
                name,
                flags.quantize,
                flags.end_to_end,
                predictors[name].batch,
                made,
                size_of(made),
                flags.tolerance or (TOLERANCE if flags.quantize == "none" else QUANTIZED_TOLERANCE),
                comparison(predict_clips(predictors[name], data.validation, at_once)),
            )
            exported.append(put_in_place(item, output))
        write_results(output / RESULTS, detector, original, exported)
    speeds = measure_speeds(predictors, data.validation, at_once)
    original, exported = with_speeds(original, exported, speeds)
    write_results(output / RESULTS, detector, original, exported)
    log.info("\n%s\n", format_table(original, exported))
    for item in exported:
        log.info("%s", item.path)
    if failed := [item for item in exported if not item.passed]:
        raise RunError(
            f"{', '.join(item.path.name for item in failed)}: further from the original than "
            f"--tolerance {failed[0].tolerance:g}; another --quantize is nearer"
        )
    return 0


def find_data(flags: argparse.Namespace, detector: "Detector", held: contextlib.ExitStack) -> Data:
    """Return what files are compared on, from the run's cache or its clips.

    Copies of what is at a URL are held with `held`.

    Raises:
        UserError: there is neither.
    """
    import numpy as np

    from violence_detection.export.validation_clips import Sources, cached_features, load_inputs
    from violence_detection.features.cache.local import LocalCache
    from violence_detection.runs.files import CONFIG
    from violence_detection.storage.files import read_json
    from violence_detection.storage.remote_paths import clips_folder

    config = read_json(detector.checkpoint_dir / CONFIG)
    settings = config["settings"]
    spool_dir = flags.spool_dir or Path(settings.get("spool_dir", Settings().data.spool_dir))
    cache_dir = flags.cache_dir or folder_or_url(settings["cache_dir"])
    cache = held.enter_context(LocalCache(cache_dir, spool_dir, write=False))
    dataset_path = held.enter_context(
        clips_folder(
            flags.dataset_path or folder_or_url(settings["dataset_path"]),
            spool_dir,
            settings.get("spool_size", Settings().data.spool_size),
        )
    )
    sources = Sources(cache.path, dataset_path, flags.clip_timeout)
    few = CHECKED_END_TO_END if flags.end_to_end else None
    clips, validation = load_inputs(detector, "val", flags.clips or few, sources, flags.end_to_end)
    as_trained = None
    if config["precision"] != "float32":
        cached = cached_features(detector, clips, cache.path)
        if len(cached) == len(clips):
            as_trained = detector.predict_features(np.stack([cached[clip] for clip in clips]))
    calibration: list[Inputs] = []
    if flags.quantize == "int8":
        few = CALIBRATED_ON_END_TO_END if flags.end_to_end else CALIBRATED_ON
        _, calibration = load_inputs(detector, "train", few, sources, flags.end_to_end)
    labels = np.array([clip.label for clip in clips])
    return Data(validation, labels, config["precision"], as_trained, calibration)


def make_networks(detector: "Detector", vgg19: "keras.Model | None") -> "dict[str, keras.Model]":
    """Return what is written, by its signature; the first is the file's, if it has but one."""
    from violence_detection.export.graph import detector_network, end_to_end_network

    head = detector_network(detector.classifier, detector.temperature)
    if vgg19 is None:
        return {FROM_FEATURES: head}
    dtype = detector.recipes[0].dtype
    whole = end_to_end_network(head, vgg19, detector.streams, detector.frames, dtype)
    return {FROM_IMAGES: whole, FROM_FEATURES: head}


def write(
    name: str,
    networks: "Mapping[str, keras.Model]",
    path: Path,
    flags: argparse.Namespace,
    calibration: "Sequence[Inputs]",
) -> None:
    """Write a file of a format."""
    from violence_detection.export.litert import write_litert
    from violence_detection.export.onnx import write_onnx
    from violence_detection.export.saved_model import write_saved_model

    network = next(iter(networks.values()))
    if name == "saved_model":
        write_saved_model(networks, path, flags.batch)
    elif name == "litert":
        write_litert(network, path, flags.quantize, flags.batch or 1, calibration)
    else:
        write_onnx(network, path, flags.quantize, flags.batch, calibration)


def open_file(name: str, path: Path) -> "Predictor":
    """Return a file of a format in its runtime."""
    from violence_detection.export.runtimes import open_litert, open_onnx, open_saved_model

    return {"saved_model": open_saved_model, "litert": open_litert, "onnx": open_onnx}[name](path)


def put_in_place(item: "ExportedFile", output: Path) -> "ExportedFile":
    """Move a file to where it is to be, by its name told from others, and from those that failed.

    Raises:
        RunError: it cannot be moved.
    """
    from violence_detection.errors import failing_as
    from violence_detection.storage.files import replace_file

    ending = "" if item.passed else FAILED
    end_to_end = "_end_to_end" if item.end_to_end else ""
    if item.format == "saved_model":
        versions = output / f"saved_model{end_to_end}"
        taken = [int(path.name.split(".")[0]) for path in versions.glob("[0-9]*")]
        path = versions / f"{max(taken, default=0) + 1}{ending}"
        with failing_as(path):
            versions.mkdir(exist_ok=True)
            item.path.rename(path)
    else:
        quantized = "" if item.quantize == "none" else f"_{item.quantize}"
        usual = 1 if item.format == "litert" else None
        batch = "" if item.batch == usual else f"_batch{item.batch}"
        name = f"detector{end_to_end}{quantized}{batch}"
        path = output / f"{name}{ending}{item.path.suffix}"
        replace_file(path, lambda partial: item.path.rename(partial))
        if item.passed:
            (output / f"{name}{FAILED}{item.path.suffix}").unlink(missing_ok=True)
    return replace(item, path=path)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
