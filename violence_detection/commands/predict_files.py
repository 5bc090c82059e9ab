"""`predict` for whole clips: one prediction each."""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from violence_detection.commands.clip_arguments import require_local, require_whole
from violence_detection.commands.flags import check_output_file
from violence_detection.commands.loading import load_for, reported
from violence_detection.commands.output import print_message, write_text
from violence_detection.commands.predict_export import Exports, check_exports
from violence_detection.commands.predict_video import answer_for
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of
from violence_detection.settings.setting import flag

if TYPE_CHECKING:
    from violence_detection.clips.clip import Footage
    from violence_detection.inference.detector import Detector, PredictedClip, Prediction
    from violence_detection.inference.events import Timeline
    from violence_detection.storage.remote_paths import AnyPath

BAD_CLIPS = 3  # exit status, when some clips could not be read


def predict_files(
    flags: argparse.Namespace, clips: "Sequence[Footage]", clip_timeout: float
) -> int:
    """Write a prediction for each clip; return the exit status.

    Args:
        flags: of the command.
        clips: at least one.
        clip_timeout: seconds that reading a clip may take.

    Raises:
        UserError: flags do not fit the clips or each other.
    """
    for name in ("stride", "plot", "annotate", "compare_with", "compare_dir"):
        if getattr(flags, name) is not None:
            raise UserError(f"{flag(name)} needs --window")
    check_output("--output", flags.output, clips)
    check_exports(flags)
    explained = require_local("--explain", clips) if flags.explain else []
    exported = require_whole("--export", clips) if flags.export else []
    detector = load_for(flags)
    with reported(detector, flags.quiet):
        return _predict(flags, detector, clips, explained, exported, clip_timeout)


def check_output(name: str, path: Path | None, clips: "Sequence[Footage]") -> None:
    """Raise `UserError` if the file that a flag names cannot be written, or is one of the clips.

    Args:
        name: the flag, with its dashes.
        path: its value; None: not given.
        clips: the files that are read.
    """
    if path is None:
        return
    from violence_detection.clips.clip import VideoSegment

    check_output_file(name, path)
    videos = (clip.path if isinstance(clip, VideoSegment) else clip for clip in clips)
    local = (video for video in videos if isinstance(video, Path) and video.exists())
    if path.exists() and any(path.samefile(video) for video in local):
        raise UserError(f"{name} {path}: is one of the clips, and would be overwritten")


def _predict(
    flags: argparse.Namespace,
    detector: "Detector",
    clips: "Sequence[Footage]",
    explained: Sequence[Path],
    exported: "Sequence[AnyPath]",
    clip_timeout: float,
) -> int:
    from violence_detection.inference.formats import as_csv, as_json, as_table, class_of
    from violence_detection.runtime.progress import Progress, shows_bar

    started = time.perf_counter()
    counts = Counter(violent=0, nonviolent=0, bad=0)
    bar = shows_bar(flags.quiet)
    one_answer = flags.whole or flags.explain
    exports = Exports(flags, detector, exported)
    explanations = None
    if explained:
        from violence_detection.inference.explanation_pictures import ExplanationWriter

        explanations = ExplanationWriter(detector, flags.explain_dir, explained)

    def outcomes(predicted_clips: Iterable["PredictedClip"]) -> Iterator["Prediction | Timeline"]:
        for predicted in predicted_clips:
            outcome: Prediction | Timeline = predicted.prediction
            if explanations and outcome.error is None:
                explanations.write(predicted)
            elif not one_answer:
                outcome = answer_for(detector, predicted.prediction, clip_timeout, bar)
            progress.update()
            counts[class_of(outcome) or "bad"] += 1
            exports.add(outcome)
            yield outcome

    with (
        Progress("predicting", len(clips), bar=bar) as progress,
        contextlib.closing(
            detector.predict_with_inputs(clips, clip_timeout, with_pictures=flags.explain)
        ) as predicted_clips,
    ):
        predictions = outcomes(predicted_clips)
        if flags.json:
            text = as_json(detector, predictions)
        elif flags.csv:
            text = as_csv(predictions, detector.frames)
        else:
            text = as_table(predictions, clips)
        write_text(text, flags.output)
    exports.write()
    if not flags.quiet:
        if explanations:
            print_message(f"explanations written to {explanations.folder}")
        rate = len(clips) / (time.perf_counter() - started)
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        print_message(f"{count_of(len(clips), 'clip')}: {listed}; {rate:.3g} clips/s")
    return BAD_CLIPS if counts["bad"] else 0
