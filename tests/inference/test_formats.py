import csv
import io
import json
from pathlib import Path

import pytest

from violence_detection.inference.detector import Detector, Prediction
from violence_detection.inference.events import Event, Timeline, Window
from violence_detection.inference.formats import (
    as_csv,
    as_json,
    as_table,
    display_width,
    padded,
    printable,
    timelines_as_csv,
    timelines_as_json,
    timelines_as_table,
    top_frames,
)

VIOLENT = Prediction(Path("fight.mp4"), 0.875, True, (0.1, 0.4, 0.2, 0.3), (0.0, 0.5, 12.34, 123.4))
EQUAL = Prediction(Path("walk.mp4"), 0.25, False, (0.25, 0.25, 0.25, 0.25), None)
BAD = Prediction(Path("bad.mp4"), error="the file is empty")
PREDICTIONS = [VIOLENT, EQUAL, BAD]
EVENT = Event(1.0, 4.0, 3.0, 0.9)
TIMELINE = Timeline(
    Path("long.mp4"),
    (Window(0.0, 2.0, 0.1), Window(1.0, 3.0, 0.8), Window(2.0, 4.0, 0.9)),
    (EVENT,),
)


def test_top_frames_are_those_with_the_highest_attention() -> None:
    assert top_frames(VIOLENT) == [1, 3, 2]
    assert top_frames(EQUAL) == []
    assert top_frames(BAD) == []


def test_table_has_a_line_per_clip() -> None:
    header, *lines = as_table(PREDICTIONS, [one.path for one in PREDICTIONS])
    assert header.split()[:3] == ["clip", "probability", "prediction"]
    assert lines[0].split() == ["fight.mp4", "0.875", "violent", "0.50", "123", "12.3"]
    assert lines[1].split() == ["walk.mp4", "0.250", "nonviolent", "all", "equal"]
    assert lines[2].split() == ["bad.mp4", "bad:", "the", "file", "is", "empty"]


def test_frames_without_times_are_listed_by_number() -> None:
    untimed = Prediction(Path("a.mp4"), 0.5, True, (0.7, 0.1, 0.2))
    _, line = as_table([untimed], [untimed.path])
    assert line.split()[-3:] == ["#1", "#3", "#2"]


def test_table_fits_a_terminal_whatever_the_names_and_reasons() -> None:
    long = Prediction(Path("x" * 300 + ".mp4"), error="a reason " * 20)
    wide = Prediction(Path("暴" * 90 + ".mp4"), 0.5, True, (0.7, 0.1, 0.2), (1.0, 2.0, 3.0))
    evil = Prediction(Path("a\x1b[31m\n.mp4"), 0.5, True, (0.7, 0.1, 0.2))
    lines = list(as_table([long, wide, evil], [long.path, wide.path, evil.path]))
    assert all(display_width(line.rstrip("\n")) <= 80 for line in lines)
    assert all(line.rstrip("\n").isprintable() for line in lines)


def test_csv_has_the_attention_and_time_of_each_frame() -> None:
    rows = list(csv.DictReader(io.StringIO("".join(as_csv(PREDICTIONS, 4)))))
    assert [row["clip"] for row in rows] == ["fight.mp4", "walk.mp4", "bad.mp4"]
    assert [row["verdict"] for row in rows] == ["violent", "nonviolent", ""]
    assert float(rows[0]["probability"]) == 0.875
    assert [float(rows[0][f"attention_{n}"]) for n in range(1, 5)] == [0.1, 0.4, 0.2, 0.3]
    assert [float(rows[0][f"time_{n}"]) for n in range(1, 5)] == [0.0, 0.5, 12.34, 123.4]
    assert rows[1]["time_1"] == ""
    assert rows[2]["error"] == "the file is empty"
    assert rows[2]["probability"] == rows[2]["attention_4"] == ""


def test_json_names_the_detector_and_has_an_object_per_clip(detector: Detector) -> None:
    document = json.loads("".join(as_json(detector, PREDICTIONS)))
    assert document["threshold"] == detector.threshold
    violent, equal, bad = document["clips"]
    assert violent["violent"]
    assert violent["frames"][1] == {"time": 0.5, "attention": 0.4}
    assert violent["weighed_most"] == [2, 4, 3]  # numbers, from 1
    assert equal["frames"][0]["time"] is None
    assert bad == {"clip": "bad.mp4", "error": "the file is empty"}


def test_no_clips_are_an_empty_list(detector: Detector) -> None:
    assert json.loads("".join(as_json(detector, [])))["clips"] == []


def test_table_of_timelines_has_a_line_per_event() -> None:
    calm = Timeline(Path("calm.mp4"), (Window(0.0, 2.0, 0.1), Window(1.0, 3.0, 0.3)))
    bad = Timeline(Path("bad.mp4"), error="the file is empty")
    timelines = [TIMELINE, calm, bad]
    _, *lines = timelines_as_table(timelines, [one.path for one in timelines])
    assert lines[0].split() == ["long.mp4", "0:00:01.0", "0:00:04.0", "0:00:03.0", "0.900"]
    assert lines[1].split() == ["calm.mp4", "no", "event", "0:00:02.0", "0.300"]
    assert lines[2].split()[:2] == ["bad.mp4", "bad:"]


def test_csv_of_timelines_has_a_row_per_window() -> None:
    cut = Timeline(Path("cut.mp4"), (Window(0.0, 2.0, 0.1),), error="the decoder died")
    rows = list(csv.DictReader(io.StringIO("".join(timelines_as_csv([TIMELINE, cut])))))
    assert [row["event"] for row in rows] == ["", "1", "1", "", ""]
    assert [row["start"] for row in rows] == ["0.000", "1.000", "2.000", "0.000", ""]
    assert rows[-1]["error"] == "the decoder died"


def test_json_of_timelines_has_windows_and_events(detector: Detector) -> None:
    (clip,) = json.loads("".join(timelines_as_json(detector, [TIMELINE])))["clips"]
    assert len(clip["windows"]) == 3
    assert clip["events"] == [EVENT._asdict()]
    assert "error" not in clip


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("", 0), ("暴力", 4), ("e\u0301", 1), ("ab暴", 4)]
)
def test_display_width_counts_columns(text: str, width: int) -> None:
    assert display_width(text) == width


@pytest.mark.parametrize(
    ("text", "expected"), [("abc", "abc  "), ("abcdefgh", "ab…gh"), ("暴力事件", "暴…件")]
)
def test_padded_text_has_its_width_or_loses_its_middle(text: str, expected: str) -> None:
    assert padded(text, 5) == expected


def test_control_characters_and_invalid_bytes_are_escaped() -> None:
    assert printable("a\nb\tc\x1b\udcff") == "a\\nb\\tc\\x1b\\udcff"
