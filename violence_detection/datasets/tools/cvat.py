"""CVAT's XML, version 1.1: "CVAT for video", and "CVAT for images" of a video task.

Facts, from CVAT's page "XML annotation format" and its exporter
(cvat/apps/dataset_manager: formats/cvat.py, bindings.py):

- `annotations` has `version`, `meta` with `task`, `job` or `project` (with `tasks`), and then
  `track` elements (for video) or `image` elements (for images).
- A track has a `label` and a shape for every frame of its life, interpolated ones included. The
  shape with `outside="1"` is the first without the object. A shape drawn on one frame is a track
  of that frame. In a project's export a track has `task_id` and `subset`.
- Tags are exported for images only: in an `image`, whose `id` is the frame and whose `name` is
  that of a frame, such as `frame_000012`.
- `frame` counts frames of the video from 0, whatever the task's start frame and step are. Step:
  `frame_filter`, "step=5".
- There are no times and there is no frame rate. The video's name is `source` in `meta` or `task`.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.parsers import expat

from violence_detection.clips.folder_names import split_of
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.tools.annotated import AnnotatedVideo, Answer, Importer
from violence_detection.datasets.tools.sources import NamedVideos, export_files
from violence_detection.errors import UserError

NAME = "CVAT"
XML = "annotations.xml"  # in the archive that CVAT exports
SHAPES = frozenset(
    ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")
)
RECORDS = frozenset(("task", "job"))  # in `meta`: what is annotated
LABEL = "label"  # the question that labels answer


@dataclass
class _Run:
    """Frames on end with one answer: from `start` to before `end`."""

    question: str
    value: str
    start: int
    end: int
    place: str


@dataclass
class _Annotations:
    """What one file contains."""

    meta: dict[str, str] = field(default_factory=dict)  # what stands in `meta` itself
    tasks: list[dict[str, str]] = field(default_factory=list)
    runs: dict[str, list[_Run]] = field(default_factory=dict)  # by task; "" if none is named


def cvat(source: Path, manifest_folder: Path, videos: Path | None) -> Imported | None:
    """Read CVAT's XML, as a file, in a folder or in the archive that CVAT exports.

    See `datasets.formats.Reader`. Labels and attributes that name no class, such as those of
    persons, are left out.
    """
    found = [
        (path, annotations)
        for path in export_files(source, ".xml")
        if (annotations := _read(path)) is not None
    ]
    if not found:
        return None
    importer = Importer(source, NAME, labels_objects=True)
    named = NamedVideos(source, videos)
    annotated = [
        video for path, annotations in found for video in _videos(path, annotations, named)
    ]
    return importer.imported(annotated, manifest_folder, named.missing)


def _read(path: Path) -> _Annotations | None:
    """Return what a file contains; None if it is not CVAT's."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.rpartition("/")[2] == XML]
                if len(names) != 1:
                    return None
                with archive.open(names[0]) as file:
                    return _Parser(path).parse(file)
        with path.open("rb") as file:
            if not re.match(rb"(\xef\xbb\xbf)?\s*<|\xff\xfe|\xfe\xff", file.read(64)):
                return None
            file.seek(0)
            return _Parser(path).parse(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _videos(path: Path, annotations: _Annotations, named: NamedVideos) -> Iterator[AnnotatedVideo]:
    tasks = {task.get("id", ""): task for task in annotations.tasks}
    if len(annotations.tasks) == 1 and "" in annotations.runs:  # no project: no task is named
        tasks = {"": annotations.tasks[0]}
    for task_id in annotations.runs.keys() - tasks.keys():
        raise UserError(f"{path}: task {task_id or '(none)'} is not in its meta: export it again")
    for task_id, task in tasks.items():
        source = task.get("source") or annotations.meta.get("source", "")
        name = task.get("name", "")
        if task.get("mode") == "annotation":
            raise UserError(
                f"{path}: task {name!r} is of images, which have no times: export others"
            )
        if not source and not name:
            raise UserError(f"{path}: its meta names no video: export it again")
        video = named.find(source, name)
        if video is None:
            continue
        runs = annotations.runs.get(task_id, [])
        rate = named.frame_rate(video) if runs else 1.0
        yield AnnotatedVideo(
            place=f"task {task.get('name') or task_id}",
            video=video,
            answers=tuple(
                Answer(run.question, (run.value,), run.start / rate, run.end / rate, run.place)
                for run in runs
            ),
            split=split_of(task.get("subset", "")),
        )


class _Parser:
    """Reads the XML of a file. A DOCTYPE is refused: with it come entities, which may expand.

    Args:
        path: of the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.annotations = _Annotations()
        self._is_cvat = True
        self._open: list[str] = []
        self._text = ""
        self._step = 1
        self._task = ""
        self._place = ""
        self._frame = 0
        self._answers: dict[tuple[str, str], None] = {}  # of the shape or image that is open
        self._running: dict[tuple[str, str], _Run] = {}
        self._label = ""  # of the track or shape that is open
        self._is_outside = False
        self._attribute = ""  # the name of the one that is open
        self._expat = expat.ParserCreate()
        self._expat.StartDoctypeDeclHandler = self._refuse_doctype
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._add_text

    def parse(self, file: IO[bytes]) -> _Annotations | None:
        """Return what a file contains; None if it is not CVAT's.

        Raises:
            UserError: it is CVAT's but damaged.
        """
        try:
            while self._is_cvat and (data := file.read(1 << 20)):
                self._expat.Parse(data, False)
            if self._is_cvat:
                self._expat.Parse(b"", True)
        except expat.ExpatError as error:
            if not self._open or not self._is_cvat:
                return None
            raise UserError(f"{self.path}: damaged XML: {error}: export it again") from error
        if not self._is_cvat or not (self.annotations.tasks or self.annotations.runs):
            return None
        self.annotations.tasks = self.annotations.tasks or [{}]
        return self.annotations

    def _refuse_doctype(self, name: str, *_: object) -> None:
        self._is_cvat = False
        if name == "annotations":
            raise UserError(f"{self.path}: has a DOCTYPE, which CVAT does not write: remove it")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != "annotations":
            self._is_cvat = False
        self._open.append(tag)
        self._text = ""
        if not self._is_cvat:
            return
        if self._open[1:2] == ["meta"]:
            if tag in RECORDS:
                self.annotations.tasks.append({})
        elif len(self._open) == 2:
            self._start_object(tag, attributes)
        elif len(self._open) == 3 and tag in SHAPES | {"tag"}:
            self._start_shape(tag, attributes)
        elif tag == "attribute":
            self._attribute = attributes.get("name", "")

    def _start_object(self, tag: str, attributes: dict[str, str]) -> None:
        if tag not in {"track", "image", "tag"}:
            return
        task = attributes.get("task_id", "")
        if task != self._task:
            self._running.clear()
        self._task = task
        if tag == "track":
            self._place = f"track {attributes.get('id', '')}"
            self._label = attributes.get("label", "")
            self._running.clear()
        elif tag == "image":
            self._place = f"frame {attributes.get('id', '')}"
            self._frame = self._number(attributes, "id")
            self._answers = {}
        else:  # a tag of a frame; CVAT writes none for videos, other programs may
            frame = self._number(attributes, "frame")
            run = _Run(LABEL, attributes.get("label", ""), frame, frame + 1, f"frame {frame}")
            self.annotations.runs.setdefault(self._task, []).append(run)

    def _start_shape(self, tag: str, attributes: dict[str, str]) -> None:
        if self._open[1] == "track":
            self._frame = self._number(attributes, "frame")
            self._is_outside = attributes.get("outside", "0") == "1"
            self._answers = {}
        else:
            self._label = attributes.get("label", "")
        self._answers[LABEL, self._label] = None

    def _end(self, tag: str) -> None:
        text = self._text.strip()
        self._open.pop()
        self._text = ""
        if not self._is_cvat:
            return
        if self._open[1:2] == ["meta"]:
            if self._open[-1] in RECORDS:
                self.annotations.tasks[-1][tag] = text
            elif len(self._open) == 2:
                self.annotations.meta[tag] = text
            if tag == "frame_filter" and (step := re.search(r"step\s*=\s*(\d+)", text)):
                self._step = max(1, int(step[1]))
        elif tag == "attribute" and len(self._open) == 3:
            self._answers[self._attribute, text] = None
        elif len(self._open) == 2 and self._open[1] == "track" and tag in SHAPES:
            self._continue_runs({} if self._is_outside else self._answers)
        elif len(self._open) == 1 and tag == "image":
            self._continue_runs(self._answers)

    def _continue_runs(self, answers: Iterable[tuple[str, str]]) -> None:
        """Extend the runs of the answers to the frame that has ended; the others end before it."""
        answers = list(answers)
        for key in self._running.keys() - set(answers):
            run = self._running.pop(key)
            run.end = self._frame
        for key in answers:
            if key in self._running:
                self._running[key].end = self._frame + self._step
            else:
                run = _Run(*key, self._frame, self._frame + self._step, self._place)
                self.annotations.runs.setdefault(self._task, []).append(run)
                self._running[key] = run

    def _number(self, attributes: dict[str, str], name: str) -> int:
        text = attributes.get(name, "")
        if not text.isascii() or not text.isdigit():
            raise UserError(f"{self.path}, {self._place}: {name} is {text!r}, not a frame's number")
        return int(text)

    def _add_text(self, text: str) -> None:
        self._text += text
