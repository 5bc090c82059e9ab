"""Judge clips with a trained detector.

python predict.py --checkpoint-dir ./checkpoints CLIP|FOLDER|GLOB ...
python predict.py --checkpoint-dir ./checkpoints --window 2.0 --stride 1.0 VIDEO
python predict.py --checkpoint-dir ./checkpoints --source rtsp://camera/stream
"""

import argparse
import contextlib
import dataclasses
import glob
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from violence_detection.errors import UserError
from violence_detection.models import RANDOM_WEIGHTS_WARNING
from violence_detection.runtime.interrupts import Interrupted, run_or_explain
from violence_detection.runtime.tensorflow_log import quiet_tensorflow
from violence_detection.settings.constants import CLIP_TIMEOUT
from violence_detection.settings.parser import FlagParser
from violence_detection.settings.schema import Settings
from violence_detection.settings.values import finite

if TYPE_CHECKING:
    from violence_detection.inference.detector import Detector, PredictedClip, Prediction
    from violence_detection.inference.events import Timeline
    from violence_detection.inference.live_source import Source
    from violence_detection.storage.remote_paths import AnyPath

BAD_CLIPS = 3  # exit status, when some could not be judged
SILENCE = 10.0  # seconds: --clip-timeout of a live source
LIVE_WINDOW = 2.0  # seconds
PATIENCE, PATIENCE_WHEN_ENDED = 30.0, 1.0  # seconds at the end that notices may still take


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    flags = make_parser().parse_args(arguments)

    def job() -> int:
        try:
            with contextlib.ExitStack() as held:  # copies of clips that are at a URL
                return predict(flags, held)
        except BrokenPipeError:  # who read the output has seen enough
            return 128 + signal.SIGPIPE

    return run_or_explain(job, flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command."""
    parser = FlagParser(
        description="Judge clips with a trained detector: how likely each is violent, the verdict "
        "at the detector's threshold, and the frames that weighed most.",
        epilog="Exit status: 0; 3 if a clip could not be judged; 2 for a wrong flag or name; 130 "
        "after Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "clips",
        nargs="*",
        metavar="CLIP|FOLDER|GLOB|URL",
        help="video files, folders (all video files below them), or patterns in quotes; a file or "
        "folder may be an s3://, gs:// or hdfs:// URL",
    )
    parser.add_checkpoint_dir()
    parser.add_argument(
        "--spool-dir",
        type=Path,
        default=Settings().data.spool_dir,
        metavar="DIR",
        help="where clips from a URL are while they are decoded, "
        f"{Settings().data.spool_size:g} GB at most (default: {Settings().data.spool_dir})",
    )
    parser.add_argument(
        "--vgg19-weights",
        metavar="NAME|FILE",
        help="imagenet, random or an .h5 file: those of the training, wherever they are now "
        "(default: where they were then)",
    )
    parser.add_argument(
        "--threshold",
        type=finite,
        metavar="P",
        help="call clips of at least this probability violent (default: as chosen in training)",
    )
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON instead of a table")
    form.add_argument("--csv", action="store_true", help="CSV instead of a table")
    output.add_argument(
        "--output", type=Path, metavar="FILE", help="where it goes (default: standard output)"
    )
    output.add_argument(
        "--explain",
        action="store_true",
        help="draw for each clip its frames with their attention, and where in those that weighed "
        "most it is that speaks for violence (Grad-CAM) (default: off)",
    )
    output.add_argument(
        "--explain-dir",
        type=Path,
        default=Path("explanations"),
        metavar="DIR",
        help="where these pictures go (default: explanations)",
    )
    output.add_argument(
        "--quiet", action="store_true", help="neither progress nor a summary (default: off)"
    )
    output.add_argument(
        "--debug", action="store_true", help="show errors with their traceback (default: off)"
    )
    long = parser.add_argument_group("long videos")
    long.add_argument(
        "--window",
        type=finite,
        metavar="SECONDS",
        help="judge parts of this length, each as a clip, and tell when violence happens "
        "(default: judge the whole of each clip; of a --source, 2)",
    )
    long.add_argument(
        "--stride",
        type=finite,
        metavar="SECONDS",
        help="from one part to the next, rounded so that no frame is computed twice (default: half "
        "of --window)",
    )
    long.add_argument("--plot", type=Path, metavar="FILE", help="draw the timeline of one video")
    long.add_argument(
        "--annotate",
        type=Path,
        metavar="OUT.mp4",
        help="write one video anew, without sound, with the score on it",
    )
    live = parser.add_argument_group(
        "live", "A line of JSON tells when an event begins, and another when it is over."
    )
    live.add_argument(
        "--source",
        metavar="URL|INDEX|FILE",
        help="instead of clips, watch a stream (rtsp://…), a camera (0 is the first) or a file "
        "played at its own rate, in windows of --window and --stride, until it ends. What is lost "
        "is connected to again; windows that would be judged too late are skipped; standard error "
        "tells every minute how it keeps up",
    )
    live.add_argument(
        "--webhook",
        metavar="URL",
        help="also post these lines to an http or https address; a user and password in it are "
        "sent, and shown nowhere (default: do not)",
    )
    computing = parser.add_argument_group("computing")
    computing.add_argument(
        "--clip-timeout",
        type=finite,
        metavar="SECONDS",
        help=f"that reading a clip may take (default: {CLIP_TIMEOUT:g}); that a --source may be "
        f"silent before it is taken for lost (default: {SILENCE:g})",
    )
    computing.add_argument(
        "--mixed-precision",
        action=argparse.BooleanOptionalAction,
        help="VGG19 in float16 on a GPU, in bfloat16 on a CPU that has it (default: as in "
        "training where this device can, so that answers are the same; else float32)",
    )
    computing.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="GPUs to use (default: all); without a GPU, parts of the CPU (default: 1)",
    )
    return parser


def check(flags: argparse.Namespace, paths: "Sequence[AnyPath]") -> None:
    """Raise `UserError` for a value out of its range, or flags that contradict each other."""
    if flags.threshold is not None and not 0 <= flags.threshold <= 1:
        raise UserError(f"--threshold {flags.threshold:g}: must be from 0 to 1")
    if not flags.clip_timeout > 0:
        raise UserError(f"--clip-timeout {flags.clip_timeout:g}: must be above 0")
    if flags.replicas is not None and flags.replicas < 1:
        raise UserError(f"--replicas {flags.replicas}: must be 1 or more")
    written = {"--output": flags.output, "--plot": flags.plot, "--annotate": flags.annotate}
    for name, path in written.items():
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UserError(f"{name} {path}: name a file in a folder that is there")
        local = [clip for clip in paths if isinstance(clip, Path)]
        if path and path.exists() and any(path.samefile(clip) for clip in local if clip.exists()):
            raise UserError(f"{name} {path} is one of the clips: it would be lost")
    for url in (clip for clip in paths if not isinstance(clip, Path)):
        if flags.explain or flags.window is not None:
            raise UserError(
                f"{url}: --explain and --window are for files of this machine: copy it here, or "
                "drop them"
            )
    if flags.window is None:
        for name in ("stride", "plot", "annotate"):
            if getattr(flags, name) is not None:
                raise UserError(f"--{name} is of use with --window only: give it, too")
        return
    from violence_detection.clips.sampling import check_windows
    from violence_detection.inference.timeline_plot import plot_formats

    check_windows(flags.window, stride_of(flags))
    if flags.explain:
        raise UserError("--explain is for clips: drop it, or --window")
    for name in ("plot", "annotate"):
        if getattr(flags, name) and len(paths) > 1:
            raise UserError(f"--{name} is for one video, and {len(paths)} are named")
    if flags.annotate and flags.annotate.suffix.lower() != ".mp4":
        raise UserError(f"--annotate {flags.annotate}: the name must end in .mp4")
    if flags.plot and flags.plot.suffix[1:].lower() not in plot_formats():
        raise UserError(
            f"--plot {flags.plot}: the name must end in one of .{', .'.join(plot_formats())}"
        )


def check_source(flags: argparse.Namespace) -> "Source | None":
    """Return what is to be watched live, None: clips; the defaults that depend on this are set.

    Raises:
        UserError: neither is named, or both, or flags that do not go with it.
    """
    if flags.source is None:
        if not flags.clips:
            raise UserError("name clips, folders or patterns to judge, or a live --source")
        if flags.webhook is not None:
            raise UserError("--webhook is of use with --source only: give it, too")
        flags.clip_timeout = CLIP_TIMEOUT if flags.clip_timeout is None else flags.clip_timeout
        return None
    from violence_detection.inference.live_source import parse_source
    from violence_detection.inference.webhook import parse_webhook_url

    if flags.clips:
        raise UserError("--source is watched alone: drop it, or the clips")
    for name in ("csv", "output", "explain", "plot", "annotate", "replicas"):
        if getattr(flags, name):
            raise UserError(f"--{name} is not for a live source: drop it, or --source")
    flags.clip_timeout = SILENCE if flags.clip_timeout is None else flags.clip_timeout
    flags.window = LIVE_WINDOW if flags.window is None else flags.window
    flags.replicas = 1  # frames come one by one
    if flags.webhook is not None:
        parse_webhook_url(flags.webhook)
    return parse_source(flags.source)


def stride_of(flags: argparse.Namespace) -> float:
    """Return the seconds from one window to the next."""
    return flags.window / 2 if flags.stride is None else flags.stride


def find_files(names: Sequence[str]) -> list[Path]:
    """Return the files that are named, in that order, those of a folder sorted; each once.

    Raises:
        UserError: there is no such file, or nothing below a folder or behind a pattern.
    """
    from violence_detection.clips.clip import VIDEO_SUFFIXES
    from violence_detection.clips.dataset import video_files

    files: dict[tuple[str, str], Path] = {}  # by name and real folder: links may lead in circles
    for name in names:
        path = Path(name)
        matches = [path] if os.path.lexists(path) else _matches(name)
        if not matches:
            raise UserError(f"{name}: no such file or folder, and no file is matched by it")
        found = [
            file
            for match in matches
            for file in (video_files(match) if match.is_dir() else [match])
        ]
        if not found:
            raise UserError(
                f"{name} holds no clips (file types: {', '.join(sorted(VIDEO_SUFFIXES))})"
            )
        for file in found:
            files.setdefault((file.name, os.path.realpath(file.parent)), file)
    return list(files.values())


def find_all(
    names: Sequence[str], spool_dir: Path, held: contextlib.ExitStack
) -> "Sequence[AnyPath]":
    """Return what `find_files` does, and files in stores that are named by URLs.

    Args:
        held: lets go of the spool that those are read from.
    """
    from violence_detection.settings.values import folder_or_url

    if not any("://" in name for name in names):
        return find_files(names)
    from violence_detection.clips.clip import VIDEO_SUFFIXES
    from violence_detection.clips.dataset import video_files
    from violence_detection.storage.remote_paths import clips_folder

    found: list[AnyPath] = []
    for name in names:
        if "://" not in name:
            found += find_files([name])
            continue
        is_file = any(name.lower().endswith(suffix) for suffix in VIDEO_SUFFIXES)
        try:
            url = folder_or_url(name.rpartition("/")[0] if is_file else name)
        except argparse.ArgumentTypeError as error:
            raise UserError(str(error)) from error
        folder = held.enter_context(
            clips_folder(url, spool_dir, Settings().data.spool_size, flag="clips")
        )
        below = [folder / name.rpartition("/")[2]] if is_file else video_files(folder)
        if not below:
            raise UserError(
                f"{name} holds no clips (file types: {', '.join(sorted(VIDEO_SUFFIXES))})"
            )
        found += below
    return list(dict.fromkeys(found))


def _matches(pattern: str) -> list[Path]:
    """Return what a pattern matches, what lies deeper behind: of two ways, the short one counts."""
    if not glob.has_magic(pattern):
        return []
    # Path.glob takes no absolute pattern.
    matches = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207
    return sorted(matches, key=lambda path: (len(path.parts), path))


def predict(flags: argparse.Namespace, held: contextlib.ExitStack) -> int:
    """Judge the clips that `flags` name; return the exit status."""
    source = check_source(flags)
    paths = find_all(flags.clips, flags.spool_dir, held)
    check(flags, paths)

    # TensorFlow takes seconds to load: only now, when the rest is known to be right.
    from violence_detection.runtime.logs import native_messages_to

    quiet_tensorflow()
    with native_messages_to(Path(os.devnull)):
        from violence_detection.inference.detector import load_detector
        from violence_detection.runtime.devices import enough_memory, gpus_left_out

        detector = load_detector(
            flags.checkpoint_dir,
            flags.vgg19_weights,
            mixed_precision=flags.mixed_precision,
            replicas=flags.replicas,
        )
    if flags.threshold is not None:
        detector = dataclasses.replace(
            detector, threshold=flags.threshold, chosen_for="--threshold"
        )
    if detector.untrained_vgg19:
        say(f"WARNING: {RANDOM_WEIGHTS_WARNING}")
    if gpus_left_out(list(detector.devices)):
        say(
            "WARNING: there is an NVIDIA GPU here, but TensorFlow does not find it: pip install -r "
            "requirements-gpu.txt"
        )
    if not flags.quiet:
        say(describe(detector))
    with enough_memory(
        list(detector.devices),
        f"VGG19 on {detector.images_per_batch} images",
        "End what else uses it",
    ):
        if source:
            return watch_live(flags, detector, source)
        if flags.window is None:
            return judge(flags, detector, paths)
        return watch(flags, detector, _local(paths))


def _local(paths: "Sequence[AnyPath]") -> list[Path]:
    """Return the paths as what `check` has made sure that they are."""
    return [Path(path) for path in paths]


def describe(detector: "Detector") -> str:
    """Return a line on the detector: its model, threshold, devices and number format."""
    devices = ", ".join(device.name for device in detector.devices)
    return (
        f"{detector.name}: violent from {detector.threshold:.3f} on ({detector.chosen_for}); "
        f"VGG19 to {detector.recipes[0].layer} in {detector.computation} on {devices}"
    )


def judge(flags: argparse.Namespace, detector: "Detector", paths: "Sequence[AnyPath]") -> int:
    """Judge clips one by one and write what is found; return the exit status."""
    from violence_detection.inference.formats import as_csv, as_json, as_table
    from violence_detection.runtime.progress import Progress, shows_bar

    started = time.perf_counter()
    has_bar = shows_bar(flags.quiet)
    counts = {"violent": 0, "nonviolent": 0, "bad": 0}

    explanations = None
    if flags.explain:
        from violence_detection.inference.explanation_pictures import ExplanationWriter

        explanations = ExplanationWriter(detector, flags.explain_dir, _local(paths))

    def counted(examined_clips: Iterable["PredictedClip"]) -> Iterator["Prediction"]:
        for examined in examined_clips:
            verdict = examined.prediction
            if explanations and verdict.error is None:
                explanations.write(examined)
            progress.update()
            kind = {True: "violent", False: "nonviolent", None: "bad"}[verdict.violent]
            counts[kind] += 1
            yield verdict

    with (
        Progress("judged", len(paths), bar=has_bar) as progress,
        contextlib.closing(
            detector.predict_with_inputs(paths, flags.clip_timeout, with_pictures=flags.explain)
        ) as examined_clips,
    ):
        verdicts = counted(examined_clips)
        if flags.json:
            text = as_json(detector, verdicts)
        elif flags.csv:
            text = as_csv(verdicts, detector.frames)
        else:
            text = as_table(verdicts, paths)
        write_out(text, flags.output)
    if not flags.quiet:
        rate = len(paths) / (time.perf_counter() - started)
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        if explanations:
            say(f"the explanations are below {explanations.folder}")
        say(f"{len(paths)} clips: {listed}; {rate:.3g} clips/s")
    return BAD_CLIPS if counts["bad"] else 0


def watch(flags: argparse.Namespace, detector: "Detector", paths: Sequence[Path]) -> int:
    """Judge videos in the course of time and write what is found; return the exit status."""
    from tqdm import tqdm

    from violence_detection.inference.formats import (
        printable_name,
        timelines_as_csv,
        timelines_as_json,
        timelines_as_table,
    )
    from violence_detection.inference.windows import predict_timeline, window_sampling
    from violence_detection.runtime.progress import shows_bar

    started = time.perf_counter()
    has_bar = shows_bar(flags.quiet)
    sampling = window_sampling(detector, flags.window, stride_of(flags))
    counts = {"events": 0, "bad videos": 0}
    seconds = 0.0

    def timelines() -> Iterator["Timeline"]:
        nonlocal seconds
        for path in paths:
            with tqdm(desc=printable_name(path), unit="s", leave=False, disable=not has_bar) as bar:

                def show(read: float, duration: float | None, bar: tqdm = bar) -> None:
                    bar.total = duration and round(duration)
                    bar.update(round(read) - bar.n)

                timeline = predict_timeline(detector, path, sampling, flags.clip_timeout, show)
            counts["events"] += len(timeline.events)
            counts["bad videos"] += timeline.error is not None
            seconds += timeline.windows[-1].end if timeline.windows else 0
            draw(flags, detector, timeline)
            yield timeline

    if flags.json:
        text = timelines_as_json(detector, timelines())
    elif flags.csv:
        text = timelines_as_csv(timelines())
    else:
        text = timelines_as_table(timelines(), paths)
    write_out(text, flags.output)
    if not flags.quiet:
        speed = seconds / (time.perf_counter() - started)
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        say(f"{seconds:.1f} s of video: {listed}; {speed:.3g} times as fast as it plays")
    return BAD_CLIPS if counts["bad videos"] else 0


def watch_live(flags: argparse.Namespace, detector: "Detector", source: "Source") -> int:
    """Judge a live source and write its events as they happen; return the exit status."""
    from violence_detection.inference.live import LiveMonitor
    from violence_detection.inference.live_source import SourceReader
    from violence_detection.inference.webhook import Webhook
    from violence_detection.inference.windows import window_sampling

    sampling = window_sampling(detector, flags.window, stride_of(flags))
    webhook = Webhook(flags.webhook, say) if flags.webhook else None

    def notify(notice: dict[str, Any]) -> None:
        if webhook:
            webhook.post(notice)
        write_out([json.dumps(notice) + "\n"], None)

    def tell(line: str) -> None:
        if not flags.quiet:
            say(line)

    watched = LiveMonitor(detector, sampling, notify, tell)
    patience = PATIENCE_WHEN_ENDED
    try:
        with SourceReader(source, sampling, flags.clip_timeout) as reader:
            watched.run(reader)
        patience = PATIENCE
    except Interrupted as ended:  # the usual end
        return 128 + ended.number
    finally:
        if webhook:
            webhook.close(patience)
    if watched.error is not None:
        say(f"{source.display_name}: {watched.error}")
        return BAD_CLIPS
    return 0


def draw(flags: argparse.Namespace, detector: "Detector", timeline: "Timeline") -> None:
    """Draw the timeline, and write the video with its score, where these are asked for."""
    if not timeline.windows:
        return
    if flags.plot:
        from violence_detection.inference.timeline_plot import write_timeline_plot

        write_timeline_plot(timeline, detector.threshold, flags.plot)
    if flags.annotate:
        from violence_detection.inference.annotation import annotate_video

        annotate_video(timeline, detector.threshold, flags.annotate, flags.clip_timeout)


def write_out(pieces: Iterable[str], path: Path | None) -> None:
    """Write text as it comes: to standard output, or into a file that is whole or not there."""
    if path:
        from violence_detection.storage.files import replace_file

        def write(partial: Path) -> None:
            # A name that is not valid UTF-8 keeps its bytes.
            with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.writelines(pieces)

        replace_file(path, write)
        return
    from tqdm import tqdm

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    for piece in pieces:
        with tqdm.external_write_mode(file=sys.stdout):  # above a bar, not into it
            sys.stdout.write(piece)
            sys.stdout.flush()


def say(line: str) -> None:
    """Tell the user something that is no result."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        print(line.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
