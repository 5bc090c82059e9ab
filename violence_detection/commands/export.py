"""Export a trained detector to the formats of other runtimes."""

import argparse
import contextlib
import importlib.util
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from violence_detection.commands.flags import (
    add_checkpoint_dir,
    add_clip_timeout,
    add_debug,
    add_folder_or_url,
    add_verify,
    add_vgg19_weights,
    check_values,
    examples_and_exit_status,
)
from violence_detection.commands.loading import describe_backbones, load
from violence_detection.errors import RunError, UserError
from violence_detection.models import random_weights_warning
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.settings.constants import VGG19
from violence_detection.settings.parser import FlagParser
from violence_detection.settings.setting import ABOVE_0, AT_LEAST_1
from violence_detection.settings.values import finite

if TYPE_CHECKING:
    from violence_detection.inference.detector import Detector

log = logging.getLogger(__name__)

FORMATS = ("saved_model", "litert", "onnx", "keras", "openvino")
QUANTIZATIONS = {  # and the formats that support them
    "none": FORMATS,
    "float16": ("litert", "onnx", "openvino"),
    "dynamic": ("litert", "onnx"),
    "int8": ("litert", "onnx", "openvino"),
}
PACKAGES = {  # modules that each format needs, beside what training needs
    "saved_model": (),
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "keras": (),
    "openvino": ("openvino", "onnx", "onnxruntime", "tf2onnx"),
}
REQUIREMENTS = "requirements-deploy.txt"
EXPORT, LOG = "export", "export.log"
TOLERANCE, QUANTIZED_TOLERANCE = 1e-3, 0.02  # of a probability

DESCRIPTION = """\
Export a trained detector to the formats of other runtimes. Each file is run
over the run's validation clips by its own runtime and compared with the
original detector.
"""
INPUTS_AND_OUTPUTS = """\
inputs and outputs of the files:
  features             (clips, frames, values) float32
  rgb, difference, flow
                       instead, with --end-to-end: each stream of the run,
                       (clips, frames, 224, 224, 3) uint8
  probability          (clips,) float32, calibrated
  attention            (clips, frames) float32

export.json and the files themselves say which frames of a clip these are, what
is done to pictures, and what the outputs mean: see docs/export.md.

"""
EXAMPLES = (
    "",
    "--format saved_model onnx",
    "--format litert --quantize int8",
    "--format onnx --end-to-end --batch 1",
)
STATUSES = {
    0: "every file agrees with the original",
    1: "a file differs by more than --tolerance, or something failed",
    2: "a flag or its value is wrong",
    130: "ended by Ctrl-C (143: by SIGTERM)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; None: those of this process.

    Returns:
        The exit status.
    """
    flags = make_parser().parse_args(arguments)
    if flags.debug:
        from violence_detection.runtime.logs import show_debug_log

        show_debug_log()
    return run_or_explain(lambda: export(flags), flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        usage="%(prog)s [flags]",
        description=DESCRIPTION,
        epilog=INPUTS_AND_OUTPUTS + examples_and_exit_status(EXAMPLES, STATUSES),
    )
    add_checkpoint_dir(parser)
    add_verify(parser)
    _add_file_flags(parser.add_argument_group("files"))
    _add_comparison_flags(parser.add_argument_group("comparison"))
    moved = parser.add_argument_group("what the training used")
    add_vgg19_weights(moved)
    add_folder_or_url(moved, "--cache-dir", "feature cache")
    add_folder_or_url(moved, "--dataset-path", "clips")
    moved.add_argument(
        "--spool-dir",
        type=Path,
        metavar="DIR",
        help="folder for copies of what is at a URL (default: as in training)",
    )
    add_clip_timeout(moved)
    add_debug(parser)
    return parser


def _add_file_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        metavar="FORMAT",
        help="saved_model (TensorFlow, TensorFlow Serving), litert (.tflite), onnx (ONNX Runtime, "
        "TensorRT), keras, openvino (default: all that support --quantize)",
    )
    group.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        default="none",
        help="float16: weights in 16 bits, in onnx activations too; dynamic: weights in 8 bits, "
        "in onnx those of dense layers; int8: weights and activations in 8 bits, with ranges "
        "measured on training clips; with --end-to-end, the backbone only (default: none)",
    )
    group.add_argument(
        "--end-to-end",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="start from images, with the backbone inside, instead of from features (default: off)",
    )
    group.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="fixed number of clips per call; a keras file takes any number (default: any number; "
        "litert 1)",
    )
    group.add_argument(
        "--calibrated",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put the temperature into the files, so that probabilities are those of predict.py; "
        "else they are those of best_model.keras (default: on)",
    )
    group.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder for the files and export.json (default: {EXPORT} in --checkpoint-dir)",
    )


def _add_comparison_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tolerance",
        type=finite,
        metavar="P",
        help="largest difference of a probability; a file that exceeds it gets .failed in its "
        f"name (default: {TOLERANCE:g}, quantized {QUANTIZED_TOLERANCE:g})",
    )
    group.add_argument(
        "--clips",
        type=int,
        metavar="N",
        help="number of validation clips to compare on (default: all; with --end-to-end 32)",
    )


def check_formats(flags: argparse.Namespace) -> tuple[str, ...]:
    """Return the formats to write.

    Raises:
        UserError: a format does not support the quantization, or a package is not installed.
    """
    supporting = QUANTIZATIONS[flags.quantize]
    formats = tuple(dict.fromkeys(flags.format or supporting))
    for name in formats:
        if name not in supporting:
            others = ", ".join(kind for kind in QUANTIZATIONS if name in QUANTIZATIONS[kind])
            raise UserError(
                f"--quantize {flags.quantize}: {name} supports {others} only; use --format "
                f"{' '.join(supporting)}"
            )
        for module in PACKAGES[name]:
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"--format {name} needs {module}, which is not installed: "
                    f"pip install -r {REQUIREMENTS}"
                )
    return formats


def export(flags: argparse.Namespace) -> int:
    """Write the files that the flags ask for and compare them; return the exit status.

    Raises:
        UserError: a flag's value is wrong, or flags contradict each other.
        RunError: a file differs by more than the tolerance, or a disk fails.
    """
    check_values(flags, batch=AT_LEAST_1, clips=AT_LEAST_1, tolerance=ABOVE_0, clip_timeout=ABOVE_0)
    formats = check_formats(flags)
    detector = load(
        flags.checkpoint_dir, flags.vgg19_weights, mixed_precision=False, verify=flags.verify
    )
    has_none = any(r.backbone != VGG19 or "block" in r.layer for r in detector.by_network)
    if flags.end_to_end and flags.quantize == "dynamic" and "onnx" in formats and has_none:
        raise UserError(
            "--quantize dynamic --end-to-end: onnx quantizes dense layers only, and "
            f"{describe_backbones(detector)} has none; use --format litert, or "
            "another --quantize"
        )
    output = (flags.output or detector.checkpoint_dir / EXPORT).expanduser().absolute()

    import tensorflow as tf

    from violence_detection.runtime.logs import native_messages_to, start_log

    tf.get_logger().setLevel("ERROR")
    with contextlib.ExitStack() as stack:
        take_folder(output, stack)
        start_log(output / LOG)
        if untrained := detector.untrained_backbones:
            log.warning("%s", random_weights_warning(untrained))
        with native_messages_to(output / LOG) as screen:
            return _write_and_compare(flags, formats, detector, output, screen)


def take_folder(output: Path, stack: contextlib.ExitStack) -> None:
    """Make the output folder if need be, lock it, and remove partial files of a killed export.

    Args:
        output: the folder.
        stack: releases the lock.

    Raises:
        UserError: another process uses the folder, or it cannot be written.
        RunError: its disk is full.
    """
    from violence_detection.errors import require_room
    from violence_detection.storage.files import PARTIAL
    from violence_detection.storage.locks import locked

    def refuse(holder: str) -> NoReturn:
        raise UserError(
            f"--output {output} is in use by {holder}: wait until it ends, or use another folder"
        )

    try:
        output.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(output, refuse))
    except OSError as error:
        require_room(error, output)
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error
    for path in output.glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_and_compare(
    flags: argparse.Namespace,
    formats: Sequence[str],
    detector: "Detector",
    output: Path,
    screen: TextIO,
) -> int:
    from violence_detection.export.comparison_data import MovedFolders, load_comparison_data
    from violence_detection.export.exporting import ExportOptions, export_detector
    from violence_detection.export.report import format_table
    from violence_detection.runtime.progress import running_clock

    with running_clock("reading clips to compare on", screen=screen):
        data = load_comparison_data(
            detector,
            MovedFolders(flags.dataset_path, flags.cache_dir, flags.spool_dir),
            end_to_end=flags.end_to_end,
            calibrate=flags.quantize == "int8",
            clips=flags.clips,
            clip_timeout=flags.clip_timeout,
        )
    tolerance = TOLERANCE if flags.quantize == "none" else QUANTIZED_TOLERANCE
    options = ExportOptions(
        *(formats, flags.quantize, flags.end_to_end, flags.batch),
        *(flags.tolerance or tolerance, flags.calibrated),
    )
    original, exported = export_detector(detector, data, options, output, screen)
    log.info("\n%s\n", format_table(original, exported))
    for item in exported:
        log.info("%s", item.path)
    if failed := [item.path.name for item in exported if not item.passed]:
        raise RunError(
            f"{', '.join(failed)}: probabilities differ from the original by more than "
            f"--tolerance {options.tolerance:g}; try another --quantize"
        )
    return 0
