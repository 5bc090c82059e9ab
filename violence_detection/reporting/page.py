"""The report of a finished run: one HTML file that needs no other.

It shows what the run's files contain; only the curves are computed again.
"""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from violence_detection.errors import failing_as
from violence_detection.evaluation.baselines import (
    chance_baseline,
    constant_baseline,
    more_frequent_class,
)
from violence_detection.evaluation.metrics import (
    FEWEST_FOR_SHARES,
    figure_words,
    share_words,
)
from violence_detection.evaluation.subgroups import SUBGROUP_TITLES, subgroup_row
from violence_detection.reporting import plots
from violence_detection.reporting.about_clips import clips_in_words
from violence_detection.reporting.clip_sections import clip_sections, data_checks
from violence_detection.reporting.event_section import event_section
from violence_detection.reporting.finished_run import FinishedRun, read_run
from violence_detection.reporting.reliability import warnings_about
from violence_detection.reporting.rendering import (
    css_percent,
    png_url,
    write_page,
)
from violence_detection.runs.files import PLOTS
from violence_detection.runs.usage import describe_usage
from violence_detection.settings.constants import CLASS_NAMES, SPLITS
from violence_detection.settings.schema import Settings
from violence_detection.settings.setting import flag
from violence_detection.settings.values import format_value
from violence_detection.storage.files import replace_file

TEMPLATE = "report.html.j2"
COIN = "chance: 0.5"

FIGURE_NAMES = {  # in the order of the table
    "accuracy": "accuracy",
    "precision": "precision (violent)",
    "recall": "recall (violent)",
    "f1": "F1 (violent)",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "nonviolent_accuracy": "nonviolent clips correct",
    "violent_accuracy": "violent clips correct",
}
CALIBRATION_NAMES = {"ece": "calibration error (ECE)", "brier": "Brier score"}
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
PLOT_NAMES = {
    "curves": "Loss, accuracy and learning rate by epoch, with the best epoch marked",
    "confusion": "Confusion matrix: true classes in rows, predicted classes in columns",
    "roc": "ROC curve, with the threshold marked",
    "precision_recall": "Precision-recall curve, with the threshold marked",
    "reliability": "Reliability diagram: share of violent clips by predicted probability",
    "score_histogram": "Predicted probabilities of each class, with the threshold marked",
}
HARDWARE: dict[str, tuple[str, str, Callable[[list[float]], float]]] = {
    "utilization": ("utilization, mean", "%", statistics.fmean),
    "memory_mb": ("memory, peak", " MB", max),
    "temperature": ("temperature, peak", " °C", max),
    "power": ("power, mean", " W", statistics.fmean),
    "cpu_utilization": ("CPU utilization of all cores, mean", "%", statistics.fmean),
}
Plots = dict[str, bytes]  # PNG files by name
Cell = dict[str, str | None]  # a figure and its interval as texts; None where undefined


def write_report(folder: Path, path: Path, event_figures: Path | None = None) -> None:
    """Write the report of a finished run, and its plots into the folder `plots` of the run.

    Args:
        folder: the run's checkpoint directory.
        path: of the page.
        event_figures: of `predict.py --compare-with`; None: those in the folder, if any.

    Raises:
        UserError: there is no finished run in the folder, or no event figures in that file.
        RunError: the page or a plot cannot be written.
    """
    run = read_run(folder)
    events = event_section(run.folder, event_figures, run.results["threshold"])
    drawn = draw_plots(run)
    _write_plots(drawn, run.folder / PLOTS)
    described = describe_run(run, drawn, run.folder.name, with_plots=True)
    write_page(TEMPLATE, path, run=described, events=events)


def draw_plots(run: FinishedRun) -> Plots:
    """Return a run's plots as PNG files."""
    results = run.results
    scores = run.labels, run.probabilities, results["threshold"]
    figures = {
        "curves": plots.curves(run.history, results["best_epoch"]),
        "confusion": plots.confusion(results["evaluation"]["confusion_matrix"]),
        "roc": plots.roc(*scores),
        "precision_recall": plots.precision_recall(*scores),
        "reliability": plots.reliability(*scores),
        "score_histogram": plots.score_histogram(*scores),
    }
    return {name: plots.as_png(figure) for name, figure in figures.items()}


def _write_plots(drawn: Plots, folder: Path) -> None:
    with failing_as(folder):
        folder.mkdir(exist_ok=True)
    for name, png in drawn.items():
        _write_bytes(png, folder / f"{name}.png")


def _write_bytes(data: bytes, path: Path) -> None:
    replace_file(path, lambda partial: partial.write_bytes(data))


def describe_run(run: FinishedRun, drawn: Plots, name: str, with_plots: bool) -> dict[str, Any]:
    """Return a run as the templates take it: texts, and numbers ready to be read.

    Args:
        run: the run.
        drawn: its plots.
        name: what it is called on the page.
        with_plots: whether its own sections have the plots; in a comparison they are side by side.
    """
    return {
        "name": name,
        "folder": run.folder,
        "dataset": Path(run.settings["dataset_path"]).name,
        "dataset_path": run.settings["dataset_path"],
        "started": _moment(run.config.get("started")),
        "results": run.results,
        "config": run.config,
        "tested": SPLIT_NAMES[run.results["evaluated_split"]],
        "about": clips_in_words(run),
        "verdict": run.results.get("verdict", []),  # earlier versions had none
        "shell_folder": quote(str(run.folder)),
        "headline": _headline(run),
        "tiles": _tiles(run),
        "best_epoch": _best_epoch(run),
        "with_plots": with_plots,
        "warnings": warnings_about(run),
        "plots": {
            plot: {"picture": png_url(png), "title": PLOT_NAMES[plot]}
            for plot, png in drawn.items()
        },
        "figures": _figure_rows(run.results),
        "classes": _class_rows(run.results),
        "subgroups": {
            column: [subgroup_row(value, figures) for value, figures in by_value.items()]
            for column, by_value in run.results.get("by_subgroup", {}).items()
        },
        "subgroup_titles": SUBGROUP_TITLES,
        **clip_sections(run),
        "checks": data_checks(run),
        "usage": describe_usage(used) if (used := run.results.get("usage")) else None,
        "stages": _stages(run.results.get("seconds_by_stage")),
        "hardware": _hardware(run.history),
        "settings": _setting_rows(run.settings),
    }


def _moment(text: str | None) -> str | None:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M") if text else None


def cell(figures: Mapping[str, Any], name: str) -> Cell:
    """Return a figure and its interval as texts, None where undefined."""
    value, interval = figure_words(figures, name, between="–")
    return {"value": value, "interval": interval}


def _headline(run: FinishedRun) -> dict[str, Any]:
    """Return how many clips of each class are predicted violent, of all or of 100, with intervals.

    Shares of few clips are counts; if any is out of 100, the counts are added.
    """
    figures = run.results["evaluation"]
    (correct, alarms), (missed, detected) = figures["confusion_matrix"]
    violent, nonviolent = missed + detected, correct + alarms
    sensitivity, specificity = (
        figures["intervals"][f"{name}_accuracy"] for name in reversed(CLASS_NAMES)
    )
    alarm_share = specificity and (1 - specificity[1], 1 - specificity[0])
    found, whole = _of_few_or_hundred(figures["violent_accuracy"], violent)
    reported, of_clips = _of_few_or_hundred(1 - figures["nonviolent_accuracy"], nonviolent)
    return {
        "detected": f"{found} of {whole}",
        "alarms": f"{reported} false {'alarm' if reported == '1' else 'alarms'}",
        "of_nonviolent": of_clips,
        "detected_interval": _ends(sensitivity, violent),
        "alarms_interval": _ends(alarm_share, nonviolent),
        "counts": f"{detected} of {violent} and {alarms} of {nonviolent}"
        if max(violent, nonviolent) >= FEWEST_FOR_SHARES
        else None,
        # Resamples of clips that are all predicted alike have the same figure each time.
        "varies": all(0 < figures[f"{name}_accuracy"] < 1 for name in CLASS_NAMES),
    }


def _of_few_or_hundred(share: float, clips: int) -> tuple[str, int]:
    """Return a share of clips as a number, and of how many: of 100, or of the clips if few.

    0 and 100 of 100 are only said of exactly none and all.
    """
    if clips < FEWEST_FOR_SHARES:
        return f"{share * clips:.0f}", clips
    number = round(100 * share)
    if number == 100 and share < 1:
        return "more than 99", 100
    if number == 0 and share > 0:
        return "less than 1", 100
    return str(number), 100


def _ends(interval: Sequence[float] | None, clips: int) -> str | None:
    if interval is None:
        return None
    (low, whole), (high, _) = (_of_few_or_hundred(end, clips) for end in interval)
    return f"{low} to {high} of {whole}"


def _tiles(run: FinishedRun) -> list[dict[str, Any]]:
    """Return the four most telling figures, each with its position on a line from 0 to 1."""
    figures = run.results["evaluation"]
    (correct, false_alarms), (missed, detected) = figures["confusion_matrix"]
    nonviolent, violent = correct + false_alarms, missed + detected
    majority = max(nonviolent, violent) / figures["clips"]
    commonest = f"majority class: {share_words(majority, figures['clips'])}"
    tiles = []
    for name, title, baseline, note, chance in (
        ("accuracy", "Accuracy", majority, commonest, ""),
        ("violent_accuracy", "Violent clips correct", 0.5, f"{detected} of {violent}", COIN),
        (
            "nonviolent_accuracy",
            "Nonviolent clips correct",
            0.5,
            f"{correct} of {nonviolent}",
            COIN,
        ),
        ("roc_auc", "ROC-AUC", 0.5, "", COIN),
    ):
        value, interval = figures[name], figures["intervals"][name]
        shown = cell(figures, name)
        tiles.append(
            {
                "title": title,
                **shown,
                "position": None if value is None else css_percent(value),
                "band": interval and (css_percent(interval[0]), css_percent(1 - interval[1])),
                "baseline": baseline and css_percent(baseline),
                "note": "; ".join(filter(None, ("" if note == shown["value"] else note, chance))),
            }
        )
    return tiles


def _best_epoch(run: FinishedRun) -> list[tuple[str, str, str]]:
    """Return loss, accuracy and AUC of the training and of the validation clips."""
    best = next((row for row in run.history if row["epoch"] == run.results["best_epoch"]), {})

    clips = _clips_of_first_classifier(run)

    def text(name: str, split: str) -> str:
        value = best.get(name)
        if value is None:
            return "unknown"
        return share_words(value, clips[split] if name.endswith("accuracy") else None)

    titles = {"loss": "loss", "accuracy": "accuracy", "auc": "ROC-AUC"}
    return [
        (title, text(name, "train"), text(f"val_{name}", "val")) for name, title in titles.items()
    ]


def _clips_of_first_classifier(run: FinishedRun) -> dict[str, int]:
    """Return how many clips the curves are of: training and validation."""
    results = run.results
    unused = {*results.get("clips_left_out_for_leakage", [])}
    if results.get("on_bad_clip", "skip") == "skip":
        unused |= {item["clip"] for item in results.get("bad_clips", [])}
    train, val = (
        sum(results["clips"][split].values())
        - sum(run.splits.get(clip) == split for clip in unused)
        for split in ("train", "val")
    )
    if results.get("folds", 1) > 1:
        held_out = results["selection"]["clips"]
        return {"train": train + val - held_out, "val": held_out}
    return {"train": train, "val": val}


def _figure_rows(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return rows of title, two cells, and what the constant answer and chance have."""
    chosen, at_half = results["evaluation"], results["evaluation_at_0.5"]
    uncalibrated = results["evaluation_uncalibrated"]
    confusion = chosen["confusion_matrix"]
    baselines = constant_baseline(confusion), chance_baseline(confusion)

    def without(name: str) -> list[str | None]:
        values = [baseline.get(name) for baseline in baselines]
        return [None if value is None else f"{value:.3f}" for value in values]

    return {
        "constant": CLASS_NAMES[more_frequent_class(confusion)],
        "threshold": f"{chosen['threshold']:.3f}",
        "chosen_for": results.get("chosen_for"),
        "temperature": results.get("temperature"),
        "predictions": [
            (title, cell(chosen, name), cell(at_half, name), without(name))
            for name, title in FIGURE_NAMES.items()
        ],
        "calibration": [
            (title, cell(chosen, name), cell(uncalibrated, name), without(name))
            for name, title in CALIBRATION_NAMES.items()
        ],
        "members": [
            [cell(member, name) for name in ("accuracy", "roc_auc")]
            for member in results.get("members_at_0.5", [])
        ],
    }


def _class_rows(results: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    """Return a row for each figure, with a cell for each class."""
    matrix = np.array(results["evaluation"]["confusion_matrix"])
    correct, true, predicted = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)

    def plain(values: Sequence[str | None]) -> list[Cell]:
        return [{"value": value, "interval": None} for value in values]

    def shares(parts: np.ndarray, wholes: np.ndarray) -> list[Cell]:
        pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
        return plain([share_words(part / whole, whole) if whole else None for part, whole in pairs])

    f1_scores = [
        2 * part / whole if whole else None
        for part, whole in zip(correct, true + predicted, strict=True)
    ]
    rows = [
        (
            f"{SPLIT_NAMES[split]} clips",
            plain([f"{results['clips'][split][name]:,}" for name in CLASS_NAMES]),
        )
        for split in SPLITS
        if split in results["clips"]
    ]
    return [
        *rows,
        ("precision", shares(correct, predicted)),
        ("recall", [cell(results["evaluation"], f"{name}_accuracy") for name in CLASS_NAMES]),
        ("F1", plain([f"{f1:.3f}" if f1 is not None else None for f1 in f1_scores])),
    ]


def _stages(seconds: Mapping[str, float] | None) -> list[dict[str, str]]:
    """Return the time of each stage, the longest first."""
    if not seconds:
        return []
    total = max(sum(seconds.values()), 1e-9)
    return [
        {"name": name, "seconds": f"{took:,.1f}", "share": css_percent(took / total)}
        for name, took in sorted(seconds.items(), key=lambda item: -item[1])
        if took >= 0.05
    ]


def _hardware(history: Sequence[Mapping[str, float | None]]) -> list[tuple[str, str]]:
    """Return the hardware use over all epochs: means, and peaks of memory and temperature."""
    rows = []
    for name in dict.fromkeys(name for row in history for name in row):
        known = [value for row in history if (value := row.get(name)) is not None]
        gpu = re.fullmatch(r"gpu(\d+)_(\w+)", name)
        quantity = gpu[2] if gpu else name
        if not known or quantity not in HARDWARE:
            continue
        title, unit, summary = HARDWARE[quantity]
        device = f"GPU {gpu[1]} " if gpu else ""
        rows.append((f"{device}{title}", f"{summary(known):,.0f}{unit}"))
    return rows


def _setting_rows(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    defaults = Settings().by_name()
    return [
        {
            "flag": flag(name),
            "value": setting_text(value),
            "default": setting_text(defaults[name]) if name in defaults else "unknown",
        }
        for name, value in settings.items()
    ]


def setting_text(value: Any) -> str:
    """Return a setting's value as text, without the password of a URL: reports are passed on."""
    return re.sub(r"//[^/@]*@", "//…@", format_value(value))
