"""UCF-Crime: the times of anomalies in its test videos.

`Temporal_Anomaly_Annotation_for_Testing_Videos.txt`, a line per video, separated by spaces:

    Abuse028_x264.mp4  Abuse  165  240  -1  -1

are the video, the class (13 anomalies or Normal), and start and end frames of up to two events; a
negative number means no event. Copies without `.mp4` and with the number of frames as a seventh
column are in use. Frames count 30 to the second, whatever the file's own rate: the authors'
evaluation takes a video's duration times 30 for the number of its frames. Whether the first frame
is 0 or 1 is not said; it is 1/30 s, and the annotators' numbers are multiples of 5 or more.

All are videos of the test split (140 with anomalies, 150 normal). The training videos have no
times: only that an anomaly is somewhere in them.

Sources: W. Sultani, C. Chen, M. Shah, "Real-World Anomaly Detection in Surveillance Videos", CVPR
2018; the data set's ReadMe-Anomaly-Detection.txt; Evaluate_Anomaly_Detector.m of
github.com/WaqasSultani/AnomalyDetectionCVPR2018.
"""

import re
from collections import Counter
from pathlib import Path

from violence_detection.datasets.annotations import (
    Event,
    EventRows,
    checked_event,
    find_annotations,
    folder_of_videos,
)
from violence_detection.datasets.imported import Imported
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of

FRAMES_PER_SECOND = 30.0
# Someone hurts or threatens someone. The other anomalies are left out rather than nonviolent: an
# arrest or a burglary may well be violent.
VIOLENT = ("Abuse", "Assault", "Fighting", "Robbery", "Shooting")
OTHERS = (
    *("Arrest", "Arson", "Burglary", "Explosion", "RoadAccidents", "Shoplifting", "Stealing"),
    "Vandalism",
)
NORMAL = "Normal"
_CLASSES = {name.lower(): name for name in (*VIOLENT, *OTHERS, NORMAL)}
_LINE = re.compile(r"[^\s,]+[\s,]+([A-Za-z_]+)((?:[\s,]+-?\d+(?:\.\d+)?)+)[\s,]*")


def ucf_crime(
    source: Path,
    manifest_folder: Path,
    videos: Path | None = None,
    violent: tuple[str, ...] = VIOLENT,
) -> Imported | None:
    """Read the temporal list, see `formats.Reader`.

    Args:
        source: the list, or a folder that has it at any depth.
        violent: the classes whose events are violent; videos of other anomalies are left out.
    """
    found = find_annotations(source, ".txt", _is_temporal_list)
    if found is None:
        return None
    path, text = found
    rows = EventRows(folder_of_videos(source, videos), manifest_folder)
    left_out: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"{path}, line {number}"
        name, class_name, events = _read_line(line, place)
        if class_name == NORMAL or class_name in violent:
            rows.add(name, events, place, split="test")
        else:
            left_out[class_name] += 1
    notes = ["all videos are of the test split: the training videos have no times"]
    if left_out:
        classes = ", ".join(f"{name} {left_out[name]}" for name in sorted(left_out))
        count = count_of(left_out.total(), "video")
        notes.append(f"{count} of other anomalies left out, neither violent nor normal: {classes}")
    return rows.imported("UCF-Crime", notes)


def _is_temporal_list(text: str) -> bool:
    lines = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return any(
        line and _class_named(line[1]) and len(re.findall(r"\d+", line[2])) > 1 for line in lines
    )


def _class_named(text: str) -> str | None:
    return NORMAL if "normal" in text.lower() else _CLASSES.get(text.replace("_", "").lower())


def _read_line(line: str, place: str) -> tuple[str, str, list[Event]]:
    """Return a video, its class and its events."""
    name, *cells = re.split(r"[\s,]+", line.strip().rstrip(","))
    class_name = _class_named(cells[0]) if cells else None
    if class_name is None:
        raise UserError(
            f"{place}: {cells[0] if cells else ''!r} is no class of UCF-Crime; they are "
            f"{', '.join(sorted(_CLASSES.values()))}"
        )
    try:
        frames = [float(cell) for cell in cells[1:]]
    except ValueError:
        frames = []
    if len(frames) not in (2, 4, 5):  # the fifth is the number of frames
        raise UserError(f"{place}: needs a start and an end frame, or two of each: {line.strip()}")
    events = []
    for start, end in zip(frames[0:4:2], frames[1:4:2], strict=True):
        if start >= 0 or end >= 0:
            events.append(checked_event(start, end, place, FRAMES_PER_SECOND))
    if bool(events) == (class_name == NORMAL):
        raise UserError(
            f"{place}: {name} is {class_name}, but has {count_of(len(events), 'event')}: "
            "correct the class or the frames"
        )
    return name, class_name, events
