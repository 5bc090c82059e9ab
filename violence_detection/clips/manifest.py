"""A manifest: a file that lists clips, each a video or a segment of one.

`video,start,end,label,split,group`, of which only `video` and `label` are needed; as CSV, TSV or
one JSON object a line. See docs/datasets.md.
"""

import csv
import difflib
import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from violence_detection.clips.clip import as_time
from violence_detection.clips.dataset import require_subgroups
from violence_detection.clips.folder_names import class_of, split_of
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import write_csv
from violence_detection.storage.remote_paths import AnyPath

COLUMNS = ("video", "start", "end", "label", "split", "group")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl")
LABELS = {**{name: label for label, name in enumerate(CLASS_NAMES)}, "0": 0, "1": 1}
MOST_TIMES = 100_000  # of a column are remembered
TIME = re.compile(r"(\d+:)?(\d+:)?(\d+(\.\d*)?|\.\d+)")


class ManifestRow(NamedTuple):
    """A clip in a manifest.

    Args:
        video: a path relative to the manifest's folder, with forward slashes; an absolute path;
            or the URL of a store.
        label: 1 is violent, 0 nonviolent.
        start, end: of the segment, in seconds from the video's first frame; None: the video's own.
        split: one of `SPLITS`; None: unknown.
        group: clips of one group share a source video or a camera; None: unknown.
    """

    video: str
    label: int
    start: float | None = None
    end: float | None = None
    split: str | None = None
    group: str | None = None


@dataclass
class Manifest:
    """The rows of a manifest, and what is wrong with it.

    Args:
        path: of the file.
        subgroups: further columns, of which each row has a value in `subgroups_of`.
    """

    path: AnyPath
    subgroups: Sequence[str] = ()
    rows: list[ManifestRow] = field(default_factory=list)
    lines: array = field(default_factory=lambda: array("q"))  # of each row, from 1
    subgroups_of: list[tuple[str, ...]] = field(default_factory=list)  # each row's, if any
    _problems: list[tuple[int, str]] = field(default_factory=list)

    def add_problem(self, line: int, problem: str) -> None:
        """Note what is wrong in a line."""
        self._problems.append((line, problem))

    def require_no_problems(self) -> None:
        """Raise `UserError` for the first line with a problem; it says how many more there are."""
        if self._problems:
            line, problem = min(self._problems)
            others = len({line for line, _ in self._problems}) - 1
            more = f" ({count_of(others, 'more line')} with problems)" if others else ""
            raise UserError(f"{self.path}, line {line}: {problem}{more}")


def parse_time(text: str) -> float:
    """Return seconds from "12.5", "mm:ss.mmm" or "h:mm:ss.mmm".

    Raises:
        ValueError: it is none of these, or negative.
    """
    if text.isdecimal() or text.replace(".", "", 1).isdecimal():
        return float(text)
    if not TIME.fullmatch(text.strip()):
        raise ValueError(text)
    seconds = 0.0
    for part in text.strip().split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def is_manifest(where: Path | str) -> bool:
    """Return whether a path or a URL is that of a manifest, by its file extension."""
    return str(where).lower().endswith(MANIFEST_SUFFIXES)


def read_manifest(path: AnyPath) -> list[ManifestRow]:
    """Return the rows of a manifest; raises as `load_manifest` does."""
    return load_manifest(path).rows


def load_manifest(path: AnyPath, subgroups: Sequence[str] = ()) -> Manifest:
    """Read a manifest.

    Args:
        path: of the file.
        subgroups: columns beside `COLUMNS` that it has to have.

    Raises:
        UserError: the file is missing or not a manifest, or lacks a column; or it names the first
            line with an unknown label or split or an impossible time, and how many more there are.
    """
    manifest = Manifest(path, [name.lower() for name in subgroups])
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                _add_rows(manifest, _json_lines(manifest, file))
            else:
                _add_rows(manifest, _csv_lines(manifest, file))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file: {error}") from error
    manifest.require_no_problems()
    if not manifest.rows:
        raise UserError(f"{path} lists no clips")
    return manifest


def _csv_lines(manifest: Manifest, file: Iterable[str]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield each line's number and its cells in the order of `COLUMNS`."""
    lines = iter(file)
    header = next(lines, "")
    if not header.strip():
        raise UserError(f"{manifest.path} is empty: its first line must be {','.join(COLUMNS)}")
    is_tsv = manifest.path.suffix.lower() == ".tsv"
    delimiter = "\t" if is_tsv or "\t" in header else ";" if ";" in header else ","
    names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    _require_columns(manifest, names)
    require_subgroups(manifest.path, names, manifest.subgroups)
    wanted = (*COLUMNS, *manifest.subgroups)
    in_order = itemgetter(*(names.index(name) if name in names else -1 for name in wanted))
    rows = csv.reader(lines, delimiter=delimiter)
    for cells in rows:
        if len(cells) == len(names):
            yield rows.line_num + 1, in_order([*cells, ""])
        elif any(cells):
            problem = f"has {len(cells)} cells, the first line {len(names)}"
            manifest.add_problem(rows.line_num + 1, problem)


def _require_columns(manifest: Manifest, names: Sequence[str]) -> None:
    """Raise `UserError` unless these columns are those of a manifest, each once."""
    path, known = manifest.path, (*COLUMNS, *manifest.subgroups)
    wrong = [name for name in names if name not in known]
    if wrong:
        near = difflib.get_close_matches(wrong[0], COLUMNS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"{path}: unknown column {wrong[0]!r}; {hint}(of {','.join(COLUMNS)}, or one that "
            "--subgroup names)"
        )
    for name in known:
        if names.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r}")
    for needed in ("video", "label"):
        if needed not in names:
            raise UserError(f"{path} has no column {needed!r} (of {','.join(COLUMNS)})")


def _json_lines(manifest: Manifest, file: Iterable[str]) -> Iterator[tuple[int, Sequence[Any]]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            manifest.add_problem(line, f"is not JSON: {error.msg}")
            continue
        if not isinstance(value, dict):
            manifest.add_problem(line, 'is not an object such as {"video": "a.mp4", "label": 1}')
            continue
        _require_columns(manifest, list(value))
        video, *times, label, split, group = (value.get(name) for name in COLUMNS)
        others = (value.get(name) for name in manifest.subgroups)
        texts = map(_text, (label, split, group, *others))
        yield line, [video, *map(_number_or_text, times), *texts]


def _number_or_text(cell: Any) -> Any:
    return cell if type(cell) in (int, float) else _text(cell)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _add_rows(manifest: Manifest, lines: Iterable[tuple[int, Sequence[Any]]]) -> None:
    """Append the rows that are sound, and note what is wrong with the others."""
    labels, splits = _Known("label", label_of), _Known("split", split_of)
    splits[""] = None
    starts, ends = _Times("start"), _Times("end")
    shared: dict[Any, Any] = {}  # one string for a video or a group of many rows
    add_row, add_line = manifest.rows.append, manifest.lines.append
    for line, (video, start, end, label, split, group, *others) in lines:
        try:
            if not isinstance(video, str) or not (video := video.strip()):
                raise ValueError("names no video")
            group = group.strip()
            row = ManifestRow(
                shared.setdefault(video, video),
                labels[label],
                starts[start],
                ends[end],
                splits[split],
                shared.setdefault(group, group) or None,
            )
            if row.end is not None and row.end <= (row.start or 0.0):
                raise ValueError(f"end {end} is not after start {start if start != '' else 0}")
        except ValueError as error:
            manifest.add_problem(line, str(error))
        else:
            add_row(row)
            add_line(line)
            if others:
                values = tuple(value.strip() for value in others)
                manifest.subgroups_of.append(shared.setdefault(values, values))


class _Known(dict[str, Any]):
    """The meanings of a column's values, each found out once."""

    def __init__(self, column: str, meaning_of: Callable[[str], Any]):
        super().__init__()
        self._column = column
        self._meaning_of = meaning_of

    def __missing__(self, cell: str) -> Any:
        value = cell.strip()
        if value not in self:
            meaning = self._meaning_of(value)
            if meaning is None:
                possible = {"label": "violent or nonviolent", "split": "train, val or test"}
                raise ValueError(f"{self._column} {value!r}: must be {possible[self._column]}")
            self[value] = meaning
        self[cell] = self[value]
        return self[cell]


class _Times(dict[Any, Any]):
    """The seconds that a column's values stand for: windows of many videos have the same times."""

    def __init__(self, column: str):
        super().__init__({"": None})
        self._column = column

    def __missing__(self, cell: Any) -> float | None:
        if isinstance(cell, str) and not cell.strip():
            return None
        seconds = _time(self._column, cell)
        if len(self) < MOST_TIMES:
            self[cell] = seconds
        return seconds


def label_of(text: str) -> int | None:
    """Return the label that a word says: 1 violent, 0 nonviolent; None if it says neither."""
    return LABELS[text] if text in LABELS else class_of(text)


def _time(column: str, value: Any) -> float:
    try:
        if isinstance(value, int | float) and 0 <= value < math.inf:
            return float(value)
        return parse_time(str(value))
    except ValueError as error:
        raise ValueError(
            f"{column} {value!r}: must be seconds or mm:ss, such as 72.5 or 1:12.5"
        ) from error


def write_manifest(rows: Iterable[ManifestRow], path: Path) -> None:
    """Write a manifest as CSV.

    Raises:
        RunError: the disk is full, gone or read-only.
    """
    write_csv(path, COLUMNS, map(_cells, rows))


def _cells(row: ManifestRow) -> tuple[str, ...]:
    def time(seconds: float | None) -> str:
        return "" if seconds is None else as_time(seconds)

    return (
        *(row.video, time(row.start), time(row.end), CLASS_NAMES[row.label]),
        *(row.split or "", row.group or ""),
    )
