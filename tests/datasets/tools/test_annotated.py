"""Answers of annotators become rows."""

from pathlib import Path

import pytest

from tests.datasets.tools.conftest import WriteVideo
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.tools.annotated import (
    AnnotatedVideo,
    Answer,
    Importer,
    joined,
    label_of,
    without,
)
from violence_detection.errors import UserError

A, B = "s3://bucket/a.mp4", "s3://bucket/b.mp4"


def imported(*videos: AnnotatedVideo, labels_objects: bool = False) -> Imported:
    """Return the rows of videos."""
    importer = Importer(Path("export.json"), "the tool", labels_objects)
    return importer.imported(videos, Path(), ["gone.mp4", "gone.mp4"])


def annotated(video: str, *answers: Answer, **options: object) -> AnnotatedVideo:
    """Return a video with answers."""
    return AnnotatedVideo(f"task {video[-5]}", video, answers, **options)  # type: ignore[arg-type]


def segment(label: str, start: float, end: float, question: str = "events") -> Answer:
    """Return an answer for a segment."""
    return Answer(question, (label,), start, end, "region 1")


@pytest.mark.parametrize(
    ("question", "value", "label"),
    [
        ("class", "Fighting", 1),
        ("class", "NORMAL", 0),
        ("class", "no violence", 0),
        ("violent", "Yes", 1),
        ("is there a fight?", "false", 0),
        ("normal", "no", 1),
        ("weather", "yes", None),
        ("violent", "perhaps", None),
        ("class", "fight or normal", None),
    ],
)
def test_label_of_an_answer(question: str, value: str, label: int | None) -> None:
    assert label_of(question, value) == label


def test_violent_segments_are_events_and_a_finished_video_without_any_is_a_row() -> None:
    found = imported(
        annotated(A, segment("fight", 1, 2), segment("fight", 1.5, 4), segment("fight", 4, 5)),
        annotated(B, is_finished=True),
        annotated("s3://bucket/c.mp4"),
    )
    assert found.are_events
    assert found.rows == [
        ManifestRow(A, 1, 1, 4, group=A),
        ManifestRow(A, 1, 4, 5, group=A),
        ManifestRow(B, 0),
    ]
    assert found.missing == ["gone.mp4"]
    assert any("1 video left out" in note for note in found.notes)


def test_nonviolent_segments_are_clips_of_what_violent_ones_leave() -> None:
    found = imported(
        annotated(A, segment("normal", 0, 10), segment("fight", 3, 4)),
        annotated(B, is_finished=True),
    )
    assert not found.are_events
    assert [(row.label, row.start, row.end) for row in found.rows] == [
        (0, 0, 3),
        (1, 3, 4),
        (0, 4, 10),
    ]
    assert any("1 nonviolent segment shortened" in note for note in found.notes)


def test_whole_videos_and_questions_about_something_else() -> None:
    found = imported(
        annotated(A, Answer("violent", ("yes",)), Answer("weather", ("rain",))),
        annotated(B, Answer("violent", ("no",)), Answer("weather", ("storm",))),
    )
    assert found.rows == [ManifestRow(A, 1), ManifestRow(B, 0)]
    assert not found.are_events


def test_another_label_beside_a_known_one_is_noted() -> None:
    found = imported(annotated(A, Answer("choice", ("fight", "outdoor"))))
    assert found.rows == [ManifestRow(A, 1)]
    assert any("outdoor (1)" in note for note in found.notes)


def test_labels_of_objects_are_noted() -> None:
    videos = annotated(A, segment("fight", 1, 2), segment("person", 0, 9))
    assert [row.label for row in imported(videos, labels_objects=True).rows] == [1]
    with pytest.raises(UserError, match="person is neither violent nor nonviolent"):
        imported(videos)


def test_splits_are_taken_if_all_have_one() -> None:
    whole = Answer("class", ("fight",))
    both = imported(annotated(A, whole, split="train"), annotated(B, whole, split="test"))
    assert [row.split for row in both.rows] == ["train", "test"]
    one = imported(annotated(A, whole, split="train"), annotated(B, whole))
    assert [row.split for row in one.rows] == [None, None]
    assert any("1 of 2 rows" in note for note in one.notes)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([segment("fight", 5, 4)], r"task a, region 1: ends at 4 s but starts at 5 s"),
        ([segment("fight", 5, 5)], "ends at 5 s"),
        ([segment("fight", -1, 4)], "-1 s to 4 s is no segment"),
        ([segment("fight", 0, float("nan"))], "no segment"),
        ([segment("punch", 0, 1), segment("kick", 0, 1)], r"none of its labels .*punch, kick"),
        ([segment("punch", 0, 1), segment("fight", 0, 1)], "punch is neither"),
        ([Answer("c", ("fight", "normal"))], "fight, normal is violent and nonviolent"),
        (
            [Answer("c", ("fight",)), Answer("d", ("normal",))],
            "but task a says violent",
        ),
        ([Answer("c", ("normal",)), segment("fight", 1, 2)], "nonviolent as a whole"),
        ([Answer("c", ("fight",)), segment("calm", 1, 2)], "its segments are nonviolent"),
    ],
)
def test_impossible_answers_are_errors_with_their_place(
    answers: list[Answer], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        imported(annotated(A, *answers))
    assert "export.json" in str(error.value) and "\n" not in str(error.value)


def test_a_segment_ends_with_its_video(write_video: WriteVideo, tmp_path: Path) -> None:
    path = write_video("a.avi")  # 10 s
    video = AnnotatedVideo("task 1", path, (segment("fight", 8, 10.4),))
    found = Importer(Path("e"), "the tool").imported([video], tmp_path, [])
    assert found.rows == [ManifestRow("a.avi", 1, 8, 10, group="a.avi")]
    late = AnnotatedVideo("task 1", path, (segment("fight", 8, 12),))
    with pytest.raises(UserError, match="8 s to 12 s, but the video lasts 10 s"):
        Importer(Path("e"), "the tool").imported([late], tmp_path, [])


def test_joined_and_without() -> None:
    assert joined([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 3), (3, 4), (5, 6)]
    assert without((0, 10), [(2, 3), (5, 6)]) == [(0, 2), (3, 5), (6, 10)]
    assert without((2, 4), [(0, 3), (5, 6)]) == [(3, 4)]
    assert without((2, 4), [(0, 5)]) == []
    assert without((2, 4), [(0, 1), (2, 3)]) == [(3, 4)]
