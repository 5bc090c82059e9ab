import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from violence_detection.evaluation.annotated_events import Annotated
from violence_detection.inference.event_comparison import EventComparison, comparison_table
from violence_detection.inference.events import Event, Timeline, Window
from violence_detection.inference.formats import display_width
from violence_detection.storage.files import read_json

WINDOWS = (Window(0.0, 2.0, 0.1), Window(1.0, 3.0, 0.8), Window(2.0, 4.0, 0.9))
EVENT = Event(1.0, 4.0, 3.0, 0.9)


def timeline(path: str, *events: Event, **changes: Any) -> Timeline:
    return Timeline(Path(path), WINDOWS, events, **changes)


def comparison(
    folder: Path, split: str = "test", **events: list[tuple[float, float]]
) -> EventComparison:
    annotated = {
        str(folder / f"{name}.mp4"): Annotated(f"{name}.mp4", spans, {split})
        for name, spans in events.items()
    }
    return EventComparison(Path("events.csv"), annotated, 0.5, folder)


def test_compared_videos_have_their_events_a_plot_and_their_windows_in_the_file(
    tmp_path: Path,
) -> None:
    compared = comparison(tmp_path, a=[(2.5, 9.0)], b=[], unseen=[])
    compared.add(timeline(f"{tmp_path}/a.mp4", EVENT))
    compared.add(timeline(f"{tmp_path}/b.mp4", EVENT))
    compared.add(timeline(f"{tmp_path}/other.mp4"))
    result = compared.result()
    compared.write(result, model="model", window=2.0)
    first, second = result["videos"]
    # The window 1-3 reaches 0.5, and ends half a second after 2.5.
    assert first["events"] == [{"start": 2.5, "end": 4.0, "found": True, "delay": 0.5}]
    assert (first["events_found"], first["false_alarms"]) == (1, 0)
    assert second["false_alarms"] == 1
    assert second["detected_events"][0] == {
        **{"start": 1.0, "end": 4.0, "peak": 3.0, "probability": 0.9, "false_alarm": True}
    }
    assert {item["video"]: item["reason"] for item in result["not_compared"]} == {
        f"{tmp_path}/other.mp4": "not in events.csv",
        "unseen.mp4": "not among the videos given",
    }
    for name in ("a.png", "b.png"):
        assert cv2.imread(str(tmp_path / name)).shape == (320, 1000, 3)
    stored = read_json(tmp_path / "event_figures.json")
    assert stored["figures"] == result["figures"]
    assert (stored["model"], stored["threshold"]) == ("model", 0.5)
    assert stored["videos"][0]["windows"][1] == {"start": 1.0, "end": 3.0, "probability": 0.8}
    assert "windows" not in json.dumps(result)


def test_unreadable_video_is_left_out_with_its_reason(tmp_path: Path) -> None:
    compared = comparison(tmp_path, a=[(1.0, 2.0)])
    compared.add(timeline(f"{tmp_path}/a.mp4", error="damaged"))
    result = compared.result()
    assert result["not_compared"] == [{"video": f"{tmp_path}/a.mp4", "reason": "damaged"}]
    assert result["figures"]["videos"] == 0


def test_event_after_the_end_and_videos_of_a_training_split_are_warned_of(tmp_path: Path) -> None:
    compared = comparison(tmp_path, "train", a=[(1.0, 2.0), (250.0, 300.0)])
    compared.add(timeline(f"{tmp_path}/a.mp4", EVENT))
    result = compared.result()
    late, seen = result["warnings"]
    assert "1 event annotated after its end (0:00:04.0), the first at 0:04:10.0" in late
    assert "1 video in the train or val split" in seen
    assert (result["figures"]["events"], result["figures"]["events_found"]) == (2, 1)


def test_plots_of_videos_with_one_name_or_a_long_one_are_apart(tmp_path: Path) -> None:
    names = ["one/a", "two/a", "暴" * 80]
    compared = comparison(tmp_path, **{name: [] for name in names})
    for name in names:
        compared.add(timeline(f"{tmp_path}/{name}.mp4"))
    plots = [video["plot"] for video in compared.result()["videos"]]
    assert plots[:2] == ["a.png", "a_2.png"]
    assert {path.name for path in tmp_path.glob("*.png")} == set(plots)


def test_table_fits_a_terminal(tmp_path: Path) -> None:
    compared = comparison(tmp_path, a=[(1.0, 2.0)], **{"x\n" * 40: [], "暴" * 60: []})
    compared.add(timeline(f"{tmp_path}/a.mp4", EVENT))
    for number in range(20):
        compared.add(timeline(f"{tmp_path}/other{number}.mp4"))
    lines = "".join(comparison_table(compared.result())).splitlines()
    rows = {line[:31].strip(): line[31:] for line in lines}
    assert rows["events found"] == "1 of 1"
    # 1-2 is a third of 1-4.
    assert rows["average precision at IoU 0.3"] == "1.000"
    assert rows["average precision at IoU 0.5"] == "0.000"
    assert "12 other videos" in lines[-1]
    assert all(display_width(line) <= 80 and line.isprintable() for line in lines)


@pytest.mark.parametrize("annotated", [[], [(2.5, 9.0)]])
def test_events_of_a_video_are_cut_at_its_end(
    tmp_path: Path, annotated: list[tuple[float, float]]
) -> None:
    compared = comparison(tmp_path, a=annotated)
    assert compared.events_of(timeline(f"{tmp_path}/a.mp4")) == [(2.5, 4.0)][: len(annotated)]
    assert compared.events_of(timeline(f"{tmp_path}/b.mp4")) is None
