"""FiftyOne's data sets on disk: `FiftyOneDataset` and `FiftyOneTemporalDetectionDataset`.

Facts, from its user guide ("Exporting datasets", "Temporal detection") and its readers
(fiftyone/utils/data: importers.py, exporters.py; fiftyone/core/labels.py):

- `FiftyOneDataset` is a folder with `metadata.json` and `samples.json`, whose `samples` have
  `filepath` (relative to the folder, or absolute), `tags`, `metadata` (`frame_rate`, `duration`)
  and label fields: objects with `_cls`. `dataset.write_json` writes the same in one file.
- `TemporalDetections` have `detections`, each with `label` and `support`, the first and the last
  frame, counted from 1 and both included. `Classification` has `label`, `Classifications` have
  `classifications`. Predictions have `confidence`; ground truth usually has none.
- `FiftyOneTemporalDetectionDataset` is a folder with `labels.json`: `classes`, names or null, and
  `labels`, by the video's path in `data` without suffix a list of objects with `label` (the name,
  or its position in `classes`) and `support`, or `timestamps` in seconds. null: not annotated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from violence_detection.clips.folder_names import split_of
from violence_detection.datasets.annotations import as_number
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.tools.annotated import AnnotatedVideo, Answer, Importer, label_of
from violence_detection.datasets.tools.sources import (
    NamedVideos,
    as_list,
    export_files,
    read_json,
)
from violence_detection.errors import UserError

NAME = "FiftyOne"
FILES = ("samples.json", "labels.json")
LABEL_CLASSES = ("TemporalDetections", "TemporalDetection", "Classification", "Classifications")
EVENTS = "events"  # the question that labels.json answers


def fiftyone(source: Path, manifest_folder: Path, videos: Path | None) -> Imported | None:
    """Read a data set of FiftyOne: its folder, its samples.json or its labels.json.

    See `datasets.formats.Reader`. Fields with confidences are a model's: they count only if no
    other field names a class. Tags such as train and test are splits.
    """
    importer = Importer(source, NAME)
    named = NamedVideos(source, videos)
    annotated: list[AnnotatedVideo] = []
    is_ours = False
    for path in export_files(source, *FILES):
        content = read_json(path)
        if _is_samples(content):
            fields, of_model = _fields(content["samples"])
            annotated += _of_samples(path, content["samples"], fields, named)
            if of_model:
                importer.notes.append(f"predictions of a model left out: {', '.join(of_model)}")
        elif _is_labels(content):
            annotated += _of_labels(path, content, named)
        else:
            continue
        is_ours = True
    return importer.imported(annotated, manifest_folder, named.missing) if is_ours else None


def _is_samples(content: Any) -> bool:
    samples = content.get("samples") if isinstance(content, dict) else None
    return isinstance(samples, list) and all(
        isinstance(sample, dict) and isinstance(sample.get("filepath"), str) for sample in samples
    )


def _is_labels(content: Any) -> bool:
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or "classes" not in content:
        return False
    found = [each for detections in labels.values() for each in as_list(detections)]
    return all(isinstance(detections, list | None) for detections in labels.values()) and all(
        isinstance(each, dict) and ("support" in each or "timestamps" in each) for each in found
    )


def _of_samples(
    path: Path, samples: list[dict[str, Any]], fields: list[str], named: NamedVideos
) -> Iterator[AnnotatedVideo]:
    is_video = [sample.get("_media_type", "video") == "video" for sample in samples]
    if samples and not any(is_video):
        raise UserError(f"{path}: its samples are images, not videos")
    for sample in samples:
        if sample.get("_media_type", "video") != "video":
            continue
        name = sample["filepath"]
        video = named.find(str(path.parent / name), name)
        if video is None:
            continue
        place = f"{path}, sample {name}"
        metadata = sample.get("metadata")
        stated = as_number(metadata.get("frame_rate")) if isinstance(metadata, dict) else None
        answers: list[Answer] = []
        for field in fields:
            value = sample.get(field)
            if isinstance(value, dict):
                answers += _answers(field, value, video, stated, named, place)
        yield AnnotatedVideo(
            place=f"sample {name}",
            video=video,
            answers=tuple(answers),
            split=_split(sample, place),
            is_finished=any(
                isinstance(sample.get(field), dict)
                and sample[field].get("_cls") == "TemporalDetections"
                for field in fields
            ),
        )


def _fields(samples: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the label fields that count, those of people if they name classes, and the others."""
    by_model: dict[str, bool] = {}
    is_relevant: dict[str, bool] = {}
    for sample in samples:
        for name, value in sample.items():
            if isinstance(value, dict) and value.get("_cls") in LABEL_CLASSES:
                parts = _parts(value)
                by_model.setdefault(name, False)
                by_model[name] |= any(part.get("confidence") is not None for part in parts)
                is_relevant.setdefault(name, False)
                is_relevant[name] |= any(
                    label_of(name, str(part.get("label"))) is not None for part in parts
                )
    of_people = [name for name in by_model if not by_model[name]]
    if any(is_relevant[name] for name in of_people):
        return of_people, [name for name in by_model if by_model[name]]
    return list(by_model), []


def _parts(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the labels of a field that may have several."""
    parts = value.get("detections", value.get("classifications"))
    if parts is None:
        return [value]
    return [part for part in as_list(parts) if isinstance(part, dict)]


def _answers(
    field: str,
    value: dict[str, Any],
    video: Path | str,
    stated: float | None,
    named: NamedVideos,
    place: str,
) -> Iterator[Answer]:
    for part in _parts(value):
        label = part.get("label")
        if not isinstance(label, str):
            continue
        where = f"field {field}"
        if "support" in part or str(value.get("_cls")).startswith("TemporalDetection"):
            start, end = _support(part.get("support"), video, stated, named, f"{place}, {where}")
            yield Answer(field, (label,), start, end, where)
        else:
            yield Answer(field, (label,), place=where)


def _support(
    support: Any, video: Path | str, stated: float | None, named: NamedVideos, place: str
) -> tuple[float, float]:
    """Return the seconds of a first and a last frame."""
    first, last = _pair(support, place, "support")
    if first < 1 or last < first:
        raise UserError(f"{place}: support {support} are no first and last frame, counted from 1")
    rate = stated if stated and stated > 0 else named.frame_rate(video)
    return (first - 1) / rate, last / rate


def _pair(value: Any, place: str, name: str) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2:
        first, last = map(as_number, value)
        if first is not None and last is not None:
            return first, last
    raise UserError(f"{place}: {name} {value!r} are not two numbers")


def _split(sample: dict[str, Any], place: str) -> str | None:
    tags = [tag for tag in as_list(sample.get("tags")) if isinstance(tag, str)]
    splits = dict.fromkeys(split for tag in tags if (split := split_of(tag)) is not None)
    if len(splits) > 1:
        raise UserError(f"{place}: is tagged {' and '.join(splits)}: keep one of the tags")
    return next(iter(splits), None)


def _of_labels(path: Path, content: dict[str, Any], named: NamedVideos) -> Iterator[AnnotatedVideo]:
    elsewhere = path.with_name("data.json")  # paths of videos that are not in `data`
    media = read_json(elsewhere) if elsewhere.is_file() else None
    paths = media if isinstance(media, dict) else {}
    for name, detections in content["labels"].items():
        names = [str(paths[name])] if isinstance(paths.get(name), str) else []
        video = named.find(*names, name)
        if video is None:
            continue
        place = f"{path}, {name}"
        answers = [
            _timed_answer(detection, number, content["classes"], video, named, place)
            for number, detection in enumerate(detections or [], start=1)
        ]
        yield AnnotatedVideo(name, video, tuple(answers), is_finished=detections is not None)


def _timed_answer(
    detection: dict[str, Any],
    number: int,
    classes: Any,
    video: Path | str,
    named: NamedVideos,
    place: str,
) -> Answer:
    where = f"detection {number}"
    place = f"{place}, {where}"
    label = detection.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        if not isinstance(classes, list) or not 0 <= label < len(classes):
            raise UserError(f"{place}: label {label} is not a position in classes, from 0")
        label = classes[label]
    if "timestamps" in detection:
        start, end = _pair(detection["timestamps"], place, "timestamps")
    else:
        start, end = _support(detection["support"], video, None, named, place)
    return Answer(EVENTS, (str(label),), start, end, where)
