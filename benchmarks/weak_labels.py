"""Learning from one label per long video, beside whole videos of 16 frames and exact times.

    python -m benchmarks.weak_labels --dataset-path DIR --window 1.64 --work-dir DIR

accepts the training command's flags, too. The sources of a data set are divided into sides. On
each side its clips are joined, packet by packet, into long videos: nonviolent ones, and violent
ones with a few violent clips in a row. No video joins clips of two sides. The videos of each side
are the test of detectors that are trained on the others, from

- `weak`: a label per video, with --weak;
- `whole`: the same labels, a video being one clip;
- `times`: the clips that were joined, each with its label: what exact times would give.

All predict the same windows of the test videos. Compared are event figures and the frame-level
ROC-AUC of all sides together, with an interval of the difference by a paired bootstrap over
sources. Finished runs are kept in --work-dir. Without --window it is the commonest length of the
clips, and other clips are left out, so that windows are those that were joined.
"""

import argparse
import contextlib
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.command import make_parser, write_report
from benchmarks.linked_clips import Linked, clips_of
from benchmarks.runs import finished_run, without_folders
from benchmarks.segments import joined
from benchmarks.tables import Table
from violence_detection.clips.clip import Clip
from violence_detection.clips.lengths import video_lengths
from violence_detection.clips.locations import Locations
from violence_detection.clips.manifest import ManifestRow, write_manifest
from violence_detection.clips.spans import merged_spans
from violence_detection.clips.video_windows import windows_of
from violence_detection.runs.files import RESULTS
from violence_detection.settings.constants import CLIP_TIMEOUT
from violence_detection.settings.schema import Settings

WAYS = ("weak", "whole", "times")
RESAMPLES = 2000


@dataclass(frozen=True)
class LongVideo:
    """A video that was joined from clips."""

    label: int
    rows: Sequence[ManifestRow]  # of its clips, in the order of time; groups are the sources

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.rows[0].video


@dataclass(frozen=True)
class Scored:
    """A window of a test video, and what a detector says of it."""

    video: str
    start: float  # seconds
    end: float  # seconds
    label: int
    source: str
    probability: float  # calibrated
    is_violent: bool  # at the detector's threshold


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the clips, train in each way, compare, print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True, help="keeps what is finished")
    parser.add_argument("--cache-dir", type=Path, help="default: in --work-dir")
    parser.add_argument("--sides", type=int, default=3, help="each is tested once (default: 3)")
    parser.add_argument("--clips", type=int, default=24, help="of a video (default: 24)")
    parser.add_argument("--violent", type=int, default=3, help="of a violent one (default: 3)")
    parser.add_argument("--videos", type=int, default=12, help="of a side's class (default: 12)")
    parser.add_argument(
        "--ways", type=lambda text: text.split(","), default=WAYS, help="default: weak,whole,times"
    )
    parser.add_argument("--window", type=float, help="seconds")
    parser.add_argument("--seed", type=int, default=1, help="of videos and training (default: 1)")
    options, flags = parser.parse_known_args(arguments)
    cache = options.cache_dir or options.work_dir / "cache"
    clips, window = clips_of_one_length(clips_of(options.dataset_path), options.window)
    shape = f"{options.clips}_{options.violent}_{options.videos}_{options.seed}"
    folder = options.work_dir / f"{options.dataset_path.name}_{shape}"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(options.seed)
    sides = [
        joined_videos(side, options, folder / f"side_{number}", random)
        for number, side in enumerate(sides_of(clips, options.sides), start=1)
    ]
    scored: dict[str, list[Scored]] = {way: [] for way in options.ways}
    flags = [*flags, "--cache-dir", str(cache), "--seed", str(options.seed), "--groups", "none"]
    for tested in range(len(sides)):
        for way in options.ways:
            manifest = write_side(sides, tested, way, window, folder)
            command = ["--dataset-path", str(manifest), *flags]
            if way == "weak":
                command += ["--weak", "--window", f"{window:g}"]
            run = finished_run(options.work_dir, command, RESULTS)
            scored[way] += score(run.folder, sides[tested], tested, folder, window, cache)
    report = {
        "dataset": options.dataset_path.name,
        "sides": [Counter(video.label for video in side) for side in sides],
        "clips_per_video": options.clips,
        "violent_clips": options.violent,
        "window": window,
        "seed": options.seed,
        "flags": without_folders(flags),
        "ways": {way: figures(found) for way, found in scored.items()},
        "better_than_whole": {
            way: paired_difference(scored[way], scored["whole"])
            for way in options.ways
            if way != "whole"
        },
    }
    print_tables(report)
    write_report(report, options.json)
    return 0


def clips_of_one_length(
    clips: Sequence[Linked], window: float | None
) -> tuple[list[Linked], float]:
    """Return the clips of a length, of the commonest if it is not given, and that length."""
    paths = {Path(linked.clip.path): 0.0 for linked in clips}
    found = video_lengths(paths, CLIP_TIMEOUT)
    lengths = {path: round(s, 3) for path, s in found.items() if isinstance(s, float)}
    window = window or Counter(lengths.values()).most_common(1)[0][0]
    return [linked for linked in clips if lengths.get(Path(linked.clip.path)) == window], window


def sides_of(clips: Sequence[Linked], count: int) -> list[list[Linked]]:
    """Return the clips in sides of about equal size in each class; sources stay together."""
    by_source: dict[str, list[Linked]] = defaultdict(list)
    for linked in clips:
        by_source[linked.group].append(linked)
    sides: list[list[Linked]] = [[] for _ in range(count)]
    for source in sorted(by_source, key=lambda name: (-len(by_source[name]), name)):
        label = by_source[source][0].clip.label
        smallest = min(sides, key=lambda side: sum(each.clip.label == label for each in side))
        smallest.extend(by_source[source])
    return sides


def joined_videos(
    side: Sequence[Linked], shape: argparse.Namespace, folder: Path, random: np.random.Generator
) -> list[LongVideo]:
    """Return the long videos of a side.

    Args:
        side: its clips. A nonviolent one may be in several videos, once in each; a violent one is
            in one.
        shape: `videos` of each class at most, `clips` of a video, and `violent` ones of these in a
            violent video, which follow each other.
        folder: for the videos.
        random: draws the clips, and where the violent ones are.
    """
    folder.mkdir(exist_ok=True)
    shuffled = [side[index] for index in random.permutation(len(side))]
    calm = [linked for linked in shuffled if linked.clip.label == 0]
    fights = [linked for linked in shuffled if linked.clip.label == 1]
    videos = []
    for number in range(2 * min(shape.videos, len(fights) // shape.violent)):
        label = number % 2
        fight = [fights.pop() for _ in range(shape.violent)] if label else []
        drawn = random.permutation(len(calm))[: shape.clips - len(fight)]
        others = [calm[index] for index in drawn]
        at = int(random.integers(len(others) + 1))
        path = folder / f"{'violent' if label else 'nonviolent'}_{number // 2:03}.mp4"
        rows = joined([*others[:at], *fight, *others[at:]], path)
        rows = [row._replace(video=f"{folder.name}/{row.video}") for row in rows]
        videos.append(LongVideo(label, rows))
    return videos


def write_side(
    sides: Sequence[Sequence[LongVideo]], tested: int, way: str, window: float, folder: Path
) -> Path:
    """Write the manifest of a training that is tested on one of the sides; return its path."""
    rows = []
    for number, side in enumerate(sides):
        split = "test" if number == tested else "train"
        for video in side:
            if way == "times":
                rows += [row._replace(split=split, group=video.name) for row in video.rows]
            else:
                rows.append(ManifestRow(video.name, video.label, split=split, group=video.name))
    path = folder / f"{way}_{tested + 1}.csv"
    write_manifest(rows, path)
    return path


def score(
    run: Path,
    side: Sequence[LongVideo],
    tested: int,
    folder: Path,
    window: float,
    cache: Path,
) -> list[Scored]:
    """Return the windows of a side's videos with what a run's detector says of them."""
    from violence_detection.export.validation_clips import Sources, load_features
    from violence_detection.inference.detector import load_detector

    detector = load_detector(run)
    videos = {Clip(folder, video.name, video.label, "test"): video for video in side}
    windows = windows_of(list(videos), window, CLIP_TIMEOUT)
    parts = [part for own in windows.values() for part in own]
    with contextlib.ExitStack() as stack:
        spooled = Settings().data.spool_dir, Settings().data.spool_size
        sources = Sources(cache, Locations(folder, spooled, stack), CLIP_TIMEOUT)
        usable, features = load_features(detector, parts, sources)
    probabilities = detector.predict_features(features).probabilities
    by_name = {video.name: video for video in side}
    found = []
    for part, probability in zip(usable, probabilities.tolist(), strict=True):
        assert part.segment is not None and part.segment.end is not None
        start, end = part.segment.start, part.segment.end
        row = max(by_name[part.file].rows, key=partial(_shared, start=start, end=end))
        # Each side has detectors of its own, with thresholds of their own.
        found.append(
            Scored(
                *(part.file, start, end, row.label, row.group or ""),
                *(probability, probability >= detector.threshold),
            )
        )
    return found


def _shared(row: ManifestRow, start: float, end: float) -> float:
    """Return for how many seconds a clip lies in a window."""
    assert row.start is not None and row.end is not None
    return min(end, row.end) - max(start, row.start)


def figures(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return event figures and the frame-level ROC-AUC of the windows of all sides."""
    from violence_detection.evaluation.event_figures import (
        ComparedVideo,
        ScoredSpan,
        event_figures,
    )
    from violence_detection.inference.events import Window, find_events

    by_video: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        by_video[item.video].append(item)
    videos = []
    for own in by_video.values():
        # A threshold of 0.5 for all: 1 is violent at the detector's own.
        marked = [Window(item.start, item.end, float(item.is_violent)) for item in own]
        highest = {item.start: item.probability for item in own}
        events = [
            ScoredSpan(
                event.start,
                event.end,
                max(p for start, p in highest.items() if event.start <= start < event.end),
            )
            for event in find_events(marked, 0.5, gap=0.0)
        ]
        spans = merged_spans((item.start, item.end) for item in own if item.label)
        scores = [ScoredSpan(item.start, item.end, item.probability) for item in own]
        videos.append(ComparedVideo(own[-1].end, scores, events, spans))
    names = (
        *("events", "events_found", "detected_events", "false_alarms", "false_alarms_per_hour"),
        *("frame_roc_auc", "ap_at_0.3", "ap_at_0.5"),
    )
    found = event_figures(videos, threshold=0.5)
    return {name: found[name] for name in names}


def paired_difference(one: Sequence[Scored], other: Sequence[Scored]) -> dict[str, Any]:
    """Return how much higher the ROC-AUC of windows is than another's, with a 95 % interval.

    Paired bootstrap over sources: each resample draws sources, and counts the windows of each as
    often as it was drawn, for both.
    """
    labels = np.array([item.label for item in one])
    lengths = np.array([item.end - item.start for item in one])
    sources = np.unique([item.source for item in one], return_inverse=True)[1]
    scores = [np.array([item.probability for item in scored]) for scored in (one, other)]
    random = np.random.default_rng(0)

    def difference(weights: np.ndarray) -> float:
        first, second = (roc_auc_score(labels, own, sample_weight=weights) for own in scores)
        return float(first - second)

    resampled: list[float] = []
    while len(resampled) < RESAMPLES:
        drawn = random.integers(0, sources.max() + 1, sources.max() + 1)
        weights = lengths * np.bincount(drawn, minlength=sources.max() + 1)[sources]
        if all(weights[labels == label].sum() > 0 for label in (0, 1)):
            resampled.append(difference(weights))
    low, high = np.percentile(resampled, [2.5, 97.5]).tolist()
    return {
        "difference": difference(lengths),
        "interval": [low, high],
        "share_of_resamples_above_0": float(np.mean(np.array(resampled) > 0)),
        "sources": int(sources.max() + 1),
    }


def print_tables(report: Mapping[str, Any]) -> None:
    """Print the figures of each way, and how much better than whole videos they are."""
    rows = []
    for way, found in report["ways"].items():
        rows.append(
            [
                way,
                f"{found['frame_roc_auc']:.3f}",
                f"{found['events_found']} of {found['events']}",
                f"{found['false_alarms']} of {found['detected_events']}",
                f"{found['ap_at_0.3']:.3f}",
                f"{found['ap_at_0.5']:.3f}",
            ]
        )
    header = ["labels", "frame-level ROC-AUC", "events found", "false alarms", "AP 0.3", "AP 0.5"]
    print(Table("Windows of long videos", header, rows).as_text())
    for way, found in report["better_than_whole"].items():
        low, high = found["interval"]
        print(
            f"{way} - whole: {found['difference']:+.3f} ({low:+.3f} to {high:+.3f}), "
            f"{found['sources']} sources"
        )


if __name__ == "__main__":
    sys.exit(main())
