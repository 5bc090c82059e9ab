"""Annotated videos, as all tools have them, become rows of a manifest.

An annotator answers questions: a label of a timeline, a choice, an attribute. A question is about
violence if one of its answers anywhere in the export names a class, as "fight" and "normal" do,
or if it does so itself and is answered by yes or no. Other questions are left out.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from violence_detection.clips.folder_names import class_of
from violence_detection.clips.manifest import ManifestRow
from violence_detection.clips.video import UnreadableClip, reported_duration
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.videos import manifest_path
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES

YES = frozenset(("yes", "true", "1"))
NO = frozenset(("no", "false", "0"))
PAST_END = 1.0  # seconds that a segment may reach past the end of its video; it is cut there
LISTED = 5  # labels in a message


@dataclass(frozen=True)
class Answer:
    """An annotator's answer, for a whole video or a segment.

    Args:
        question: the name of what was asked: a control, an attribute, a field.
        values: the labels chosen, one or more.
        start, end: of the segment in seconds; None: the whole video.
        place: where it stands within the video's annotations, for messages.
    """

    question: str
    values: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    place: str = ""


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video and what annotators say of it.

    Args:
        place: of its annotations in the export, for messages.
        video: its file, or the URL of a store.
        answers: none if nothing is annotated.
        split: one of `SPLITS`; None: unknown.
        is_finished: whether the tool says that it was annotated, even if with nothing.
    """

    place: str
    video: Path | str
    answers: tuple[Answer, ...]
    split: str | None = None
    is_finished: bool = False


@dataclass
class _Video:
    """The labels of one video, of all its annotations."""

    annotated: list[AnnotatedVideo]
    whole: dict[int, str] = field(default_factory=dict)  # label: where it was given
    segments: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: {0: [], 1: []})


def label_of(question: str, value: str) -> int | None:
    """Return the class that an answer names: 1 violent, 0 nonviolent, None neither or both."""
    label = class_of(value)
    if label is None and (asked := class_of(question)) is not None:
        word = value.strip().lower()
        if word in YES:
            return asked
        if word in NO:
            return 1 - asked
    return label


class Importer:
    """Makes rows of the videos of one export.

    Args:
        source: the export, for messages.
        tool: its name.
        labels_objects: whether labels may stand for other things, such as persons: those that
            name no class are left out rather than refused.
    """

    def __init__(self, source: Path, tool: str, labels_objects: bool = False) -> None:
        self.source = source
        self.tool = tool
        self.labels_objects = labels_objects
        self.notes: list[str] = []
        self._others: Counter[str] = Counter()  # labels that name no class

    def imported(
        self, videos: Sequence[AnnotatedVideo], manifest_folder: Path, missing: Iterable[str]
    ) -> Imported:
        """Return the rows: segments where there are any, whole videos otherwise.

        If all segments are violent, they are the events of long videos. Otherwise each is a clip,
        and what no segment covers is left out.

        Args:
            videos: in their order. A video may occur more than once.
            manifest_folder: of the manifest; paths are relative to it.
            missing: names of videos that were not found.

        Raises:
            UserError: a label or a time is impossible, or labels contradict each other.
        """
        questions = self._questions_of_violence(videos)
        by_name: dict[str, _Video] = {}
        for annotated in videos:
            name = annotated.video
            if isinstance(name, Path):
                name = manifest_path(name, manifest_folder)
            by_name.setdefault(name, _Video([])).annotated.append(annotated)
        shortened = 0
        for video in by_name.values():
            for annotated in video.annotated:
                self._add_labels(video, annotated, questions)
            shortened += self._join_segments(video)
        segments = [video.segments for video in by_name.values()]
        are_events = any(by[1] for by in segments) and not any(by[0] for by in segments)
        rows = [
            row for name, video in by_name.items() for row in self._rows(name, video, are_events)
        ]
        named = {row.video for row in rows}
        without = sum(name not in named for name in by_name)
        self._note(without, "video", "left out: nothing is annotated, or nothing about violence")
        self._note(shortened, "nonviolent segment", "shortened: violent ones overlap")
        self._note_others()
        missing = list(dict.fromkeys(missing))
        return Imported(self.tool, self._with_splits(rows), are_events, missing, self.notes)

    def _questions_of_violence(self, videos: Sequence[AnnotatedVideo]) -> set[str]:
        answers = [answer for annotated in videos for answer in annotated.answers]
        questions = {
            answer.question
            for answer in answers
            if any(label_of(answer.question, value) is not None for value in answer.values)
        }
        if answers and not questions:
            values = list(dict.fromkeys(value for answer in answers for value in answer.values))
            raise UserError(
                f"{self.source}: none of its labels is violent or nonviolent ({listed(values)}): "
                f"rename them in {self.tool}, for example to fight and normal"
            )
        return questions

    def _add_labels(
        self, video: _Video, annotated: AnnotatedVideo, questions: Collection[str]
    ) -> None:
        duration = _duration(annotated.video) if any_timed(annotated.answers) else None
        for answer in annotated.answers:
            place = self._place(annotated, answer)
            label = self._label(answer, place) if answer.question in questions else None
            if label is None:
                continue
            if answer.start is None or answer.end is None:
                other = video.whole.get(1 - label)
                if other is not None:
                    raise UserError(
                        f"{place}: {CLASS_NAMES[label]}, but {other} says "
                        f"{CLASS_NAMES[1 - label]}: correct one of them in {self.tool}"
                    )
                where = ", ".join(filter(None, (annotated.place, answer.place)))
                video.whole.setdefault(label, where)
            else:
                times = self._checked_times(answer.start, answer.end, duration, place)
                video.segments[label].append(times)
        self._require_agreement(video, annotated)

    def _place(self, annotated: AnnotatedVideo, answer: Answer) -> str:
        return ", ".join(filter(None, (str(self.source), annotated.place, answer.place)))

    def _label(self, answer: Answer, place: str) -> int | None:
        found = {value: label_of(answer.question, value) for value in answer.values}
        labels = {label for label in found.values() if label is not None}
        others = [value for value, label in found.items() if label is None]
        if len(labels) > 1:
            raise UserError(
                f"{place}: {listed(answer.values)} is violent and nonviolent: "
                f"correct it in {self.tool}"
            )
        if not labels and not self.labels_objects:
            raise UserError(
                f"{place}: {listed(others)} is neither violent nor nonviolent: "
                f"rename it in {self.tool}, for example to fight or normal"
            )
        self._others.update(others)
        return labels.pop() if labels else None

    def _checked_times(
        self, start: float, end: float, duration: float | None, place: str
    ) -> tuple[float, float]:
        correct = f"correct it in {self.tool}"
        if not (math.isfinite(start) and math.isfinite(end)) or start < 0:
            raise UserError(f"{place}: {start:g} s to {end:g} s is no segment: {correct}")
        if end <= start:
            raise UserError(f"{place}: ends at {end:g} s but starts at {start:g} s: {correct}")
        if duration is not None and (start >= duration or end > duration + PAST_END):
            raise UserError(
                f"{place}: {start:g} s to {end:g} s, but the video lasts {duration:g} s: {correct}"
            )
        return start, end if duration is None else min(end, duration)

    def _require_agreement(self, video: _Video, annotated: AnnotatedVideo) -> None:
        for label, place in video.whole.items():
            if video.segments[1 - label] and not video.segments[label]:
                raise UserError(
                    f"{self.source}, {annotated.place}: {CLASS_NAMES[label]} as a whole ({place}), "
                    f"but its segments are {CLASS_NAMES[1 - label]}: correct it in {self.tool}"
                )
            if label == 0 and video.segments[1]:
                raise UserError(
                    f"{self.source}, {annotated.place}: nonviolent as a whole ({place}), but it "
                    f"has violent segments: correct it in {self.tool}"
                )

    def _join_segments(self, video: _Video) -> int:
        """Join segments that overlap; return how many nonviolent ones violent ones shorten."""
        violent = joined(video.segments[1])
        nonviolent = joined(video.segments[0])
        left = [(each, without(each, violent)) for each in nonviolent]
        video.segments = {1: violent, 0: [part for _, parts in left for part in parts]}
        return sum(parts != [each] for each, parts in left)

    def _rows(self, name: str, video: _Video, are_events: bool) -> list[ManifestRow]:
        split = self._split(video)
        timed = sorted(
            (start, end, label) for label in (0, 1) for start, end in video.segments[label]
        )
        if timed:
            return [
                ManifestRow(name, label, start, end, split, group=name)
                for start, end, label in timed
            ]
        finished = are_events and any(annotated.is_finished for annotated in video.annotated)
        labels = list(video.whole) or ([0] if finished else [])
        return [ManifestRow(name, label, split=split) for label in labels]

    def _split(self, video: _Video) -> str | None:
        splits = {each.split: each.place for each in video.annotated if each.split is not None}
        if len(splits) > 1:
            (first, place), (second, other) = list(splits.items())[:2]
            raise UserError(
                f"{self.source}: {place} is in {first}, {other} of the same video in {second}: "
                f"correct one of them in {self.tool}"
            )
        return next(iter(splits), None)

    def _with_splits(self, rows: list[ManifestRow]) -> list[ManifestRow]:
        with_split = sum(row.split is not None for row in rows)
        if 0 < with_split < len(rows):
            self.notes.append(
                f"splits left out: only {with_split} of {count_of(len(rows), 'row')} have one"
            )
            return [row._replace(split=None) for row in rows]
        return rows

    def _note(self, count: int, name: str, text: str) -> None:
        if count:
            self.notes.append(f"{count_of(count, name)} {text}")

    def _note_others(self) -> None:
        if self._others:
            names = [f"{name} ({count})" for name, count in self._others.most_common()]
            self.notes.append(f"labels left out, as they name no class: {listed(names)}")


def any_timed(answers: Iterable[Answer]) -> bool:
    """Return whether one of the answers is for a segment."""
    return any(answer.start is not None for answer in answers)


def listed(names: Sequence[str]) -> str:
    """Return the first names, as messages list them."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def joined(segments: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return segments in order, those that overlap as one; those that only touch stay apart."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(segments):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def without(
    segment: tuple[float, float], others: Iterable[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return the parts of a segment that none of the others covers; they are in order, apart."""
    parts = []
    start, end = segment
    for other_start, other_end in others:
        if start < other_start < end:
            parts.append((start, other_start))
        if other_start < end:
            start = max(start, other_end)
    if start < end:
        parts.append((start, end))
    return parts


def _duration(video: Path | str) -> float | None:
    """Return the seconds that a video reports to last; None if unknown."""
    if isinstance(video, str):
        return None
    try:
        return reported_duration(video)
    except (UnreadableClip, OSError):
        return None  # it is reported when the clips are read
