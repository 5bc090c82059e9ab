"""The colours of plots, distinguishable with colour vision deficiencies, too.

The hues are those of Okabe and Ito, Color Universal Design, https://jfly.uni-koeln.de/color/. On a
dark page they are inverted, and their hues turned back, by its style sheet.
"""

BACKGROUND = "white"
TEXT = "#1f2328"  # of text, thresholds and their points
MUTED = "#6e7781"  # of axes and baselines
GRID = "#dfe3e8"
VIOLENT, NONVIOLENT = "#d55e00", "#0072b2"
OF_CLASS = (NONVIOLENT, VIOLENT)  # by label
OF_SPLIT = {"train": "#009e73", "validation": "#882255"}
CELLS = ("#eef3f8", "#5faae0")  # of a confusion matrix: with the share 0, and with the share 1
