"""The clips that a manifest lists: their videos found, segments checked, groups and splits."""

import argparse
import contextlib
import gc
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from violence_detection.clips.clip import Clip, Footage, Segment, VideoSegment, as_time
from violence_detection.clips.lengths import Length, video_lengths
from violence_detection.clips.locations import Locations
from violence_detection.clips.manifest import Manifest, ManifestRow, load_manifest
from violence_detection.clips.splits import (
    require_both_classes,
    require_enough_to_split,
    split_clips,
    with_validation,
)
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import SPLITS
from violence_detection.settings.values import folder_or_url
from violence_detection.storage.remote_paths import AnyPath

log = logging.getLogger(__name__)

ROUNDED = 0.5  # seconds by which a segment may end after its video: annotated times are rounded
MANY = 1000  # videos; from here on, folders are listed to see which of them exist


def listed_clips(
    path: AnyPath,
    locations: Locations,
    seed: int,
    clip_timeout: float,
    subgroups: Sequence[str] = (),
) -> tuple[list[Clip], bool]:
    """Return the clips of a manifest, sorted by name, and segments by time, within each split.

    Segments of one video are of one group unless other groups are given; segments that overlap
    are in any case.

    Args:
        path: of the manifest.
        locations: of its videos.
        seed: of the automatic split (`split_clips`), if the manifest has none.
        clip_timeout: seconds that reading the length of a video may take.
        subgroups: columns whose values the clips are given.

    Returns:
        The clips, and whether the manifest says which splits they are in.

    Raises:
        UserError: a line is wrong: it is named with its number, and how many more there are.
        RunError: an object store does not answer.
    """
    with _no_garbage_collection():
        manifest = load_manifest(path, subgroups)
        return _listed_clips(manifest, locations, seed, clip_timeout)


def listed_footage(path: AnyPath, locations: Locations, clip_timeout: float) -> list[Footage]:
    """Return the videos and segments of a manifest in its order, whatever their labels and splits.

    Args:
        path: of the manifest.
        locations: of its videos.
        clip_timeout: seconds that reading the length of a video may take.

    Raises:
        UserError: a line is wrong: it is named with its number, and how many more there are.
        RunError: an object store does not answer.
    """
    rows, _ = _checked_rows(load_manifest(path), locations, clip_timeout)
    videos = ((locations.path(row.video), segment_of(row)) for row in rows)
    return [VideoSegment(video, segment) if segment else video for video, segment in videos]


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause it: it would search millions of rows for cycles, again and again, and find none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _listed_clips(
    manifest: Manifest, locations: Locations, seed: int, clip_timeout: float
) -> tuple[list[Clip], bool]:
    rows, by_video = _checked_rows(manifest, locations, clip_timeout)
    groups = _groups(manifest, rows, by_video)
    splits_are_given = _splits_are_given(manifest, rows)
    subgroups = manifest.subgroups_of or [()] * len(rows)
    clips = [
        Clip(
            *(folder, file, row.label, row.split or "train"),
            *(group, prefix, segment_of(row), values),
        )
        for row, group, values in zip(rows, groups, subgroups, strict=True)
        for folder, file, prefix in (locations.locate(row.video),)
    ]
    if splits_are_given:
        clips = with_validation(sorted(clips, key=attrgetter("order")), seed)
    else:
        require_enough_to_split(clips)
        clips = split_clips(clips, seed)
    require_both_classes(clips)
    order = {split: number for number, split in enumerate(SPLITS)}
    clips.sort(key=lambda clip: order[clip.split])
    return clips, splits_are_given


def _checked_rows(
    manifest: Manifest, locations: Locations, clip_timeout: float
) -> tuple[list[ManifestRow], dict[str, list[int]]]:
    """Return the rows with one name for each video, and the numbers of each video's rows.

    Raises:
        UserError: a video is missing, a row is there twice, a time is after a video's end.
    """
    rows, by_video = _rows_by_video(manifest.rows, locations.folder)
    _note_missing_videos(manifest, by_video, locations)
    _note_repetitions(manifest, rows, by_video)
    manifest.require_no_problems()
    _note_times_after_the_end(manifest, rows, by_video, locations, clip_timeout)
    manifest.require_no_problems()
    return rows, by_video


def segment_of(row: ManifestRow) -> Segment | None:
    """Return the segment of a row's video; None if it is all of it."""
    return Segment(row.start or 0.0, row.end) if _is_segment(row) else None


def _is_segment(row: ManifestRow) -> bool:
    return row.start is not None or row.end is not None


def _rows_by_video(
    given: list[ManifestRow], folder: AnyPath
) -> tuple[list[ManifestRow], dict[str, list[int]]]:
    """Return the rows with one name for each video, and the numbers of each video's rows."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(given):
        by_name[row.video].append(number)
    renamed = {name: video for name in by_name if (video := _normalized(name, folder)) != name}
    if not renamed:
        return given, by_name
    rows = list(given)
    for name, video in renamed.items():
        numbers = by_name.pop(name)
        for number in numbers:
            rows[number] = given[number]._replace(video=video)
        by_name[video] = sorted(by_name[video] + numbers)
    return rows, by_name


def _normalized(video: str, folder: AnyPath) -> str:
    """Return the one name of a video: relative to the folder if it is in it."""
    if "://" in video or not isinstance(folder, Path):
        return video
    if video.startswith(("./", "/", "~")) or "//" in video or "/." in video:
        path = os.path.normpath(Path(video).expanduser())
        return path.removeprefix(f"{folder}/")
    return video


def _note_missing_videos(
    manifest: Manifest, by_video: dict[str, list[int]], locations: Locations
) -> None:
    """Note the lines whose video does not exist; one at a URL of its own is found missing later."""
    folder = locations.folder
    below = [video for video in by_video if "://" not in video]
    if len(below) >= MANY and isinstance(folder, Path):
        missing = _missing_of_many(folder, below)
    else:
        missing = [video for video in below if not (folder / video).is_file()]
    problems = {
        video: f"video {video!r}: no such file (paths are relative to {folder})"
        for video in missing
    }
    if len(below) < len(by_video):
        problems |= {
            video: problem
            for video in by_video
            if "://" in video and (problem := _problem_of_url(video))
        }
    for video, problem in problems.items():
        for number in by_video[video]:
            manifest.add_problem(manifest.lines[number], problem)


def _problem_of_url(url: str) -> str | None:
    """Return why a URL is refused, without the URL, in which there may be a secret."""
    try:
        folder_or_url(url)
    except argparse.ArgumentTypeError as error:
        return str(error)
    return None


def _missing_of_many(folder: Path, videos: Iterable[str]) -> list[str]:
    """Return the videos that do not exist; of millions, each folder is listed once."""
    entries: dict[str, set[str]] = {}  # the names in each folder that has been listed
    missing = []
    for video in videos:
        parent, _, name = video.rpartition("/")
        if parent not in entries:
            try:
                with os.scandir(folder / (parent or "/" * video.startswith("/"))) as found:
                    entries[parent] = {entry.name for entry in found if not entry.is_dir()}
            except OSError:
                entries[parent] = set()
        if name not in entries[parent]:
            missing.append(video)
    return missing


def _note_repetitions(
    manifest: Manifest, rows: Sequence[ManifestRow], by_video: dict[str, list[int]]
) -> None:
    """Note the lines that list a clip once more."""
    for numbers in by_video.values():
        first: dict[tuple[float | None, float | None], int] = {}
        for number in numbers if len(numbers) > 1 else ():
            row = rows[number]
            before = first.setdefault((row.start or 0.0, row.end), number)
            if before != number:
                labels = "" if rows[before].label == row.label else ", with another label"
                manifest.add_problem(
                    manifest.lines[number],
                    f"the same clip as in line {manifest.lines[before]}{labels}",
                )


def _note_times_after_the_end(
    manifest: Manifest,
    rows: Sequence[ManifestRow],
    by_video: dict[str, list[int]],
    locations: Locations,
    timeout: float,
) -> None:
    """Note the lines whose times are after the end of the video, and videos that cannot be read.

    Videos in a store would have to be downloaded; of these it is found out when they are decoded.
    """
    timed = {
        Path(locations.path(video)): timed_rows
        for video, numbers in by_video.items()
        if isinstance(locations.folder, Path)
        and "://" not in video
        and (timed_rows := [n for n in numbers if _is_segment(rows[n])])
    }
    latest = {
        path: max(rows[n].end or rows[n].start or 0.0 for n in numbers)
        for path, numbers in timed.items()
    }
    needed = {path: time - ROUNDED for path, time in latest.items()}
    for path, length in video_lengths(needed, timeout).items():
        if isinstance(length, float) and latest[path] < length:
            continue
        for number in timed[path]:
            if problem := _problem_of_times(rows[number], length):
                video = rows[number].video
                manifest.add_problem(manifest.lines[number], f"video {video!r}: {problem}")


def _problem_of_times(row: ManifestRow, length: Length) -> str | None:
    """Return what is wrong with the times of a row in a video; None if nothing is."""
    if isinstance(length, str):
        return length
    if length is None:
        return None
    for name, time, allowed in (("start", row.start, 0.0), ("end", row.end, ROUNDED)):
        if time is not None and time >= length + allowed:
            return f"{name} {as_time(time)} is after its end, at {as_time(length)} s"
    return None


def _groups(
    manifest: Manifest, rows: Sequence[ManifestRow], by_video: dict[str, list[int]]
) -> list[str | None]:
    """Return the group of each row.

    Raises:
        UserError: segments that overlap are in different splits.
    """
    groups = [row.group for row in rows]
    same: dict[str, str] = {}  # groups that overlapping segments have joined

    def joined(group: str) -> str:
        while group in same:
            group = same[group]
        return group

    for video, numbers in by_video.items():
        if len(numbers) == 1:
            continue
        for number in numbers:
            groups[number] = groups[number] or video
        numbers.sort(key=lambda n: rows[n].start or 0.0)
        last = numbers[0]  # of those so far, the one that ends last
        for number in numbers[1:]:
            end = rows[last].end
            if end is None or (rows[number].start or 0.0) < end:
                _require_one_side(manifest, rows, last, number)
                one, other = joined(groups[last] or video), joined(groups[number] or video)
                if one != other:
                    same[other] = one
            own_end = rows[number].end
            if end is not None and (own_end is None or own_end > end):
                last = number
    if same:
        log.warning("%s joined: segments of them overlap", count_of(len(same) + 1, "group"))
    return [group and joined(group) for group in groups]


def _require_one_side(
    manifest: Manifest, rows: Sequence[ManifestRow], one: int, other: int
) -> None:
    if rows[one].split != rows[other].split:
        first, second = sorted((manifest.lines[one], manifest.lines[other]))
        raise UserError(
            f"{manifest.path}, line {second}: overlaps the segment in line {first}, which is in "
            "another split"
        )


def _splits_are_given(manifest: Manifest, rows: Sequence[ManifestRow]) -> bool:
    """Return whether the rows have splits.

    Raises:
        UserError: only some have.
    """
    without = [number for number, row in enumerate(rows) if row.split is None]
    if without and len(without) < len(rows):
        line = manifest.lines[without[0]]
        others = f" ({count_of(len(without) - 1, 'more line')})" if len(without) > 1 else ""
        raise UserError(
            f"{manifest.path}, line {line}: has no split, others have{others}: give one to all, or "
            "leave the column out"
        )
    return not without
