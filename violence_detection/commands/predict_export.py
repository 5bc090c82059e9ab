"""`predict --export`: predictions as files that annotation tools open."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from violence_detection.commands.flags import check_output_file
from violence_detection.commands.output import print_message, write_text
from violence_detection.errors import UserError, failing_as
from violence_detection.runtime.wording import count_of

if TYPE_CHECKING:
    from violence_detection.inference.detector import Detector, Prediction
    from violence_detection.inference.events import Timeline
    from violence_detection.inference.reviewed_clips import ReviewedClip
    from violence_detection.storage.remote_paths import AnyPath

LABEL_STUDIO, FIFTYONE = TOOLS = ("label-studio", "fiftyone")


def add_export(flags: argparse._ArgumentGroup) -> None:
    """Add `--export TOOL PATH`, which is None unless given."""
    flags.add_argument(
        "--export",
        nargs=2,
        action="append",
        metavar=("TOOL", "PATH"),
        help="also write the predictions for correction in a tool, the most doubtful first: "
        "label-studio FILE.json (tasks, and FILE.xml, the labeling configuration), or fiftyone "
        "FOLDER (a data set)",
    )


def check_exports(flags: argparse.Namespace) -> None:
    """Raise `UserError` if `--export` names an unknown tool, or what cannot be written."""
    for tool, name in flags.export or ():
        path = Path(name)
        if tool == LABEL_STUDIO:
            if path.suffix.lower() != ".json":
                raise UserError(f"--export {tool} {path}: the name must end in .json")
            for file in (path, _config_path(path)):
                check_output_file(f"--export {tool}", file)
                if flags.output is not None and file.absolute() == flags.output.absolute():
                    raise UserError(f"--export {tool} {path}: {file} is that of --output")
        elif tool == FIFTYONE:
            _check_folder(path)
        else:
            raise UserError(f"--export {tool}: the tool must be one of {', '.join(TOOLS)}")


def _check_folder(path: Path) -> None:
    from violence_detection.inference.fiftyone_dataset import INFO, METADATA

    name = f"--export {FIFTYONE} {path}"
    if path.suffix.lower() == ".json":
        raise UserError(
            f"{name}: FiftyOne reads a folder: give one, such as {path.with_suffix('')}"
        )
    if path.exists() and not path.is_dir():
        raise UserError(f"{name}: is a file; give the path of a folder")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{name}: its folder does not exist")
    if path.is_dir() and any(path.iterdir()):
        try:
            known = INFO in json.loads((path / METADATA).read_text(encoding="utf-8"))["info"]
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise UserError(f"{name}: is not empty: give a new folder")


class Exports:
    """Collects predictions and writes them for the tools that `--export` names.

    Args:
        flags: of the command, checked.
        detector: makes the predictions.
        clips: all that are predicted.
    """

    def __init__(
        self, flags: argparse.Namespace, detector: "Detector", clips: "Sequence[AnyPath]"
    ) -> None:
        from violence_detection.inference.reviewed_clips import known_labels

        self._wanted: list[tuple[str, Path]] = [
            (tool, Path(name)) for tool, name in flags.export or ()
        ]
        self._quiet: bool = flags.quiet
        self._detector = detector
        self._labels = known_labels(clips) if self._wanted else {}
        self._clips: list[ReviewedClip] = []

    def add(self, outcome: "Prediction | Timeline") -> None:
        """Collect a prediction; clips that could not be read are left out."""
        from violence_detection.inference.reviewed_clips import reviewed_clip

        if self._wanted:
            label = self._labels.get(outcome.path)
            clip = reviewed_clip(outcome, self._detector.threshold, label)
            if clip is not None:
                self._clips.append(clip)

    def write(self) -> None:
        """Write the files.

        Raises:
            RunError: a file cannot be written.
        """
        from violence_detection.inference.reviewed_clips import most_doubtful_first

        clips = most_doubtful_first(self._clips)
        for tool, path in self._wanted:
            if tool == LABEL_STUDIO:
                written = self._write_label_studio(clips, path)
            else:
                written = self._write_fiftyone(clips, path)
            if not self._quiet:
                found = sum(clip.contradicts_label for clip in clips)
                first = f"; {count_of(found, 'contradicted label')} first" if found else ""
                print_message(written + first)

    def _write_label_studio(self, clips: "Sequence[ReviewedClip]", path: Path) -> str:
        from violence_detection.inference.label_studio_tasks import (
            label_studio_tasks,
            labeling_config,
        )

        write_text(label_studio_tasks(clips, self._detector.name), path)
        config = _config_path(path)
        write_text([labeling_config(clips)], config)
        return f"{path}: {count_of(len(clips), 'task')} for Label Studio; its labeling: {config}"

    def _write_fiftyone(self, clips: "Sequence[ReviewedClip]", path: Path) -> str:
        from violence_detection.inference.fiftyone_dataset import (
            METADATA,
            SAMPLES,
            fiftyone_metadata,
            fiftyone_samples,
        )

        with failing_as(path):
            path.mkdir(exist_ok=True)
        metadata = fiftyone_metadata(clips, self._detector.name, self._detector.threshold)
        write_text(fiftyone_samples(clips), path / SAMPLES)
        write_text([metadata], path / METADATA)
        return f"{path}: {count_of(len(clips), 'sample')} for FiftyOne"


def _config_path(path: Path) -> Path:
    return path.with_suffix(".xml")
