"""Make a manifest for --dataset-path: from a data set of the field, the export
of an annotation tool, or long videos with annotated times; or join several.

  python -m violence_detection.datasets RWF-2000 --output rwf.csv
  python -m violence_detection.datasets export.json --videos footage --output events.csv
  python -m violence_detection.datasets events.csv --window 2 --output clips.csv
  python -m violence_detection.datasets DIR events/feedback/feedback.csv --output all.csv
"""

import argparse
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from violence_detection.clips.lengths import video_lengths
from violence_detection.clips.manifest import (
    ManifestRow,
    is_manifest,
    load_manifest,
    write_manifest,
)
from violence_detection.datasets.folders import class_folders
from violence_detection.datasets.formats import FORMATS, read
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.videos import manifest_path
from violence_detection.datasets.windows import Windowing, make_windows
from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.runtime.wording import COLUMNS, count_of
from violence_detection.settings.constants import CLASS_NAMES, CLIP_TIMEOUT, SPLITS
from violence_detection.settings.parser import FlagParser

SHOWN = 3  # missing videos that are named


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the manifest, say what is in it, and return the exit status."""
    flags = make_parser().parse_args(arguments)
    return run_or_explain(lambda: make_manifest(flags), flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        description=__doc__,
        epilog=textwrap.fill("formats: " + ", ".join(each.name for each in FORMATS), COLUMNS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        nargs="+",
        help="the data set's folder, an annotation file, or a manifest; several are joined",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="the manifest, a .csv")
    add(
        "--videos",
        type=Path,
        metavar="DIR",
        help="where the videos are (default: where the annotations are)",
    )
    add("--window", type=_seconds, metavar="S", help="make clips of S seconds of long videos")
    add(
        "--margin",
        type=_seconds,
        metavar="S",
        help="seconds around events to leave out (default: 2)",
    )
    add(
        "--per-hour",
        type=float,
        default=60.0,
        metavar="N",
        help="nonviolent clips per hour of video, at most (default: 60)",
    )
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--force", action="store_true", help="replace an existing file")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return seconds


def make_manifest(flags: argparse.Namespace) -> int:
    """Read the source, make windows if they are asked for, and write the manifest.

    Raises:
        UserError: the source has no known format, or what it says is impossible.
        RunError: the manifest cannot be written.
    """
    output = flags.output.expanduser().resolve()
    if output.suffix.lower() != ".csv":
        raise UserError(f"--output {output}: must end in .csv")
    if output.exists() and not flags.force:
        raise UserError(f"--output {output} exists: name another file, or give --force")
    sources = [source.expanduser().resolve() for source in flags.source]
    imported = _joined([_read(source, output.parent, flags.videos) for source in sources])
    rows, notes = imported.rows, list(imported.notes)
    if flags.window:
        margin = 2.0 if flags.margin is None else flags.margin
        windowing = Windowing(flags.window, margin, flags.per_hour)
        windows = make_windows(rows, _lengths(rows, output.parent), windowing)
        rows = windows.rows
        if windows.too_short:
            notes.append(
                f"{count_of(windows.too_short, 'event')} left out: shorter than half a window"
            )
    elif imported.are_events:
        notes.append("its rows are events of long videos: --window 2 makes training clips of them")
    write_manifest(rows, output)
    print(f"{imported.format}: {count_of(len(rows), 'clip')} written to {output}")
    _print_counts(rows)
    if imported.missing:
        named = ", ".join(imported.missing[:SHOWN])
        more = len(imported.missing) - SHOWN
        others = f" and {more} more" if more > 0 else ""
        print(f"missing: {count_of(len(imported.missing), 'video')}: {named}{others}")
    for note in notes:
        print(f"note: {note}")
    return 0


def _read(source: Path, manifest_folder: Path, videos: Path | None) -> Imported:
    """Return the rows of a manifest, or of whatever else the source is."""
    if source.is_file() and is_manifest(source):
        try:
            rows = load_manifest(source).rows
        except UserError as not_a_manifest:
            try:
                return read(source, manifest_folder, videos)
            except UserError:
                if not {"video", "label"} & set(_first_line(source)):
                    raise
                raise not_a_manifest from None
        folder = videos.expanduser().resolve() if videos else source.parent
        return Imported("manifest", [_relative(row, folder, manifest_folder) for row in rows])
    try:
        return read(source, manifest_folder, videos)
    except UserError:
        if (plain := class_folders(source, manifest_folder)) is None:
            raise
        return plain


def _joined(parts: Sequence[Imported]) -> Imported:
    """Return the rows of all sources; those without a split are trained on if others have one."""
    if len(parts) == 1:
        return parts[0]
    rows = [row for part in parts for row in part.rows]
    notes = [note for part in parts for note in part.notes]
    without = sum(row.split is None for row in rows)
    if 0 < without < len(rows):
        rows = [row._replace(split=row.split or SPLITS[0]) for row in rows]
        notes.append(f"{count_of(without, 'clip')} without a split: put into {SPLITS[0]}")
    return Imported(
        " and ".join(part.format for part in parts),
        rows,
        any(part.are_events for part in parts),
        [video for part in parts for video in part.missing],
        notes,
    )


def _first_line(path: Path) -> list[str]:
    """Return the words of a file's first line."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return re.findall(r"\w+", next(file, "").lower())


def _relative(row: ManifestRow, folder: Path, manifest_folder: Path) -> ManifestRow:
    """Return a row whose video is named for a manifest in another folder."""
    if "://" in row.video:
        return row
    return row._replace(video=manifest_path(folder / row.video, manifest_folder))


def _lengths(rows: Sequence[ManifestRow], folder: Path) -> dict[str, float]:
    """Return the seconds of each video.

    Raises:
        UserError: one cannot be read; it says how many more.
    """
    latest: dict[Path, float] = {}
    for row in rows:
        if "://" in row.video:
            raise UserError(f"{row.video}: windows need the length of a video on this machine")
        path = folder / row.video
        latest[path] = max(latest.get(path, 0.0), row.end or row.start or 0.0)
    lengths = video_lengths(latest, CLIP_TIMEOUT)
    wrong = {path: length for path, length in lengths.items() if not isinstance(length, float)}
    if wrong:
        path, reason = next(iter(wrong.items()))
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"{path}: {reason or 'says nothing of its length'}{more}")
    return {row.video: float(lengths[folder / row.video] or 0.0) for row in rows}


def _print_counts(rows: Sequence[ManifestRow]) -> None:
    """Print how many clips there are by class, split and source."""
    for split in (*SPLITS, None):
        of_split = [row for row in rows if row.split == split]
        if of_split:
            counts = Counter(row.label for row in of_split)
            by_class = ", ".join(f"{counts[n]} {name}" for n, name in enumerate(CLASS_NAMES))
            sources = len({row.group or row.video for row in of_split})
            print(f"{split or 'no split':8} {by_class}, of {count_of(sources, 'source')}")
