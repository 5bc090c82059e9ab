"""XD-Violence: labels in the names of videos, and the times of violence in its test videos.

A name ends with `label_` and one to three codes: `label_A` is normal, `label_B1-0-0`,
`label_G-B2-B6` violent; 0 fills up. What comes before `__#` is the film or the YouTube video that
the clip was cut from: `Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6`, `v=S-7rRLrxnVQ__#1_…`.
The training videos (folders `1-1004` to `3320-3954`) have nothing but these labels, of minutes of
film; by the data set's definition, car accidents and explosions are violence, too.

`annotations.txt` lists the 500 violent test videos, a line each, some names with `.mp4`:

    Bad.Boys.1995__#01-33-51_01-34-37_label_B2-0-0 57 670 728 800

start and end frames of one or more events, from 0. There are 24 frames to the second: events that
last to the end of a clip end at 24 times its length. A variant has a code before each event,
`… B2 57 670 B2 728 800`, and lists an event of two codes twice. The 300 normal test videos are not
listed.

Sources: P. Wu et al., "Not only Look, but also Listen: Learning Multimodal Violence Detection
under Weak Supervision", ECCV 2020; roc-ng.github.io/XD-Violence with its annotations.txt and
ReadMe; list/annotations_multiclasses.txt of github.com/nwpu-zxr/VadCLIP.
"""

import re
from pathlib import Path, PurePosixPath

from violence_detection.clips.dataset import video_names
from violence_detection.clips.folder_names import split_of
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.annotations import (
    Event,
    EventRows,
    checked_event,
    find_annotations,
    folder_of_videos,
)
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.videos import manifest_path, video_stem
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of

NAME = "XD-Violence"
FRAMES_PER_SECOND = 24.0
CODES = {
    **{"B1": "fighting", "B2": "shooting", "B4": "riot", "B5": "abuse", "B6": "car accident"},
    **{"G": "explosion"},
}
_LABEL = re.compile(r"label_([A-Z0-9]+(?:-[A-Z0-9]+)*)$", re.IGNORECASE)
_LINE = re.compile(r"\S*label_\S+((\s+[A-Z]\d?)?\s+-?\d+\s+-?\d+)+", re.IGNORECASE)


def xd_violence(source: Path, manifest_folder: Path, videos: Path | None = None) -> Imported | None:
    """Read the test annotations, or the labels in the names of videos; see `formats.Reader`.

    Args:
        source: `annotations.txt`, or a folder. A folder is read by the names of its videos, each
            a clip, unless all its violent videos are in an annotation file that it has.
    """
    found = find_annotations(source, ".txt", _is_test_list)
    labelled = _labelled_videos(source) if source.is_dir() else []
    if found is None and not labelled:
        return None
    if found is not None:
        path, text = found
        events = _read_list(text, path)
        violent = {stem for stem, label in _labels(labelled) if label}
        if videos is not None or violent <= events.keys():
            return _events_of(events, path, source, manifest_folder, videos)
    elif videos is not None:
        raise UserError(
            f"{source} is {NAME} without annotations, so no other folder of videos is needed: "
            f"leave out {videos}"
        )
    imported = _clips_of(labelled, source, manifest_folder)
    if found is not None:
        imported.notes.append(f"for the times of violence in test videos, import {found[0]}")
    return imported


def film_of(name: str) -> str:
    """Return the film or YouTube video that a video was cut from."""
    return video_stem(name).partition("__#")[0]


def label_of(name: str, place: str) -> int:
    """Return the label that a video's name has: 1 violent, 0 nonviolent.

    Raises:
        UserError: it has none, an unknown one, or both.
    """
    found = _LABEL.search(video_stem(name))
    codes = set(found[1].upper().split("-")) - {"0"} if found else set()
    if not codes or (codes != {"A"} and not codes <= CODES.keys()):
        raise UserError(
            f"{place}: {name} ends with no label of XD-Violence: label_A, or one to three of "
            f"{', '.join(CODES)} as in label_B1-0-0"
        )
    return int(codes != {"A"})


def _labelled_videos(folder: Path) -> list[str]:
    """Return the videos, if most of a folder's have labels in their names."""
    names = video_names(folder)
    labelled = [name for name in names if _LABEL.search(video_stem(name))]
    return names if 2 * len(labelled) > len(names) else []


def _labels(names: list[str]) -> list[tuple[str, int]]:
    labelled = (name for name in names if _LABEL.search(video_stem(name)))
    return [(video_stem(name).lower(), label_of(name, name)) for name in labelled]


def _is_test_list(text: str) -> bool:
    return any(_LINE.fullmatch(line.strip()) for line in text.splitlines())


def _read_list(text: str, path: Path) -> dict[str, tuple[str, str, list[Event]]]:
    """Return by a video's stem in lower case: its name, the place for messages and its events."""
    videos: dict[str, tuple[str, str, list[Event]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{path}, line {number}"
        name, *cells = line.split() or [""]
        if not name or name.startswith("#"):
            continue
        if not label_of(name, place):
            raise UserError(f"{place}: {name} is labelled normal (A): it can have no events")
        frames = [cell for cell in cells if cell.upper() not in CODES]
        if not frames or len(frames) % 2 or not all(re.fullmatch(r"-?\d+", f) for f in frames):
            raise UserError(f"{place}: needs pairs of a start and an end frame: {' '.join(cells)}")
        pairs = zip(map(int, frames[::2]), map(int, frames[1::2]), strict=True)
        events = [checked_event(start, end, place, FRAMES_PER_SECOND) for start, end in pairs]
        stem = video_stem(name).lower()
        if stem in videos:
            raise UserError(f"{place}: {name} is listed twice, before in {videos[stem][1]}")
        videos[stem] = name, place, events
    return videos


def _events_of(
    events: dict[str, tuple[str, str, list[Event]]],
    path: Path,
    source: Path,
    manifest_folder: Path,
    videos: Path | None,
) -> Imported:
    """Return the test videos: the violent ones listed, the normal ones that lie beside them."""
    folder = folder_of_videos(source, videos)
    rows = EventRows(folder, manifest_folder)
    folders = set()
    for name, place, of_video in events.values():
        rows.add(name, of_video, place, split="test", group=film_of(name))
        if (found := folder.find(name)) is not None:
            folders.add(found.parent)
    normal = 0
    for name in folder.names:
        video = folder.folder / name
        if video.parent in folders and _LABEL.search(video.stem) and not label_of(name, str(path)):
            rows.add(name, (), name, split="test", group=film_of(name))
            normal += 1
    beside = "their folder" if len(folders) == 1 else "their folders"
    return rows.imported(NAME, [f"normal test videos are not listed: {normal:,} found in {beside}"])


def _clips_of(names: list[str], folder: Path, manifest_folder: Path) -> Imported:
    """Return all videos of a folder, each a clip with the label in its name."""
    rows, unlabelled = [], 0
    for name in names:
        if not _LABEL.search(video_stem(name)):
            unlabelled += 1
            continue
        path, label = manifest_path(folder / name, manifest_folder), label_of(name, str(folder))
        rows.append(ManifestRow(path, label, split=_split_in(name), group=film_of(name)))
    notes = ["a label is of a whole video: of a violent one, only parts are violent"]
    if unlabelled:
        notes.append(f"{count_of(unlabelled, 'video')} left out: no label in the name")
    return Imported(NAME, rows, notes=notes)


def _split_in(name: str) -> str | None:
    """Return the split that the folders of a video say: `test_videos`, `Train`, `1-1004`."""
    for part in PurePosixPath(name).parts[:-1]:
        if re.fullmatch(r"\d+-\d+", part):
            return "train"
        for word in re.findall(r"[A-Za-z]+", part):
            if (split := split_of(word)) is not None:
                return split
    return None
