"""Label Studio's exports "JSON" and "JSON-MIN".

Facts, from its documentation (guides "Export annotations" and "Import pre-annotated data", tags
Video, TimelineLabels, Choices and Audio), its editor (web/libs/editor: TimelineRegion.js,
VideoCanvas.tsx) and its converter (label_studio_sdk/converter):

- JSON is a list of tasks: `id`, `data`, and `annotations` (before version 1: `completions`), each
  with `result`, `was_cancelled`, `ground_truth`, `created_at` and `updated_at`. An item of
  `result` has `from_name` (the control), `type` and `value`. `predictions` are a model's.
- JSON-MIN is a list of one object per annotation: the keys of `data`, then `id`, then one key per
  control, then `annotator`, `annotation_id`, `created_at`, `updated_at` and `lead_time`. A
  control's value is a list of what JSON has as `value`; a single choice is its text.
- Choices are `{"choices": ["fight"]}`. With `start` and `end` they are of a region.
- `Labels` of an `Audio` tag in sync with the video are `{"start", "end", "labels"}` in seconds.
- `TimelineLabels` are `{"ranges": [{"start", "end"}], "timelinelabels"}` in frames from 1, both
  included. A frame is the time in seconds times the `frameRate` of the `Video` tag, 24 unless it
  is given, whatever the video's own rate is. The labelling configuration is not in the export.
- Boxes are `{"sequence": [{"frame", "enabled", ...}], "framesCount", "duration", "labels"}`. From
  an item of the sequence with `enabled` the object is visible, to the next one.
- A file that was uploaded is `/data/upload/PROJECT/DIGITS-NAME`, one of a local storage
  `/data/local-files/?d=PATH`.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from violence_detection.clips.clip import VIDEO_SUFFIXES
from violence_detection.clips.folder_names import split_of
from violence_detection.datasets.annotations import as_number
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.tools.annotated import AnnotatedVideo, Answer, Importer
from violence_detection.datasets.tools.sources import (
    NamedVideos,
    export_files,
    path_in,
    read_json,
)
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of

NAME = "Label Studio"
FRAME_RATE = 24.0  # frames per second, unless the Video tag has `frameRate`
RATE_KEYS = ("fps", "framerate", "frame_rate")  # of a task's data, for frameRate="$fps"
AFTER_CONTROLS = frozenset(
    ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "id")
)


def label_studio(source: Path, manifest_folder: Path, videos: Path | None) -> Imported | None:
    """Read Label Studio's JSON or JSON-MIN export.

    See `datasets.formats.Reader`. Of several annotations of a task, one marked as ground truth is
    taken, else the latest. An annotation that was submitted without a label is of a video
    without events, if the other annotations are of events.
    """
    found = {
        path: tasks for path in export_files(source, ".json") if (tasks := _tasks(read_json(path)))
    }
    if not found:
        return None
    if len(found) > 1:
        raise UserError(f"{source}: has several exports of {NAME}: name one, such as {min(found)}")
    ((source, tasks),) = found.items()
    importer = Importer(source, NAME)
    named = NamedVideos(source, videos)
    reader = _Reader(source, named)
    annotated = list(reader.videos(tasks))
    if reader.several:
        importer.notes.append(
            f"{count_of(reader.several, 'task')} with several annotations: the latest was taken"
        )
    if reader.at_default_rate:
        importer.notes.append(
            f"frames of {count_of(reader.at_default_rate, 'task')} taken as {FRAME_RATE:g}/s, "
            "Label Studio's default: put fps into the data of tasks with another frameRate"
        )
    return importer.imported(annotated, manifest_folder, named.missing)


def _tasks(content: Any) -> list[dict[str, Any]]:
    """Return tasks in the form of JSON; none if the content is of another format."""
    tasks = content if isinstance(content, list) else [content]
    if not tasks or not all(isinstance(task, dict) for task in tasks):
        return []
    if all(isinstance(task.get("data"), dict) for task in tasks):
        kinds = ("annotations", "completions", "predictions")
        if any(isinstance(task.get(kind), list) for task in tasks for kind in kinds):
            return tasks
        return []
    if all("annotation_id" in task and "annotator" in task for task in tasks):
        return _from_min(tasks)
    return []


def _from_min(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks of JSON-MIN, one per annotation."""
    tasks: dict[Any, dict[str, Any]] = {}
    for number, record in enumerate(records):
        keys = list(record)
        # Text may be of the data or of a choice: the keys of the data come before `id`.
        first = keys.index("id") + 1 if "id" in keys[1:] else 0
        controls = [
            key
            for position, key in enumerate(keys)
            if key not in AFTER_CONTROLS
            and (isinstance(record[key], list | dict) or (first and position >= first))
        ]
        result = [
            {"from_name": key, "value": {"choices": [value]} if isinstance(value, str) else value}
            for key in controls
            for value in (record[key] if isinstance(record[key], list) else [record[key]])
            if isinstance(value, str | dict)
        ]
        data = {key: value for key, value in record.items() if key not in controls}
        task_id = str(record.get("id", f"(number {number + 1})"))
        task = tasks.setdefault(task_id, {"id": task_id, "data": data, "annotations": []})
        times = {key: record.get(key) for key in ("created_at", "updated_at")}
        task["annotations"].append({"result": result, **times})
    return list(tasks.values())


class _Reader:
    """Reads tasks.

    Args:
        source: the export, for messages.
        named: the videos.
    """

    def __init__(self, source: Path, named: NamedVideos) -> None:
        self.source = source
        self.named = named
        self.several = 0  # tasks with several annotations
        self.at_default_rate = 0  # tasks with frames whose rate is not in the export

    def videos(self, tasks: Iterable[dict[str, Any]]) -> Iterator[AnnotatedVideo]:
        """Yield the videos of tasks that were found."""
        for task in tasks:
            place = f"task {task.get('id', task.get('inner_id', ''))}"
            annotation = self._annotation(task)
            data = task["data"]
            names = _video_names(data)
            if not names:
                raise UserError(f"{self.source}, {place}: its data names no video: {_shown(data)}")
            video = self.named.find(*names)
            if video is None:
                continue
            results = [] if annotation is None else self._results(annotation, place)
            answers = tuple(
                answer for result in results for answer in self._answers(result, task, place)
            )
            if any(_in_frames(result["value"]) for result in results):
                self.at_default_rate += _frame_rate(task) is None
            yield AnnotatedVideo(
                place, video, answers, _split(data), is_finished=annotation is not None
            )

    def _annotation(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """Return the annotation that counts; None if there is none."""
        found = [
            annotation
            for annotation in task.get("annotations") or task.get("completions") or []
            if isinstance(annotation, dict)
            and not annotation.get("was_cancelled")
            and not annotation.get("skipped")
        ]
        if not found:
            return None
        self.several += len(found) > 1

        def rank(annotation: dict[str, Any]) -> tuple[bool, str]:
            time = annotation.get("updated_at") or annotation.get("created_at") or ""
            return bool(annotation.get("ground_truth")), str(time)

        return max(reversed(found), key=rank)

    def _results(self, annotation: dict[str, Any], place: str) -> list[dict[str, Any]]:
        results = annotation.get("result") or []
        if not isinstance(results, list):
            raise UserError(f"{self.source}, {place}: its result is no list: export it again")
        return [
            result
            for result in results
            if isinstance(result, dict) and isinstance(result.get("value"), dict)
        ]

    def _answers(
        self, result: dict[str, Any], task: dict[str, Any], place: str
    ) -> Iterator[Answer]:
        value = result["value"]
        labels = _labels(value)
        if not labels or "text" in value:  # of a text, not of time
            return
        question = str(result.get("from_name") or result.get("type") or "")
        region = f"region {result['id']}" if result.get("id") else ""
        if _in_frames(value):
            rate = _frame_rate(task)
            if rate is None:
                rate = FRAME_RATE
                region += f" (frames taken as {rate:g}/s)"
            for first, last in self._frame_ranges(value, f"{place}, {region}"):
                yield Answer(question, labels, (first - 1) / rate, last / rate, region.strip())
        elif "start" in value or "end" in value:
            start, end = as_number(value.get("start")), as_number(value.get("end"))
            if start is None or end is None:
                raise UserError(
                    f"{self.source}, {place}: {value.get('start')!r} to {value.get('end')!r} are "
                    "no seconds"
                )
            yield Answer(question, labels, start, end, region)
        else:
            yield Answer(question, labels, place=question)

    def _frame_ranges(self, value: dict[str, Any], place: str) -> Iterator[tuple[float, float]]:
        """Yield the first and last frames of a region."""
        if "sequence" in value:
            yield from self._visible(value, place)
            return
        for each in value["ranges"]:
            each = each if isinstance(each, dict) else {}
            # One end is missing if it was not drawn yet: a single frame.
            start, end = as_number(each.get("start")), as_number(each.get("end"))
            first, last = (end if start is None else start), (start if end is None else end)
            if first is None or last is None or not 0 <= first <= last:
                raise UserError(f"{self.source}, {place}: {each} are no frames from 1")
            yield max(first, 1.0), max(last, 1.0)

    def _visible(self, value: dict[str, Any], place: str) -> Iterator[tuple[float, float]]:
        start: float | None = None
        frame: float | None = None
        for keyframe in value["sequence"]:
            frame = as_number(keyframe.get("frame")) if isinstance(keyframe, dict) else None
            if frame is None:
                raise UserError(f"{self.source}, {place}: {keyframe!r} has no frame")
            is_enabled = bool(keyframe.get("enabled", True))
            if is_enabled and start is None:
                start = frame
            if not is_enabled:
                yield (frame if start is None else start), frame
                start = None
        if start is not None:
            yield start, as_number(value.get("framesCount")) or frame or start


def _labels(value: dict[str, Any]) -> tuple[str, ...]:
    """Return the labels of a result: "labels", "timelinelabels", "choices" and the like."""
    found = [
        label
        for key, labels in value.items()
        if key.endswith(("labels", "choices")) and isinstance(labels, list)
        for label in labels
        if isinstance(label, str)
    ]
    return tuple(dict.fromkeys(found))


def _in_frames(value: dict[str, Any]) -> bool:
    return isinstance(value.get("ranges"), list) or isinstance(value.get("sequence"), list)


def _frame_rate(task: dict[str, Any]) -> float | None:
    """Return the frames per second that a task's data or a box states; None if neither does."""
    data = {key.lower(): value for key, value in task["data"].items()}
    for key in RATE_KEYS:
        rate = as_number(data.get(key))
        if rate and rate > 0:
            return 1 / rate if rate < 1 else rate  # as the Video tag takes it
    for annotation in task.get("annotations") or []:
        for result in annotation.get("result") or []:
            value = result.get("value")
            if not isinstance(value, dict):
                continue
            count, seconds = as_number(value.get("framesCount")), as_number(value.get("duration"))
            if count and seconds and count > 0 and seconds > 0:
                return count / seconds
    return None


def _video_names(data: dict[str, Any]) -> list[str]:
    """Return the names of a task's video; none if the data has none."""
    named = {
        key: value
        for key, value in data.items()
        if isinstance(value, str) and _suffix(value) in VIDEO_SUFFIXES
    }
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    for candidates in (named, texts):
        for key, value in candidates.items():
            if "video" in key.lower():
                return [value]
    return list(named.values())[:1]


def _suffix(name: str) -> str:
    return Path(re.sub(r"[?#].*", "", path_in(name))).suffix.lower()


def _split(data: dict[str, Any]) -> str | None:
    value = data.get("split", data.get("subset"))
    return split_of(value) if isinstance(value, str) else None


def _shown(data: dict[str, Any]) -> str:
    return ", ".join(f"{key} {str(value)[:60]!r}" for key, value in data.items()) or "it is empty"
