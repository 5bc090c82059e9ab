"""CCTV-Fights: the times of fights in 1,000 videos.

`groundtruth.json` has `version` and `database`: by the video's name without suffix (`fight_0001`),
`duration` in seconds, `subset` (training 500, validation 250, testing 250), `nb_frames`,
`frame_rate`, `source` (CCTV, Mobile, Car or Other) and `annotations`, a list of
`{"segment": [start, end], "label": "Fight"}` in seconds. The videos, `.mpeg`, lie in one folder or
in folders of hundreds. All have a fight; what is not violent is the rest of them.

Sources: M. Perez, A. C. Kot, A. Rocha, "Detection of Real-World Fights in Surveillance Videos",
ICASSP 2019; rose1.ntu.edu.sg/dataset/cctvFights; the file's layout as public users of it describe
it, which is that of ActivityNet.
"""

import json
from pathlib import Path
from typing import Any

from violence_detection.clips.folder_names import class_of, split_of
from violence_detection.datasets.annotations import (
    Event,
    EventRows,
    as_number,
    checked_event,
    find_annotations,
    folder_of_videos,
)
from violence_detection.datasets.imported import Imported
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of


def cctv_fights(source: Path, manifest_folder: Path, videos: Path | None = None) -> Imported | None:
    """Read `groundtruth.json`, see `formats.Reader`.

    Args:
        source: the file, or a folder that has it at any depth.
    """
    found = find_annotations(source, ".json", lambda text: _database_of(text) is not None)
    if found is None:
        return None
    path, text = found
    rows = EventRows(folder_of_videos(source, videos), manifest_folder)
    nonviolent = cut = 0
    for name, item in (_database_of(text) or {}).items():
        place = f"{path}, {name}"
        events = []
        for annotation in item["annotations"]:
            if not _label_of(annotation, place):
                nonviolent += 1
                continue
            start, end = _segment_of(annotation, place)
            duration = _number(item.get("duration", end), f"{place}: duration")
            if start >= duration:
                raise UserError(
                    f"{place}: a fight starts at {start:g} s, but the video lasts {duration:g} s"
                )
            cut += end > duration
            events.append((start, min(end, duration)))
        rows.add(name, events, place, split=_split_of(item, place))
    notes = []
    if nonviolent:
        notes.append(f"{count_of(nonviolent, 'nonviolent segment')} left out: fights are events")
    if cut:
        notes.append(f"{count_of(cut, 'fight')} cut at the end of the video")
    return rows.imported("CCTV-Fights", notes)


def _database_of(text: str) -> dict[str, dict[str, Any]] | None:
    """Return the annotations by video; None if the file is of another format."""
    if not text.lstrip().startswith("{") or '"database"' not in text:
        return None
    try:
        database = json.loads(text).get("database")
    except (ValueError, RecursionError):
        return None
    if not isinstance(database, dict) or not database:
        return None
    items = database.values()
    if not all(isinstance(item, dict) and _is_list(item.get("annotations")) for item in items):
        return None
    return database


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _label_of(annotation: dict[str, Any], place: str) -> int:
    label = class_of(str(annotation.get("label")))
    if label is None:
        raise UserError(
            f"{place}: the label {annotation.get('label')!r} is neither violent nor nonviolent; "
            "the data set has Fight"
        )
    return label


def _segment_of(annotation: dict[str, Any], place: str) -> Event:
    segment = annotation.get("segment")
    if not isinstance(segment, list) or len(segment) != 2:
        raise UserError(f"{place}: the segment {segment!r} is no [start, end] in seconds")
    start, end = (_number(value, f"{place}: the segment {segment!r}") for value in segment)
    return checked_event(start, end, place)


def _number(value: object, place: str) -> float:
    number = as_number(value)
    if number is None:
        raise UserError(f"{place}: {value!r} is no number of seconds")
    return number


def _split_of(item: dict[str, Any], place: str) -> str | None:
    subset = item.get("subset")
    if subset in (None, ""):
        return None
    split = split_of(str(subset))
    if split is None:
        raise UserError(
            f"{place}: the subset {subset!r} is none of training, validation and testing"
        )
    return split
