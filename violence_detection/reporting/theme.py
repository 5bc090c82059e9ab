"""The colours of plots, light and dark."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """The colours of a figure, distinguishable with colour vision deficiencies, too.

    The hues are those of Okabe and Ito, Color Universal Design, https://jfly.uni-koeln.de/color/,
    lighter or darker to suit the page.

    Args:
        background: a colour, or "none" for a transparent one.
        text: of text, thresholds and their points.
        muted: of axes and baselines.
        grid: of the grid lines.
        violent, nonviolent: of the classes.
        train, validation: of the splits.
        cells: of a cell of a confusion matrix with the share 0, and with the share 1.
    """

    background: str
    text: str
    muted: str
    grid: str
    violent: str
    nonviolent: str
    train: str
    validation: str
    cells: tuple[str, str]

    def of_class(self, label: int) -> str:
        """Return the colour of a class."""
        return self.violent if label else self.nonviolent


LIGHT = Theme(
    background="white",  # a file may be shown on any background
    text="#1f2328",
    muted="#6e7781",
    grid="#dfe3e8",
    violent="#d55e00",
    nonviolent="#0072b2",
    train="#009e73",
    validation="#882255",
    cells=("#eef3f8", "#0b5a94"),
)
DARK = Theme(
    background="none",
    text="#e6edf3",
    muted="#9198a1",
    grid="#3a424c",
    violent="#f58a3c",
    nonviolent="#56b4e9",
    train="#14a079",
    validation="#f7bfe0",
    cells=("#222b36", "#8cc8f0"),
)
