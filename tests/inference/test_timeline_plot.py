from pathlib import Path

import cv2
import pytest

from violence_detection.errors import RunError
from violence_detection.inference.events import Event, Timeline, Window
from violence_detection.inference.timeline_plot import (
    draw_timeline,
    plot_formats,
    write_timeline_plot,
)

WINDOWS = (Window(0.0, 2.0, 0.1), Window(1.0, 3.0, 0.8), Window(2.0, 4.0, 0.9))
EVENT = Event(1.0, 4.0, 3.0, 0.9)


def timeline(*events: Event) -> Timeline:
    return Timeline(Path("video.mp4"), WINDOWS, events)


def test_curve_shows_each_windows_probability_at_its_middle() -> None:
    (axes,) = draw_timeline(timeline(EVENT), 0.5).axes
    curve = axes.lines[0]
    assert curve.get_xdata().tolist() == [1.0, 2.0, 3.0]
    assert curve.get_ydata().tolist() == [0.1, 0.8, 0.9]
    assert axes.get_xlim() == (0.0, 4.0)
    assert axes.get_ylim()[0] <= 0
    assert axes.get_ylim()[1] >= 1


def test_event_is_shaded_and_its_peak_marked() -> None:
    (axes,) = draw_timeline(timeline(EVENT), 0.5).axes
    (shade,) = axes.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (1.0, 4.0)
    points = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines]
    assert (3.0, 0.9) in points


@pytest.mark.parametrize(
    ("events", "words"), [((), "no events"), ((EVENT,), "1 event;"), ((EVENT, EVENT), "2 events;")]
)
def test_title_counts_the_events_and_names_the_threshold(
    events: tuple[Event, ...], words: str
) -> None:
    (axes,) = draw_timeline(timeline(*events), 0.375).axes
    assert words in axes.get_title()
    assert "threshold 0.38" in axes.get_title()
    assert any(set(line.get_ydata()) == {0.375} for line in axes.lines)


def test_annotated_events_are_bars_above_the_probabilities() -> None:
    (axes,) = draw_timeline(timeline(EVENT), 0.5, [(0.5, 1.5), (3.0, 4.0)]).axes
    (bars,) = [path for path in axes.collections if len(path.get_paths()) == 2]
    boxes = [path.get_extents() for path in bars.get_paths()]
    assert [(box.x0, box.x1) for box in boxes] == [(0.5, 1.5), (3.0, 4.0)]
    assert all(1 < box.y0 < box.y1 < axes.get_ylim()[1] for box in boxes)
    assert "1 event detected, 2 annotated" in axes.get_title()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["detected", "annotated"]


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (4.0, ["0:00:00.0", "0:00:00.5", "0:00:01.0"]),
        (600.0, ["0:00:00.0", "0:02:00.0", "0:04:00.0"]),
        (7200.0, ["0:00:00.0", "0:15:00.0", "0:30:00.0"]),
        (100_000.0, ["0:00:00.0", "4:00:00.0", "8:00:00.0"]),
    ],
)
def test_ticks_are_at_round_times(seconds: float, labels: list[str]) -> None:
    windows = (Window(0.0, 2.0, 0.1), Window(seconds - 2, seconds, 0.2))
    figure = draw_timeline(Timeline(Path("video.mp4"), windows), 0.5)
    figure.canvas.draw()
    (axes,) = figure.axes
    shown = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [label.get_text() for at, label in shown if at >= 0][:3] == labels


def test_times_on_the_axis_are_timestamps() -> None:
    windows = (Window(0.0, 2.0, 0.1), Window(3600.0, 3602.0, 0.2))
    figure = draw_timeline(Timeline(Path("video.mp4"), windows), 0.5)
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "0:00:00.0" in labels
    assert all(label.count(":") == 2 for label in labels)


def test_timeline_of_a_video_that_cannot_be_read_is_an_empty_plot(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    write_timeline_plot(Timeline(Path("video.mp4"), error="the file is empty"), 0.5, path)
    assert cv2.imread(str(path)).shape == (320, 1000, 3)


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_suffix_sets_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    assert suffix in plot_formats()
    path = tmp_path / f"plot.{suffix}"
    write_timeline_plot(timeline(EVENT), 0.5, path)
    assert path.read_bytes().startswith(start)


def test_plot_that_cannot_be_written_names_its_path(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "plot.png"
    with pytest.raises(RunError, match=r"gone/plot\.png"):
        write_timeline_plot(timeline(EVENT), 0.5, path)
    assert not path.exists()
