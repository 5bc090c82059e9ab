"""Predict with a trained detector: for clips, for windows of long videos, or for a live stream."""

import argparse
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

from violence_detection.commands.clip_arguments import find_clips
from violence_detection.commands.flags import (
    PROBABILITY,
    add_checkpoint_dir,
    add_debug,
    add_devices,
    add_threshold,
    add_verify,
    add_vgg19_weights,
    check_values,
    examples_and_exit_status,
)
from violence_detection.commands.predict_export import add_export
from violence_detection.commands.predict_files import predict_files
from violence_detection.commands.predict_live import LIVE_WINDOW, SILENCE, watch_live
from violence_detection.commands.predict_windows import predict_windows
from violence_detection.errors import UserError
from violence_detection.runs.files import EVENT_FIGURES
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.settings.constants import CLIP_TIMEOUT, LONG_CLIP
from violence_detection.settings.parser import FlagParser
from violence_detection.settings.schema import Settings
from violence_detection.settings.setting import ABOVE_0, AT_LEAST_1
from violence_detection.settings.values import finite

EXAMPLES = (
    "clips",
    "'clips/*.mp4' --csv --output predictions.csv",
    "recording.mp4 --window 2 --plot timeline.png",
    "--source rtsp://camera/stream",
)
STATUSES = {
    0: "a prediction for every clip",
    1: "something failed: a disk, a device",
    2: "a flag, a file name or its value is wrong",
    3: "some clips, or the live source, could not be read",
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

    def run() -> int:
        try:
            return predict(flags)
        except BrokenPipeError:  # the output's reader has closed it, as `head` does
            return 128 + signal.SIGPIPE

    return run_or_explain(run, flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        usage="%(prog)s [flags] CLIP|FOLDER|GLOB|URL ...\n"
        "       %(prog)s [flags] --source URL|INDEX|FILE",
        description="Predict how likely clips are to show violence, with a trained detector.",
        epilog=examples_and_exit_status(EXAMPLES, STATUSES),
    )
    parser.add_argument(
        "clips",
        nargs="*",
        metavar="CLIP|FOLDER|GLOB|URL|LIST",
        help="video files, segments of them (video.mp4#t=12,15.5), folders, patterns in quotes, "
        "or manifests (.csv, .tsv, .jsonl); files and folders may be s3://, gs:// or hdfs:// URLs",
    )
    _add_detector_flags(parser.add_argument_group("detector"))
    _add_output_flags(parser.add_argument_group("output"))
    _add_window_flags(parser.add_argument_group("long videos"))
    _add_live_flags(parser.add_argument_group("live"))
    _add_reading_flags(parser.add_argument_group("reading clips"))
    return parser


def _add_detector_flags(group: argparse._ArgumentGroup) -> None:
    add_checkpoint_dir(group)
    add_verify(group)
    add_vgg19_weights(group)
    add_threshold(group)
    add_devices(group)


def _add_output_flags(group: argparse._ArgumentGroup) -> None:
    formats = group.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="write JSON instead of a table")
    formats.add_argument("--csv", action="store_true", help="write CSV instead of a table")
    group.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write the predictions to (default: standard output)",
    )
    add_export(group)
    group.add_argument(
        "--explain",
        action="store_true",
        help="draw the frames of each clip with their attention weights, and Grad-CAM heat maps of "
        "the frames with the highest attention (default: off)",
    )
    group.add_argument(
        "--explain-dir",
        type=Path,
        default=Path("explanations"),
        metavar="DIR",
        help="folder for the pictures of --explain (default: explanations)",
    )
    group.add_argument(
        "--quiet", action="store_true", help="show no progress and no summary (default: off)"
    )
    add_debug(group)


def _add_window_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--window",
        type=finite,
        metavar="SECONDS",
        help="predict for windows of this length and report when violence happens (default: as "
        f"long as a training clip for videos over {LONG_CLIP} times as long, whole clips "
        f"otherwise; {LIVE_WINDOW:g} with --source)",
    )
    group.add_argument(
        "--whole",
        action="store_true",
        help="give one prediction for each clip, however long it is (default: off)",
    )
    group.add_argument(
        "--stride",
        type=finite,
        metavar="SECONDS",
        help="time from one window to the next, rounded so that windows share frames (default: "
        "half of --window)",
    )
    group.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the timeline of one video into this file"
    )
    group.add_argument(
        "--annotate",
        type=Path,
        metavar="OUT.mp4",
        help="write a copy of one video, without sound, with the probability on each frame",
    )
    group.add_argument(
        "--compare-with",
        type=Path,
        metavar="FILE",
        help="manifest (video,start,end,label) of the events in the videos: report how many are "
        "found, how soon, and with how many false alarms (default: off)",
    )
    group.add_argument(
        "--compare-dir",
        type=Path,
        metavar="DIR",
        help="folder for event_figures.json and a plot per video of --compare-with, for report.py "
        f"--events (default: {EVENT_FIGURES} in the checkpoint directory)",
    )


def _add_live_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source",
        metavar="URL|INDEX|FILE",
        help="watch a stream (rtsp://...), a camera (0 is the first) or a file at its own rate, "
        "and write a line of JSON when an event begins and when it ends",
    )
    group.add_argument(
        "--webhook",
        metavar="URL",
        help="also post these lines to this http or https URL, with the user and password in "
        "it (default: off)",
    )


def _add_reading_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--clip-timeout",
        type=finite,
        metavar="SECONDS",
        help=f"time limit for reading a clip (default: {CLIP_TIMEOUT:g}); with --source, time "
        f"without a frame before reconnecting (default: {SILENCE:g})",
    )
    data = Settings().data
    group.add_argument(
        "--spool-dir",
        type=Path,
        default=data.spool_dir,
        metavar="DIR",
        help="folder for clips from URLs while they are read, at most "
        f"{data.spool_size:g} GB (default: {data.spool_dir})",
    )


def predict(flags: argparse.Namespace) -> int:
    """Predict for what the flags name; return the exit status.

    Raises:
        UserError: a flag's value is wrong, or flags contradict each other.
        RunError: a disk or a device fails.
    """
    check_values(flags, threshold=PROBABILITY, clip_timeout=ABOVE_0, replicas=AT_LEAST_1)
    if flags.source is not None:
        return watch_live(flags)
    if not flags.clips:
        raise UserError("name clips, folders or patterns, or give a live --source")
    if flags.webhook is not None:
        raise UserError("--webhook needs --source")
    with contextlib.ExitStack() as stack:
        clips = find_clips(flags.clips, flags.spool_dir, stack)
        timeout = CLIP_TIMEOUT if flags.clip_timeout is None else flags.clip_timeout
        if flags.window is None:
            return predict_files(flags, clips, timeout)
        return predict_windows(flags, clips, timeout)
