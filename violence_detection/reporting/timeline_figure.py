"""A video's timeline as a figure: the probability of violence over time, and the events."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from violence_detection.reporting import colours
from violence_detection.runtime.wording import count_of, timestamp

SIZE = (10.0, 3.2)  # inches
NARROW = (4.4, 2.8)  # inches, in a column of a page
DPI = 100
SHADE = 0.25  # opacity of a detected event
MARKED = 150  # windows, at most, that are drawn as points
LANE = (1.07, 0.08)  # bottom and height of the annotated events, above the probabilities
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)  # seconds between ticks
HOUR = 3600


def timeline_figure(
    windows: Sequence[tuple[float, float, float]],
    events: Sequence[tuple[float, float, float, float]],
    threshold: float,
    annotated: Sequence[tuple[float, float]] | None = None,
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Return a figure of probability over time, a point at each window's middle, events shaded.

    Args:
        windows: start, end, both in seconds, and probability of each.
        events: that were detected: start, end and peak in seconds, and probability of each.
        threshold: of the probability; a dashed line.
        annotated: start and end of annotated events, drawn above; None: unknown.
        size: in inches.
    """
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor=colours.BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _style(axes)
    middles = [(start + end) / 2 for start, end, _ in windows]
    probabilities = [probability for _, _, probability in windows]
    marker = "." if len(windows) <= MARKED else ""
    axes.plot(middles, probabilities, color=colours.TEXT, linewidth=1.4, marker=marker)
    for start, end, peak, probability in events:
        axes.axvspan(start, end, color=colours.VIOLENT, alpha=SHADE, linewidth=0)
        axes.plot([peak], [probability], "o", color=colours.VIOLENT, clip_on=False)
    axes.axhline(threshold, color=colours.TEXT, linestyle="--", linewidth=1)
    if windows:
        first, last = windows[0][0], max(windows[-1][1], 0.1)
        axes.set_xlim(first, last)
        axes.xaxis.set_major_locator(MultipleLocator(_step(last - first, size[0])))
    counted = count_of(len(events), "event") if events else "no events"
    title = f"{counted}; threshold {threshold:.2f} (dashed)"
    if annotated is not None:
        title = f"{counted} detected, {len(annotated)} annotated; threshold {threshold:.2f}"
        _draw_annotated(axes, annotated)
    axes.set_title(title, color=colours.TEXT, fontsize=10, pad=6 if annotated is None else 22)
    return figure


def _draw_annotated(axes: Axes, annotated: Sequence[tuple[float, float]]) -> None:
    bars = [(start, end - start) for start, end in annotated]
    # The line around a bar shows events that are less than a pixel wide.
    axes.broken_barh(bars, LANE, facecolor=colours.NONVIOLENT, edgecolor=colours.NONVIOLENT)
    axes.set(ylim=(-0.02, sum(LANE) + 0.02), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    handles = [
        Patch(color=colours.VIOLENT, alpha=SHADE, label="detected"),
        Patch(color=colours.NONVIOLENT, label="annotated"),
    ]
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.97),
        ncols=2,
        frameon=False,
        labelcolor=colours.TEXT,
        fontsize=9,
    )


def _step(seconds: float, width: float) -> float:
    """Return the seconds between ticks, with more than an inch from one to the next."""
    least = 1.1 * seconds / width
    hours = -(-least // HOUR) * HOUR
    return next((step for step in STEPS if step >= least), hours)


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.set(ylim=(-0.02, 1.02))
    axes.set_xlabel("time", color=colours.TEXT)
    axes.set_ylabel("probability of violence", color=colours.TEXT)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: timestamp(max(0.0, seconds))))
    axes.tick_params(colors=colours.MUTED, labelcolor=colours.TEXT)
    axes.spines[:].set_color(colours.MUTED)
    axes.grid(color=colours.GRID)
    axes.set_axisbelow(True)
