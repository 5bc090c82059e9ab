"""Plots of a run: for files, for pages, and for TensorBoard."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from sklearn import metrics

from violence_detection.evaluation.metrics import (
    CALIBRATION_BINS,
    FEWEST_FOR_SHARES,
    calibration_bins,
    classification_figures,
    share_words,
)
from violence_detection.reporting import colours
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES

WIDTH = 4.4  # inches: the text is legible in the page's columns, 340 to 560 pixels wide
DPI = 100
MARGINS = (0.62, 0.14, 0.52, 0.5)  # inches, left, right, bottom, top
POINTS = 500  # of a curve that are drawn
SCORE_BINS = 20
# The panels of the training curves, with their columns and labels. The best epoch is annotated with
# the value of the last column.
CURVES = {
    "loss": {"loss": "train", "val_loss": "validation"},
    "accuracy": {"accuracy": "train", "val_accuracy": "validation"},
    "learning rate": {"learning_rate": "rate"},
}


def curves(history: Sequence[Mapping[str, Any]], best_epoch: int) -> Figure:
    """Return loss, accuracy and learning rate by epoch, with the best epoch marked.

    Args:
        history: a row per epoch, as in `training_history.csv`: text or numbers. Empty cells are
            left out.
        best_epoch: its number in the column `epoch`.
    """
    figure = _figure(6.2)
    figure.set_layout_engine("constrained")  # three panels, of labels of any width
    panels = figure.subplots(3, 1, sharex=True)
    epochs = _column(history, "epoch")
    first, last = min(epochs, default=1), max(epochs, default=1)
    margin = max(0.5, 0.02 * (last - first))
    for axes, (title, lines) in zip(panels, CURVES.items(), strict=True):
        _prepare(axes, ylabel=title)
        for name, label in lines.items():
            values = _column(history, name)
            validation = label == "validation"
            axes.plot(
                epochs,
                values,
                color=colours.OF_SPLIT.get(label, colours.TEXT),
                linewidth=2 if validation else 1.4,
                marker="os"[validation] if len(epochs) < 3 else "",
                label=label,
            )
        axes.margins(y=0.1)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # without an offset above
        axes.set_xlim(first - margin, last + margin)
        best = [value for value in values[epochs == best_epoch] if not np.isnan(value)]
        words = f"best epoch {best_epoch}" + "".join(f": {label} {value:.3g}" for value in best)
        _mark_best_epoch(axes, best_epoch, words)
    panels[-1].set_xlabel("epoch", color=colours.TEXT, fontsize=9.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    handles_and_labels = panels[0].get_legend_handles_labels()
    figure.legend(*handles_and_labels, loc="outside upper center", ncols=2, **_legend())
    return figure


def _mark_best_epoch(axes: Axes, best_epoch: int, words: str) -> None:
    """Draw a line at the best epoch, with a text above it that stays within the axes."""
    axes.axvline(best_epoch, color=colours.MUTED, linestyle="--", linewidth=1)
    left, right = axes.get_xlim()
    position = (best_epoch - left) / (right - left)
    axes.text(
        best_epoch,
        1.02,
        words,
        transform=axes.get_xaxis_transform(),
        ha="left" if position < 0.33 else "right" if position > 0.67 else "center",
        va="bottom",
        color=colours.TEXT,
        fontsize=8.5,
    )


def _column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Return `(epochs,)` float64, nan where a cell is empty or missing."""
    cells = [row.get(name) for row in history]
    return np.array([np.nan if cell in ("", None) else float(cell) for cell in cells])


def confusion(matrix: Sequence[Sequence[int]] | np.ndarray) -> Figure:
    """Return a confusion matrix: in each cell the number of clips, and of how many in the row.

    Args:
        matrix: 2 x 2 counts: true classes in rows, predicted classes in columns, nonviolent first.
    """
    figure = _figure(3.8)
    _draw_confusion(_only_axes(figure), np.asarray(matrix))
    return figure


def roc(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """Return the ROC curve with its area and the point of the threshold.

    Args:
        labels: `(clips,)` 0 or 1.
        probabilities: `(clips,)`, of violence.
        threshold: a clip of at least this probability is predicted violent.
    """
    return _single(_draw_roc, labels, probabilities, threshold, 4.4)


def precision_recall(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """Return the precision-recall curve with its average precision and the threshold's point.

    The arguments are those of `roc`.
    """
    return _single(_draw_precision_recall, labels, probabilities, threshold, 4.4)


def reliability(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """Return the share of violent clips by predicted probability, in ten equal bins, with counts.

    The arguments are those of `roc`; the threshold is a line.
    """
    return _single(_draw_reliability, labels, probabilities, threshold, 4.6)


def score_histogram(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """Return a histogram of the probabilities of each class, with the threshold.

    The arguments are those of `roc`.
    """
    figure = _single(_draw_scores, labels, probabilities, threshold, 3.4)
    figure.set_layout_engine("constrained")  # counts of any width
    return figure


def four_panels(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> Figure:
    """Return precision-recall and ROC curves, confusion matrix and calibration, 900 x 800 pixels.

    The arguments are those of `roc`.
    """
    figure = Figure(figsize=(9, 8), dpi=DPI, facecolor=colours.BACKGROUND)
    panels = figure.subplots(2, 2)
    figure.subplots_adjust(0.08, 0.07, 0.98, 0.93, wspace=0.2, hspace=0.33)
    probabilities = np.asarray(probabilities, np.float64)
    matrix = metrics.confusion_matrix(labels, probabilities >= threshold, labels=(0, 1))
    _draw_precision_recall(panels[0, 0], labels, probabilities, threshold)
    _draw_roc(panels[0, 1], labels, probabilities, threshold)
    _draw_confusion(panels[1, 0], matrix)
    _draw_reliability(panels[1, 1], labels, probabilities, threshold)
    return figure


def as_png(figure: Figure, dpi: float = 2 * DPI) -> bytes:
    """Return a figure as a PNG file; by default at twice its size, for high-density screens."""
    buffer, own_dpi = io.BytesIO(), figure.dpi
    figure.set_dpi(dpi)
    FigureCanvasAgg(figure).print_png(buffer)  # draws once; `savefig` draws twice
    figure.set_dpi(own_dpi)
    return buffer.getvalue()


def as_image(figure: Figure) -> np.ndarray:
    """Return a figure's pixels, `(height, width, 4)` uint8: red, green, blue, opacity."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=colours.BACKGROUND)


def _only_axes(figure: Figure) -> Axes:
    """Return axes with room for labels; a layout engine takes half as long as all the drawing."""
    width, height = figure.get_size_inches()
    left, right, bottom, top = MARGINS
    axes = figure.subplots()
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return axes


def _single(
    draw: Callable[[Axes, np.ndarray, np.ndarray, float], None],
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    height: float,
) -> Figure:
    figure = _figure(height)
    draw(_only_axes(figure), labels, np.asarray(probabilities, np.float64), threshold)
    return figure


def _prepare(
    axes: Axes,
    title: str = "",
    under: str = "",
    xlabel: str = "",
    ylabel: str = "",
    title_pad: float = 6,
) -> None:
    """Style axes and label them; `under` is a smaller line below the title."""
    if under:
        title_pad = 20  # points
        words: dict[str, Any] = {"color": colours.TEXT, "fontsize": 8.5}
        axes.text(0, 1.02, under, va="bottom", transform=axes.transAxes, **words)
    axes.set_facecolor("none")
    axes.set_title(title, color=colours.TEXT, fontsize=11, loc="left", pad=title_pad)
    axes.set_xlabel(xlabel, color=colours.TEXT, fontsize=9.5)
    axes.set_ylabel(ylabel, color=colours.TEXT, fontsize=9.5)
    axes.tick_params(colors=colours.MUTED, labelcolor=colours.TEXT, labelsize=8.5)
    axes.grid(color=colours.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colours.MUTED)


def _legend() -> dict[str, Any]:
    return {"frameon": False, "labelcolor": colours.TEXT, "fontsize": 9}


def _draw_confusion(axes: Axes, matrix: np.ndarray) -> None:
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    low, high = (np.array(to_rgb(cell)) for cell in colours.CELLS)
    cells = low + shares[..., None] * (high - low)
    _prepare(
        axes,
        "Confusion matrix",
        "clips, of how many of the true class",
        xlabel="predicted class",
        ylabel="true class",
    )
    axes.imshow(cells, aspect="auto")
    for row, column in np.ndindex(2, 2):
        of_row = int(totals[row, 0])
        share = f"{shares[row, column]:.0%}" if of_row >= FEWEST_FOR_SHARES else f"of {of_row}"
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}\n{share if of_row else 'no clips'}",
            color="black",
            ha="center",
            va="center",
            fontsize=13,
        )
    axes.set_xticks([0, 1], CLASS_NAMES)
    axes.set_yticks([0, 1], CLASS_NAMES, rotation=90, va="center")
    axes.tick_params(length=0, labelsize=9.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _draw_roc(axes: Axes, labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> None:
    names: dict[str, Any] = {"xlabel": "false positive rate", "ylabel": "recall"}
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if len(set(labels)) < 2:
        _prepare(axes, "ROC curve: undefined", **names)
        _write_single_class(axes, labels)
        return
    figures = _figures(labels, probabilities, threshold)
    recall, false_rate = figures["recall"], 1 - figures[f"{CLASS_NAMES[0]}_accuracy"]
    under = (
        f"●  threshold {threshold:.2f}: recall {_percent(recall, labels == 1)}, "
        f"false positives {_percent(false_rate, labels == 0)}"
    )
    _prepare(axes, f"ROC curve, AUC {figures['roc_auc']:.3f}", under, **names)
    axes.plot([0, 1], [0, 1], color=colours.MUTED, linestyle=":", linewidth=1.2)
    false_rates, recalls, _ = metrics.roc_curve(labels, probabilities)
    shown = _evenly_spaced(len(false_rates))
    axes.plot(false_rates[shown], recalls[shown], color=colours.VIOLENT, linewidth=2)
    axes.plot([false_rate], [recall], "o", color=colours.TEXT, markersize=7, clip_on=False)


def _draw_precision_recall(
    axes: Axes, labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> None:
    names: dict[str, Any] = {"xlabel": "recall", "ylabel": "precision"}
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if len(set(labels)) < 2:
        _prepare(axes, "Precision-recall curve: undefined", **names)
        _write_single_class(axes, labels)
        return
    figures = _figures(labels, probabilities, threshold)
    recall, precision = figures["recall"], figures["precision"]
    undefined = np.isnan(precision)
    found = probabilities >= threshold
    point = "nothing predicted violent" if undefined else f"precision {_percent(precision, found)}"
    under = f"●  threshold {threshold:.2f}: {point}, recall {_percent(recall, labels == 1)}"
    _prepare(axes, f"Precision-recall curve, AUC {figures['pr_auc']:.3f}", under, **names)
    axes.axhline(np.mean(labels), color=colours.MUTED, linestyle=":", linewidth=1.2)
    precisions, recalls, _ = metrics.precision_recall_curve(
        labels, probabilities, drop_intermediate=True
    )
    shown = _evenly_spaced(len(recalls))
    axes.step(recalls[shown], precisions[shown], where="post", color=colours.VIOLENT, linewidth=2)
    if not undefined:
        axes.plot([recall], [precision], "o", color=colours.TEXT, markersize=7, clip_on=False)


def _draw_reliability(
    axes: Axes, labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> None:
    bins = calibration_bins(probabilities)
    sums = {"minlength": CALIBRATION_BINS}
    counts = np.bincount(bins, **sums)
    filled = counts > 0
    mean = np.bincount(bins, probabilities, **sums)[filled] / counts[filled]
    observed = np.bincount(bins, labels, **sums)[filled] / counts[filled]
    error = _figures(labels, probabilities, threshold)["ece"]
    _prepare(
        axes,
        f"Calibration, ECE {error:.3f}",
        f"bars: up to {count_of(counts.max(), 'clip')} per bin; dashed: threshold {threshold:.2f}",
        xlabel="predicted probability of violence",
        ylabel="share of violent clips",
    )
    bottom, height = -0.26, 0.2
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    heights = height * counts / counts.max()
    axes.bar(middles, heights, 0.9 / CALIBRATION_BINS, bottom, color=colours.MUTED)
    axes.plot([0, 1], [0, 1], color=colours.MUTED, linestyle=":", linewidth=1.2)
    axes.plot(
        mean, observed, "o-", color=colours.VIOLENT, linewidth=1.5, markersize=6, clip_on=False
    )
    axes.axvline(threshold, color=colours.TEXT, linestyle="--", linewidth=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(bottom, 1.02), yticks=np.linspace(0, 1, 6))


def _draw_scores(
    axes: Axes, labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> None:
    _prepare(
        axes,
        "Predicted probabilities",
        title_pad=20,  # room for the legend
        xlabel=f"predicted probability of violence (dashed: threshold {threshold:.2f})",
        ylabel="clips",
    )
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    for label, name in enumerate(CLASS_NAMES):
        counts = np.histogram(probabilities[labels == label], edges)[0]
        colour = colours.OF_CLASS[label]
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(counts, edges, color=colour, linewidth=1.8, label=f"{name}: {counts.sum():,}")
    axes.axvline(threshold, color=colours.TEXT, linestyle="--", linewidth=1)
    axes.set(xlim=(-0.02, 1.02))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    position = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.97), "ncols": 2}
    axes.legend(**position, **_legend())


def _figures(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    once = np.ones((1, len(labels)))
    figures = classification_figures(labels, probabilities, threshold, once)
    return {name: float(value[0]) for name, value in figures.items()}


def _percent(share: float, clips: np.ndarray) -> str:
    """Return a share of the clips marked in `(clips,)` bool, as a count if they are few."""
    return share_words(share, int(clips.sum()), ".0%")


def _evenly_spaced(count: int) -> np.ndarray:
    """Return the indices of at most POINTS of `count` points, the first and the last included."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(int))


def _write_single_class(axes: Axes, labels: np.ndarray) -> None:
    name = CLASS_NAMES[int(labels[0])]
    text = f"all {len(labels):,} clips are {name}:\nboth classes are needed"
    axes.text(0.5, 0.5, text, color=colours.TEXT, fontsize=10, ha="center", va="center")
