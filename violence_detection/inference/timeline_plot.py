"""A file with the plot of a video's timeline."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from violence_detection.inference.events import Timeline
from violence_detection.reporting.timeline_figure import DPI, timeline_figure
from violence_detection.storage.files import replace_file


def plot_formats() -> list[str]:
    """Return the file suffixes, without the dot, in which a plot can be written."""
    return sorted(FigureCanvasAgg.filetypes)


def write_timeline_plot(
    timeline: Timeline,
    threshold: float,
    path: Path,
    annotated: Sequence[tuple[float, float]] | None = None,
) -> None:
    """Write the plot of a timeline.

    Args:
        timeline: of one video.
        threshold: of the probability; drawn as a dashed line.
        path: its suffix sets the format, one of `plot_formats`.
        annotated: start and end of annotated events in seconds; None: unknown.

    Raises:
        RunError: the file cannot be written.
    """
    figure = draw_timeline(timeline, threshold, annotated)
    replace_file(path, lambda partial: figure.savefig(partial, dpi=DPI))


def draw_timeline(
    timeline: Timeline, threshold: float, annotated: Sequence[tuple[float, float]] | None = None
) -> Figure:
    """Return the figure that `write_timeline_plot` writes."""
    windows = [window[:3] for window in timeline.windows]
    events = [event[:4] for event in timeline.events]
    return timeline_figure(windows, events, threshold, annotated)
