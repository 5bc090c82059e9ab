"""`predict --compare-with`: long videos against the events that a manifest annotates."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from violence_detection.commands.output import print_message
from violence_detection.errors import UserError, failing_as
from violence_detection.runs.files import EVENT_FIGURES
from violence_detection.runtime.wording import count_of

if TYPE_CHECKING:
    from violence_detection.clips.manifest import ManifestRow
    from violence_detection.evaluation.annotated_events import Annotated
    from violence_detection.inference.event_comparison import EventComparison


def read_annotations(
    flags: argparse.Namespace, videos: Sequence[Path]
) -> "Mapping[str, Annotated]":
    """Return what the manifest of `--compare-with` says of each video; empty if not given.

    Videos that it does not mention are counted on standard error.

    Args:
        flags: of the command.
        videos: that will be predicted.

    Raises:
        UserError: the manifest cannot be used, or mentions none of the videos.
    """
    from violence_detection.evaluation.annotated_events import annotated_events, video_key

    if flags.compare_with is None:
        if flags.compare_dir is not None:
            raise UserError("--compare-dir needs --compare-with")
        return {}
    comparison_folder(flags)
    annotated = annotated_events(_read_rows(flags.compare_with), flags.compare_with)
    without = sum(video_key(video, Path()) not in annotated for video in videos)
    if without == len(videos):
        raise UserError(
            f"--compare-with {flags.compare_with}: mentions none of the videos; its paths are "
            "relative to its folder"
        )
    if without and not flags.quiet:
        print_message(
            f"WARNING: {count_of(without, 'video')} of {len(videos)} not in "
            f"{flags.compare_with}: predicted, but not compared"
        )
    return annotated


def comparison_folder(flags: argparse.Namespace) -> Path:
    """Return the folder for the figures and plots, which need not exist.

    Raises:
        UserError: its name is that of a file.
    """
    folder: Path = flags.compare_dir or flags.checkpoint_dir.expanduser() / EVENT_FIGURES
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--compare-dir {folder}: is a file; give the path of a folder")
    return folder


def start_comparison(
    flags: argparse.Namespace, annotated: "Mapping[str, Annotated]", threshold: float
) -> "EventComparison":
    """Return a comparison without any video so far, whose folder exists.

    Args:
        flags: of the command.
        annotated: of `read_annotations`.
        threshold: of the detector.

    Raises:
        RunError: the folder cannot be made.
    """
    from violence_detection.inference.event_comparison import EventComparison

    folder = comparison_folder(flags)
    with failing_as(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return EventComparison(flags.compare_with, annotated, threshold, folder)


def _read_rows(path: Path) -> "list[ManifestRow]":
    from violence_detection.clips.manifest import MANIFEST_SUFFIXES, is_manifest, read_manifest

    if not is_manifest(path):
        suffixes = ", ".join(MANIFEST_SUFFIXES)
        raise UserError(f"--compare-with {path}: the name must end in one of {suffixes}")
    return read_manifest(path)
