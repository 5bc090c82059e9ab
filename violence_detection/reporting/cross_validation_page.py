"""The report of a cross-validation: its metrics, its plot and the suspect labels, in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from violence_detection.errors import failing_as
from violence_detection.models import backbone_title
from violence_detection.reporting.clip_sections import suspect_section
from violence_detection.reporting.finished_run import Suspects
from violence_detection.reporting.page import CALIBRATION_NAMES, FIGURE_NAMES, cell
from violence_detection.reporting.rendering import png_url, write_page
from violence_detection.settings.constants import VGG19
from violence_detection.settings.setting import weights_flag

TEMPLATE = "cross_validation.html.j2"


def write_cross_validation_page(
    path: Path,
    settings: Mapping[str, Any],
    summary: Mapping[str, Any],
    suspects: Suspects,
    plot: Path,
) -> None:
    """Write the page of a cross-validation.

    Args:
        path: of the page.
        settings: by name, as JSON values.
        summary: the metrics of the folds, their mean and deviation, and those of all clips.
        suspects: the clips whose labels are probably wrong.
        plot: the PNG file that the page shows.

    Raises:
        UserError: the dataset is missing.
        RunError: the plot cannot be read, or the page cannot be written.
    """
    pooled = summary["pooled"]
    with failing_as(plot, "read"):
        png = plot.read_bytes()
    promised = summary["mean"].get("promised_accuracy")
    backbone = settings.get("backbone", VGG19)
    is_untrained = "random" in settings["vgg19_weights"].split(",")
    write_page(
        TEMPLATE,
        path,
        found={
            "dataset": Path(settings["dataset_path"]).name,
            "folder": path.parent,
            "folds": len(summary["folds"]),
            "clips": pooled["clips"],
            "groups": pooled["groups"],
            "accuracy": cell(pooled, "accuracy"),
            "promised": None if promised is None else f"{promised:.3f}",
            "untrained_backbone": backbone_title(backbone) if is_untrained else None,
            "weights_flag": weights_flag(backbone),
            "figures": [
                (title, _spread(summary, name), cell(pooled, name))
                for name, title in (FIGURE_NAMES | CALIBRATION_NAMES).items()
            ],
            "plot": png_url(png),
            "suspects": suspect_section(suspects, settings),
        },
    )


def _spread(summary: Mapping[str, Any], name: str) -> str:
    """Return mean and deviation over the folds as text; empty where neither is known."""
    mean, deviation = summary["mean"].get(name), summary["deviation"].get(name)
    if mean is None:
        return ""
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"
