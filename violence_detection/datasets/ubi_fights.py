"""UBI-Fights: a label for each frame of 1,000 videos.

    videos/fight/F_0_1_0_0_0.mp4    216 videos with fights
    videos/normal/N_0_0_0_1_0.mp4   784 without
    annotation/F_0_1_0_0_0.csv      by the video's name, without a header: a line per frame, 1 in a
                                    fight, else 0
    test_videos.csv                 the names of the test videos, a line each; the others train

The videos have 30 frames per second. The rate of a video that was found is read from it, since
line N is its frame N whatever the rate. Copies that have no files for the normal videos are in use.

Sources: B. Degardin, H. Proença, "Human Activity Analysis: Iterative Weak/Self-Supervised Learning
Frameworks for Detecting Abnormal Events", IJCB 2020; socia-lab.di.ubi.pt/EventDetection; the
layout as the reader of MindSpore's MindVideo and other public users have it.
"""

import re
from itertools import groupby
from pathlib import Path, PurePosixPath

from violence_detection.clips.dataset import file_names
from violence_detection.clips.folder_names import split_of
from violence_detection.clips.video import UnreadableClip, open_video
from violence_detection.datasets.annotations import Event, EventRows, folder_of_videos, text_of
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.videos import VideoFolder, video_stem
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of

FRAMES_PER_SECOND = 30.0  # of a video that cannot be read
_NAME = re.compile(r"[FN](_\d+)+", re.IGNORECASE)
_FRAME_LABELS = re.compile(r"(?:[A-Za-z_]+\s+)?(?:[01](?:\.0*)?[\s,]*)+")


def ubi_fights(source: Path, manifest_folder: Path, videos: Path | None = None) -> Imported | None:
    """Read the labels of frames, see `formats.Reader`.

    Args:
        source: the data set's folder, its folder of annotations, or the file of one video.
    """
    tables = _tables_of(source)
    labelled = {video_stem(path.stem): path for path in tables if _NAME.fullmatch(path.stem)}
    if not any(_is_frame_labels(path) for path in labelled.values()):
        return None
    folder = folder_of_videos(source, videos)
    rows = EventRows(folder, manifest_folder)
    splits = _read_splits([path for path in tables if path not in labelled.values()])
    rest = "train" if splits else None
    unmarked = 0
    for stem, path in sorted(labelled.items()):
        labels = _read_labels(path)
        is_normal = stem[0] in "Nn"
        if is_normal and 1 in labels:
            raise UserError(
                f"{path}, line {labels.index(1) + 1}: a fight in a normal video: correct the "
                "label, or the name"
            )
        if not is_normal and 1 not in labels:
            unmarked += 1
            continue
        events = _events_of(labels, _rate_of(folder.find(stem)))
        rows.add(stem, events, str(path), split=splits.get(stem.lower(), rest))
    without = _add_normal(folder, labelled, rows, splits)
    notes = []
    if unmarked:
        notes.append(f"{count_of(unmarked, 'fight video')} left out: no frame is marked")
    if without:
        notes.append(f"{count_of(without, 'fight video')} left out: without annotation")
    return rows.imported("UBI-Fights", notes)


def _tables_of(source: Path) -> list[Path]:
    if source.is_dir():
        return [source / name for name in file_names(source) if name.lower().endswith(".csv")]
    return [source] if source.suffix.lower() == ".csv" else []


def _is_frame_labels(path: Path) -> bool:
    text = text_of(path)
    return text is not None and bool(_FRAME_LABELS.match(text))


def _read_labels(path: Path) -> list[int]:
    """Return a label per frame.

    Raises:
        UserError: the file is empty, or a line has something else.
    """
    labels = []
    lines = (text_of(path) or "").splitlines()
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip(" \t\"'") for cell in line.split(",")]
        if number == 1 and all(re.fullmatch(r"[A-Za-z_ ]+", cell) for cell in cells):
            continue  # a header
        for cell in filter(None, cells):
            if not re.fullmatch(r"[01](\.0*)?", cell):
                raise UserError(f"{path}, line {number}: {cell!r} is neither 0 nor 1")
            labels.append(int(cell[0]))
    if not labels:
        raise UserError(f"{path} has no labels of frames: restore it, or remove it and its video")
    return labels


def _events_of(labels: list[int], frames_per_second: float) -> list[Event]:
    """Return the runs of frames with label 1 in seconds."""
    events, position = [], 0
    for label, run in groupby(labels):
        end = position + len(list(run))
        if label:
            events.append((position / frames_per_second, end / frames_per_second))
        position = end
    return events


def _rate_of(video: Path | None) -> float:
    if video is None:
        return FRAMES_PER_SECOND
    try:
        with open_video(video) as opened:
            return opened.info.frames_per_second or FRAMES_PER_SECOND
    except UnreadableClip:  # training reports it
        return FRAMES_PER_SECOND


def _read_splits(tables: list[Path]) -> dict[str, str]:
    """Return the splits of `test_videos.csv` and the like by a video's stem in lower case."""
    splits: dict[str, str] = {}
    for path in tables:
        split = next(filter(None, map(split_of, re.findall("[A-Za-z]+", path.stem))), None)
        if split is None:
            continue
        for number, line in enumerate((text_of(path) or "").splitlines(), start=1):
            stem = video_stem(line.split(",")[0].strip(" \t\"'")).lower()
            if not _NAME.fullmatch(stem):
                if stem and number > 1:
                    raise UserError(f"{path}, line {number}: {stem!r} is no video of UBI-Fights")
                continue
            if splits.setdefault(stem, split) != split:
                raise UserError(f"{path}, line {number}: {stem} is in {splits[stem]} and {split}")
    return splits


def _add_normal(
    folder: VideoFolder, labelled: dict[str, Path], rows: EventRows, splits: dict[str, str]
) -> int:
    """Add normal videos that have no annotation; return how many fight videos have none."""
    known = {stem.lower() for stem in labelled}
    without = 0
    for name in folder.names:
        stem = PurePosixPath(name).stem
        if stem.lower() in known or not _NAME.fullmatch(stem):
            continue
        known.add(stem.lower())
        if stem[0] in "Ff":
            without += 1
        else:
            rows.add(stem, (), name, split=splits.get(stem.lower(), "train" if splits else None))
    return without
