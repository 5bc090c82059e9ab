"""A plot of a video's timeline: the probability of violence over time, and the events."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from violence_detection.inference.events import Timeline, timestamp
from violence_detection.reporting.theme import LIGHT
from violence_detection.storage.files import replace_file

SIZE = (10.0, 3.2)  # inches
DPI = 100


def plot_formats() -> list[str]:
    """Return the file suffixes, without the dot, in which a plot can be written."""
    return sorted(FigureCanvasAgg.filetypes)


def write_timeline_plot(timeline: Timeline, threshold: float, path: Path) -> None:
    """Write the plot of a timeline.

    Args:
        timeline: of one video.
        threshold: of the probability; drawn as a dashed line.
        path: its suffix sets the format, one of `plot_formats`.

    Raises:
        RunError: the file cannot be written.
    """
    figure = draw_timeline(timeline, threshold)
    replace_file(path, lambda partial: figure.savefig(partial, dpi=DPI))


def draw_timeline(timeline: Timeline, threshold: float) -> Figure:
    """Return a figure of probability over time, a point at each window's middle, events shaded."""
    figure = Figure(figsize=SIZE, layout="constrained", facecolor=LIGHT.background)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _style(axes)
    middles = [window.middle for window in timeline.windows]
    probabilities = [window.probability for window in timeline.windows]
    axes.plot(middles, probabilities, color=LIGHT.text, linewidth=1.4, marker=".")
    for event in timeline.events:
        axes.axvspan(event.start, event.end, color=LIGHT.violent, alpha=0.25, linewidth=0)
        axes.plot([event.peak], [event.probability], "o", color=LIGHT.violent, clip_on=False)
    axes.axhline(threshold, color=LIGHT.text, linestyle="--", linewidth=1)
    if timeline.windows:
        axes.set_xlim(timeline.windows[0].start, max(timeline.windows[-1].end, 0.1))
    count = len(timeline.events)
    events = f"{count or 'no'} event{'' if count == 1 else 's'}"
    title = f"{events}; threshold {threshold:.2f} (dashed)"
    axes.set_title(title, color=LIGHT.text, fontsize=10)
    return figure


def _style(axes: Axes) -> None:
    axes.set(ylim=(-0.02, 1.02))
    axes.set_xlabel("time", color=LIGHT.text)
    axes.set_ylabel("probability of violence", color=LIGHT.text)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: timestamp(max(0.0, seconds))))
    axes.grid(color=LIGHT.grid)
    axes.set_axisbelow(True)
