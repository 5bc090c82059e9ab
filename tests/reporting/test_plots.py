import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from violence_detection.evaluation.metrics import evaluate
from violence_detection.reporting import colours
from violence_detection.reporting.plots import (
    POINTS,
    as_image,
    as_png,
    confusion,
    curves,
    four_panels,
    precision_recall,
    reliability,
    roc,
    score_histogram,
)

pytestmark = pytest.mark.filterwarnings("error")

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
PROBABILITIES = np.array([0.9, 0.8, 0.5, 0.3, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0])
OF_SCORES = (roc, precision_recall, reliability, score_histogram)


def drawn_scores(clips: int, violent: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = (random.random(clips) < violent).astype(int)
    scores = 1 / (1 + np.exp(-random.normal(2 * labels - 1)))
    return labels, scores.astype(np.float32)


SCORES = {
    "ten clips": (LABELS, PROBABILITIES),
    "two clips": (np.array([0, 1]), np.array([0.2, 0.9])),
    "violent only": (np.ones(5, int), np.linspace(0, 1, 5)),
    "nonviolent only": (np.zeros(5, int), np.linspace(0, 1, 5)),
    "one clip": (np.ones(1, int), np.array([0.7])),
    "all the same": (np.array([0, 1, 1]), np.full(3, 0.3, np.float32)),
    "100,000 clips": drawn_scores(100_000, 0.78),
}


def rows(epochs: int) -> list[dict[str, str]]:
    return [
        {
            "epoch": str(epoch),
            "loss": f"{2 / epoch:.4f}",
            "val_loss": f"{2.5 / epoch:.4f}",
            "accuracy": f"{1 - 0.5 / epoch:.4f}",
            "val_accuracy": f"{0.9 - 0.5 / epoch:.4f}",
            "learning_rate": f"{1e-3 / epoch:.6g}",
        }
        for epoch in range(1, epochs + 1)
    ]


def words(figure: Figure) -> list[str]:
    """Return the texts of a figure, without the tick labels."""
    parts = list(figure.texts)
    for axes in figure.axes:
        parts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    return [part.get_text() for part in parts if part.get_text().strip()]


def assert_legible(figure: Figure) -> None:
    """No text is beyond the edge of the figure, or overlaps another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    whole = figure.get_tightbbox(renderer)
    width, height = figure.get_size_inches()
    assert whole.x0 >= 0 and whole.y0 >= 0 and whole.x1 <= width and whole.y1 <= height
    parts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        parts += [axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        parts += axes.get_legend().get_texts() if axes.get_legend() else []
        parts += [*axes.get_xticklabels(), *axes.get_yticklabels()] if axes.images else []
    boxes = [part.get_window_extent(renderer) for part in parts]
    boxes = [box for box in boxes if box.width > 1]
    assert len(boxes) > 2
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def luminance(colour: object) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: object, other: object) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def in_the_dark(colour: object) -> np.ndarray:
    """Return a colour as a dark page shows it: inverted, its hue turned back, never darker."""
    # https://drafts.fxtf.org/filter-effects/#funcdef-filter-hue-rotate, by half a turn
    weights = np.array([0.213, 0.715, 0.072])
    turn = 2 * np.tile(weights, (3, 1)) - np.eye(3)
    shown = np.clip(turn @ (1 - np.array(to_rgb(colour))), 0, 1)
    page = np.array(to_rgb(DARK_PAGE))
    return 1 - (1 - shown) * (1 - page)  # the blend mode "screen"


DARK_PAGE = "#14181d"
PAGES = {
    "light": ("white", lambda colour: np.array(to_rgb(colour))),
    "dark": (DARK_PAGE, in_the_dark),
}


@pytest.mark.parametrize("draw", OF_SCORES, ids=[draw.__name__ for draw in OF_SCORES])
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_figures_of_any_scores_are_legible(
    draw: Callable[..., Figure], scores: tuple[np.ndarray, np.ndarray]
) -> None:
    assert_legible(draw(*scores, 0.55))


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_four_panels_are_legible(scores: tuple[np.ndarray, np.ndarray]) -> None:
    figure = four_panels(*scores)
    assert_legible(figure)
    image = as_image(figure)
    assert image.shape == (800, 900, 4) and image.dtype == np.uint8
    assert (image[..., 3] == 255).all()  # TensorBoard's page may be dark


@pytest.mark.parametrize("matrix", [[[5, 1], [1, 3]], [[0, 0], [0, 7]], [[43210, 65432]] * 2])
def test_confusion_matrix_is_legible(matrix: list[list[int]]) -> None:
    assert_legible(confusion(matrix))


def test_shares_of_few_clips_are_counts() -> None:
    assert {"5\nof 6", "3\nof 4"} <= set(words(confusion([[5, 1], [1, 3]])))
    assert {"30\n75%", "10\n25%"} <= set(words(confusion([[30, 10], [10, 30]])))


@pytest.mark.parametrize(("epochs", "best"), [(1, 1), (2, 1), (30, 24), (300, 3), (300, 150)])
def test_curves_are_legible_and_name_the_best_epoch(epochs: int, best: int) -> None:
    figure = curves(rows(epochs), best)
    assert_legible(figure)
    loss, accuracy, rate = figure.axes
    assert [text.get_text() for text in (*loss.texts, *accuracy.texts, *rate.texts)] == [
        f"best epoch {best}: validation {2.5 / best:.3g}",
        f"best epoch {best}: validation {0.9 - 0.5 / best:.3g}",
        f"best epoch {best}: rate {1e-3 / best:.3g}",
    ]
    for axes in figure.axes:
        assert [best, best] in [list(line.get_xdata()) for line in axes.lines]


def test_curves_leave_out_unknown_values() -> None:
    history = rows(3)
    history[1]["val_loss"] = ""
    del history[2]["learning_rate"]
    figure = curves(history, 2)
    loss, _, rate = figure.axes
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), [2.5, np.nan, 0.8333])
    assert np.isnan(rate.lines[0].get_ydata()[2])
    assert loss.texts[0].get_text() == "best epoch 2"
    assert_legible(figure)


def test_ticks_of_epochs_are_whole() -> None:
    for epochs in (1, 2, 300):
        figure = curves(rows(epochs), 1)
        low, high = figure.axes[-1].get_xlim()
        ticks = [tick for tick in figure.axes[-1].get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) for tick in ticks)


def test_roc_and_precision_recall_have_the_point_of_the_threshold_and_the_area() -> None:
    found = evaluate(LABELS, PROBABILITIES, 0.5, list("abcdefghij"), 0)
    figure = roc(LABELS, PROBABILITIES, 0.5)
    assert figure.axes[0].lines[-1].get_xydata() == pytest.approx(np.array([[1 / 6, 3 / 4]]))
    assert words(figure)[0] == f"ROC curve, AUC {found['roc_auc']:.3f}"
    assert "threshold 0.50: recall 3 of 4, false positives 1 of 6" in words(figure)[-1]
    figure = precision_recall(LABELS, PROBABILITIES, 0.5)
    assert figure.axes[0].lines[-1].get_xydata() == pytest.approx(np.array([[3 / 4, 3 / 4]]))
    assert words(figure)[0] == f"Precision-recall curve, AUC {found['pr_auc']:.3f}"


def test_threshold_that_no_clip_reaches_has_no_precision() -> None:
    figure = precision_recall(LABELS, PROBABILITIES, 0.95)
    assert "nothing predicted violent" in words(figure)[-1]


@pytest.mark.parametrize("draw", [roc, precision_recall])
def test_curve_of_one_class_is_undefined(draw: Callable[..., Figure]) -> None:
    figure = draw(np.zeros(5, int), np.linspace(0, 1, 5), 0.5)
    assert "all 5 clips are nonviolent:\nboth classes are needed" in words(figure)


def test_reliability_has_each_bin_and_its_number_of_clips() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0])
    figure = reliability(labels, np.array([0.02, 0.04, 0.06, 0.95, 1.0, 0.55]), 0.5)
    points = figure.axes[0].lines[1].get_xydata()
    np.testing.assert_allclose(points, [[0.04, 1 / 3], [0.55, 0], [0.975, 1]])
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches])
    np.testing.assert_allclose(heights / heights.max() * 3, [3, 0, 0, 0, 0, 1, 0, 0, 0, 2])
    assert "up to 3" in words(figure)[-1]


def test_histogram_counts_every_clip_of_each_class() -> None:
    figure = score_histogram(LABELS, PROBABILITIES, 0.5)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["nonviolent: 6", "violent: 4"]
    counts = [step.get_data().values.sum() for step in figure.axes[0].patches]
    assert sorted(counts) == [4, 4, 6, 6]  # outline and fill


def test_many_clips_do_not_add_points() -> None:
    for axes in four_panels(*SCORES["100,000 clips"]).axes:
        assert all(len(line.get_xdata()) <= POINTS for line in axes.lines)


@pytest.mark.parametrize(("page", "seen"), PAGES.values(), ids=PAGES)
def test_colours_have_contrast_with_the_page_and_differ(
    page: str, seen: Callable[[str], np.ndarray]
) -> None:
    names = [*colours.OF_CLASS, *colours.OF_SPLIT.values()]
    assert len(set(names)) == 4
    assert min(contrast(seen(name), page) for name in (*names, colours.MUTED)) >= 3
    assert contrast(seen(colours.TEXT), page) >= 7


@pytest.mark.parametrize(("page", "seen"), PAGES.values(), ids=PAGES)
def test_counts_have_contrast_with_their_cells(
    page: str, seen: Callable[[object], np.ndarray]
) -> None:
    for share in range(0, 101, 5):
        axes = confusion([[share, 100 - share], [1, 1]]).axes[0]
        cells = axes.images[0].get_array()
        for text in axes.texts[-4:]:
            column, row = text.get_position()
            assert contrast(seen(text.get_color()), seen(cells[row, column])) >= 4.5


def test_confusion_matrix_has_counts_and_shares_of_the_row() -> None:
    axes = confusion([[3, 1], [0, 0]]).axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells[0, 0] == "3\nof 4" and cells[1, 0] == "1\nof 4"
    assert cells[0, 1] == cells[1, 1] == "0\nno clips"


def test_png_has_the_pages_background() -> None:
    image = np.array(Image.open(io.BytesIO(as_png(confusion([[1, 2], [3, 4]]), dpi=100))))
    assert image.shape == (380, 440, 4)
    assert image[0, 0].tolist() == [255, 255, 255, 255]
