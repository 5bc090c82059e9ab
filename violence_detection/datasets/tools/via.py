"""The video annotator of the VGG Image Annotator, version 3: projects (JSON) and exports (CSV).

Facts, from its code documentation and source (via-3.x.y: CodeDoc.md, src/js/_via_data.js,
_via_file.js, _via_attribute.js, _via_metadata.js, _via_import_export.js):

- A project has `project`, `config`, `attribute`, `file`, `metadata` and `view`. A view has
  `fid_list`, the files in it; metadata have `vid`, the view, `z`, the times in seconds (none: the
  file; one: a still; two: a segment), `xy`, a region, and `av`, the attributes' values by id.
- A file has `fname`, `src`, `type` (2 image, 4 video, 8 audio) and `loc` (1 local, 2 URL, 3 file
  URI, 4 inline).
- An attribute has `aname`, `type` (1 text, 2 checkbox, 3 radio, 4 select) and `options`. Of types
  2 to 4 the value is an option's id, of a checkbox several with commas.
- `flg` 1 is deleted. Nothing says whether a file without metadata was annotated.
- CSV has comments that begin with "#", among them `CSV_HEADER`, and no other header. Columns:
  `metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata`, with the
  attributes in a comment, `ATTRIBUTE`; or, of temporal segments alone,
  `metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata`, by the attributes'
  names, but with the options' ids. Lists and objects are JSON.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from violence_detection.clips.clip import VIDEO_SUFFIXES
from violence_detection.datasets.annotations import as_number
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.tools.annotated import AnnotatedVideo, Answer, Importer
from violence_detection.datasets.tools.sources import (
    NamedVideos,
    as_dict,
    as_list,
    export_files,
    path_in,
    read_json,
    read_text,
)
from violence_detection.errors import UserError

NAME = "VIA"
PROJECT_KEYS = ("project", "attribute", "file", "metadata", "view")
VIDEO = 4  # a file's type
TEXT = 1  # an attribute's type
DELETED = 1  # a flag of metadata
LABEL_WORDS = 3  # at most; a text of more describes, and is no label
HEADER = re.compile(r"^(?:#\s*CSV_HEADER\s*=\s*)?(metadata_id,file_list,.+)", re.MULTILINE)
ATTRIBUTES = re.compile(r"#\s*ATTRIBUTE\s*=\s*(\{.*)")


@dataclass(frozen=True)
class _Metadata:
    """What is said of one file: names in the order of preference, times, values by attribute."""

    place: str
    names: tuple[str, ...]
    times: tuple[Any, ...]
    values: dict[str, str]


def via(source: Path, manifest_folder: Path, videos: Path | None) -> Imported | None:
    """Read a project of the VIA 3 video annotator, or one of its CSV exports.

    See `datasets.formats.Reader`. Regions in stills are left out.
    """
    found = [
        (path, *content)
        for path in export_files(source, ".json", ".csv")
        if (content := _content(path)) is not None
    ]
    if not found:
        return None
    importer = Importer(source, NAME)
    named = NamedVideos(source, videos)
    annotated = []
    for path, files, metadata in found:
        for names in dict.fromkeys(files):
            video = named.find(*names)
            if video is not None:
                of_video = (each for each in metadata if each.names == names)
                answers = tuple(answer for each in of_video for answer in _answers(path, each))
                annotated.append(AnnotatedVideo(f"file {names[0]}", video, answers))
    return importer.imported(annotated, manifest_folder, named.missing)


def _content(path: Path) -> tuple[list[tuple[str, ...]], list[_Metadata]] | None:
    """Return the names of a file's videos, and what is said of them; None if it is not VIA's."""
    project = read_json(path)
    if isinstance(project, dict) and all(
        isinstance(project.get(key), dict) for key in PROJECT_KEYS
    ):
        return _of_project(path, project)
    text = read_text(path, "#", "metadata_id")
    if text is None or not HEADER.search(text):
        return None
    found = list(_of_csv(path, text))
    return [metadata.names for metadata in found], found


def _of_project(
    path: Path, project: dict[str, Any]
) -> tuple[list[tuple[str, ...]], list[_Metadata]]:
    """Return the names of all videos, and what is said of them."""
    names: dict[str, list[tuple[str, ...]]] = {}
    for view_id, view in project["view"].items():
        fids = as_list(as_dict(view).get("fid_list"))
        files = [as_dict(project["file"].get(str(fid))) for fid in fids]
        names[view_id] = [
            tuple(dict.fromkeys(str(file[key]) for key in ("fname", "src") if _is_name(file, key)))
            for file in files
            if as_number(file.get("type", VIDEO)) == VIDEO
        ]
    found = []
    for metadata_id, content in project["metadata"].items():
        metadata = as_dict(content)
        place = f"metadata {metadata_id}"
        if _is_deleted(metadata.get("flg")):
            continue
        view_id = str(metadata.get("vid"))
        if view_id not in project["view"]:
            raise UserError(f"{path}, {place}: view {view_id} is not in the project: save it again")
        values = _values(as_dict(metadata.get("av")), project["attribute"])
        times = tuple(as_list(metadata.get("z")))
        if not times and metadata.get("xy"):  # a region of an image
            continue
        found += [_Metadata(place, file, times, values) for file in names[view_id]]
    return [file for files in names.values() for file in files], found


def _is_deleted(flags: object) -> bool:
    number = as_number(flags)
    return number is not None and number.is_integer() and bool(int(number) & DELETED)


def _is_name(file: dict[str, Any], key: str) -> bool:
    value = file.get(key)
    return isinstance(value, str) and bool(value) and not value.startswith("data:")


def _values(given: dict[str, Any], attributes: dict[str, Any]) -> dict[str, str]:
    """Return the values by the attributes' names, options by their names."""
    values = {}
    for attribute_id, value in given.items():
        attribute = as_dict(attributes.get(attribute_id))
        options = as_dict(attribute.get("options"))
        value = str(value)
        if as_number(attribute.get("type", TEXT)) != TEXT:
            value = ",".join(str(options.get(option, option)) for option in value.split(","))
        values[str(attribute.get("aname", attribute_id))] = value
    return values


def _of_csv(path: Path, text: str) -> Iterator[_Metadata]:
    lines = text.splitlines()
    header: list[str] = []
    attributes: dict[str, Any] = {}
    for line in lines:
        if found := HEADER.match(line):
            header = [column.strip() for column in found[1].split(",")]
        elif found := ATTRIBUTES.match(line):
            attributes = as_dict(_json(found[1], f"{path}, ATTRIBUTE"))
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#") or HEADER.match(line):
            continue
        place = f"line {number}"
        cells = next(csv.reader([line]))
        if len(cells) != len(header):
            raise UserError(
                f"{path}, {place}: has {len(cells)} columns, not {len(header)} as in CSV_HEADER"
            )
        row = dict(zip(header, cells, strict=True))
        if _is_deleted(row.get("flags")):
            continue
        if "temporal_coordinates" in row:
            times = tuple(as_list(_json(row["temporal_coordinates"], f"{path}, {place}")))
            if not times and row["spatial_coordinates"] not in {"", "[]"}:
                continue
        else:
            ends = (row["temporal_segment_start"], row["temporal_segment_end"])
            times = tuple(time for time in ends if time not in {"", "undefined"})
        metadata = as_dict(_json(row["metadata"], f"{path}, {place}"))
        for name in as_list(_json(row["file_list"], f"{path}, {place}")):
            if Path(path_in(str(name))).suffix.lower() in VIDEO_SUFFIXES:
                yield _Metadata(place, (str(name),), times, _values(metadata, attributes))


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text or "[]")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: {text[:60]!r} is not JSON: export it again") from error


def _answers(path: Path, metadata: _Metadata) -> Iterable[Answer]:
    if len(metadata.times) == 1:  # a still
        return
    times = tuple(map(as_number, metadata.times))
    if len(times) > 2 or None in times:
        raise UserError(f"{path}, {metadata.place}: times {list(metadata.times)} are no segment")
    start, end = times or (None, None)
    for name, value in metadata.values.items():
        values = tuple(filter(None, map(str.strip, value.split(","))))
        if values and all(len(value.split()) <= LABEL_WORDS for value in values):
            yield Answer(name, values, start, end, metadata.place)
