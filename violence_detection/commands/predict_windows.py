"""`predict` for windows of videos: when violence happens."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from violence_detection.commands.clip_arguments import require_local
from violence_detection.commands.compare_events import read_annotations, start_comparison
from violence_detection.commands.loading import load_for, reported
from violence_detection.commands.output import print_message, write_text
from violence_detection.commands.predict_export import Exports, check_exports
from violence_detection.commands.predict_files import BAD_CLIPS, check_output
from violence_detection.commands.predict_video import predict_video
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of

if TYPE_CHECKING:
    from violence_detection.clips.clip import Footage
    from violence_detection.inference.detector import Detector
    from violence_detection.inference.event_comparison import EventComparison
    from violence_detection.inference.events import Timeline


def predict_windows(
    flags: argparse.Namespace, clips: "Sequence[Footage]", clip_timeout: float
) -> int:
    """Write when violence happens in each video; return the exit status.

    Args:
        flags: of the command.
        clips: the videos, at least one.
        clip_timeout: seconds that reading a frame may take.

    Raises:
        UserError: flags do not fit the videos or each other.
    """
    from violence_detection.clips.sampling import check_windows

    videos = require_local("--window", clips)
    check_windows(flags.window, stride_of(flags))
    for name in ("explain", "whole"):
        if getattr(flags, name):
            raise UserError(f"--{name} is for whole clips: drop it, or --window")
    _check_files(flags, videos)
    annotated = read_annotations(flags, videos)
    detector = load_for(flags)
    comparison = start_comparison(flags, annotated, detector.threshold) if annotated else None
    with reported(detector, flags.quiet):
        return _predict(flags, detector, videos, clip_timeout, comparison)


def stride_of(flags: argparse.Namespace) -> float:
    """Return the seconds from one window to the next: half a window, unless given."""
    return flags.window / 2 if flags.stride is None else flags.stride


def _check_files(flags: argparse.Namespace, videos: Sequence[Path]) -> None:
    check_output("--output", flags.output, videos)
    check_exports(flags)
    for name, path in (("--plot", flags.plot), ("--annotate", flags.annotate)):
        check_output(name, path, videos)
        if path and len(videos) > 1:
            raise UserError(f"{name} is for one video, but there are {len(videos)}")
    if flags.annotate and flags.annotate.suffix.lower() != ".mp4":
        raise UserError(f"--annotate {flags.annotate}: the name must end in .mp4")
    if flags.plot:
        from violence_detection.inference.timeline_plot import plot_formats  # loads Matplotlib

        if flags.plot.suffix[1:].lower() not in plot_formats():
            endings = ", .".join(plot_formats())
            raise UserError(f"--plot {flags.plot}: the name must end in one of .{endings}")


def _predict(
    flags: argparse.Namespace,
    detector: "Detector",
    videos: Sequence[Path],
    clip_timeout: float,
    comparison: "EventComparison | None",
) -> int:
    from violence_detection.inference.windows import window_sampling
    from violence_detection.runtime.progress import shows_bar

    started = time.perf_counter()
    sampling = window_sampling(detector, flags.window, stride_of(flags))
    bar = shows_bar(flags.quiet)
    exports = Exports(flags, detector, videos)
    events = bad = 0
    seconds = 0.0

    def timelines() -> Iterator["Timeline"]:
        nonlocal events, bad, seconds
        for video in videos:
            timeline = predict_video(detector, video, sampling, clip_timeout, bar)
            events += len(timeline.events)
            bad += timeline.error is not None
            seconds += timeline.windows[-1].end if timeline.windows else 0
            if timeline.windows:
                _draw(flags, detector.threshold, timeline, clip_timeout, comparison)
            if comparison:
                comparison.add(timeline)
            exports.add(timeline)
            yield timeline

    write_text(_text(flags, detector, videos, timelines(), comparison), flags.output)
    exports.write()
    if comparison and not flags.quiet:
        print_message(f"event figures written to {comparison.folder}")
    if not flags.quiet:
        speed = seconds / (time.perf_counter() - started)
        print_message(
            f"{seconds:.1f} s of video: {count_of(events, 'event')}, "
            f"{count_of(bad, 'bad video')}; {speed:.3g}x real time"
        )
    return BAD_CLIPS if bad else 0


def _text(
    flags: argparse.Namespace,
    detector: "Detector",
    videos: Sequence[Path],
    timelines: "Iterator[Timeline]",
    comparison: "EventComparison | None",
) -> Iterator[str]:
    """Yield the output in the format that the flags ask for; the comparison is written last."""
    from violence_detection.inference.formats import (
        timelines_as_csv,
        timelines_as_json,
        timelines_as_table,
    )

    def compared() -> dict[str, Any]:
        if comparison is None:
            return {}
        result = comparison.result()
        comparison.write(
            result,
            model=detector.name,
            untrained_vgg19=bool(detector.untrained_backbones),
            window=flags.window,
            stride=stride_of(flags),
        )
        return {"event_figures": result}

    if flags.json:
        yield from timelines_as_json(detector, timelines, at_end=compared)
        return
    yield from timelines_as_csv(timelines) if flags.csv else timelines_as_table(timelines, videos)
    result = compared()
    if result and not flags.csv:
        from violence_detection.inference.event_comparison import comparison_table

        yield from comparison_table(result["event_figures"])


def _draw(
    flags: argparse.Namespace,
    threshold: float,
    timeline: "Timeline",
    clip_timeout: float,
    comparison: "EventComparison | None",
) -> None:
    if flags.plot:
        from violence_detection.inference.timeline_plot import write_timeline_plot

        annotated = comparison.events_of(timeline) if comparison else None
        write_timeline_plot(timeline, threshold, flags.plot, annotated)
    if flags.annotate:
        from violence_detection.inference.annotation import annotate_video

        copy = annotate_video(timeline, threshold, flags.annotate, clip_timeout)
        if not flags.quiet:
            print_message(f"{flags.annotate}: {copy}")
