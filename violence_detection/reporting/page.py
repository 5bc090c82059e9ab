"""The report of a finished run, or of several side by side: one HTML file that needs no other.

What is shown is what the run's files say; nothing is computed anew but the curves. Every value is
escaped by Jinja2; the page has no script and forbids all that is not in it.
"""

import base64
import csv
import re
import statistics
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from violence_detection.clips.frames import sample_positions
from violence_detection.errors import RunError, UserError, failing_as
from violence_detection.evaluation.comparison import (
    Comparison,
    RunPredictions,
    compare,
    setting_differences,
)
from violence_detection.reporting import plots
from violence_detection.reporting.strips import ReportedClip, Strip, choose_clips, read_strips
from violence_detection.runs.files import CONFIG, HISTORY, PLOTS, PREDICTIONS, RESULTS, SPLITS_FILE
from violence_detection.runs.usage import describe_usage
from violence_detection.runs.values import format_value
from violence_detection.settings.constants import CLASS_NAMES, CLIP_TIMEOUT, SPLITS
from violence_detection.settings.schema import Settings
from violence_detection.settings.setting import flag
from violence_detection.settings.values import folder_or_url
from violence_detection.storage.files import read_json, replace_file, write_text
from violence_detection.storage.remote_paths import clips_folder

COMPARISON = "comparison.html"
TEMPLATE = "report.html.j2"
FEW_GROUPS = 30  # of a test; with fewer, its intervals are wide
PAIRS_SHOWN = 8  # of clips that repeat each other, with their frames
PAIR_FRAMES = 4  # of each of the two
GRAVE, MILD = "grave", "mild"  # kinds of warnings
LISTED = 200  # names in a list that may have thousands

FIGURE_NAMES = {  # in the order of the table
    "accuracy": "accuracy",
    "precision": "precision (violent)",
    "recall": "recall (violent)",
    "f1": "F1 (violent)",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "nonviolent_accuracy": "nonviolent clips left alone",
    "violent_accuracy": "violent clips found",
}
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
CALIBRATION_NAMES = {"ece": "calibration error (ECE)", "brier": "Brier score"}
PLOT_NAMES = {
    "curves": "Loss, accuracy and learning rate of each epoch, the best one marked",
    "confusion": "Confusion matrix: the true classes are the rows, the verdicts the columns",
    "roc": "ROC curve, the threshold marked",
    "precision_recall": "Precision by recall, the threshold marked",
    "reliability": "Share of violent clips by the probability that was told",
    "score_histogram": "Probabilities of each class, the threshold marked",
}
HARDWARE: dict[str, tuple[str, str, Callable[[list[float]], float]]] = {
    "utilization": ("in use, mean of the epochs", "%", statistics.fmean),
    "memory_mb": ("memory, at most", "MB", max),
    "temperature": ("temperature, at most", "°C", max),
    "power": ("power, mean of the epochs", "W", statistics.fmean),
    "cpu_utilization": ("all CPU cores in use, mean of the epochs", "%", statistics.fmean),
}
# What a page cannot do without; what else an earlier version did not write is told as not known.
NEEDED_RESULTS = (
    *("best_epoch", "epochs_trained", "evaluated_split", "threshold", "clips"),
    *("evaluation", "evaluation_at_0.5", "evaluation_uncalibrated"),
)
NEEDED_SETTINGS = ("dataset_path", "frames", "seed")


@dataclass(frozen=True)
class FinishedRun:
    """What a run has left in its checkpoint directory."""

    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    history: list[dict[str, float | None]]  # a row per epoch
    clips: list[ReportedClip]  # of the split that was tested
    splits: dict[str, str]  # of all clips, by name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return self.config["settings"]

    @property
    def labels(self) -> np.ndarray:
        """`(clips,)` int64."""
        return np.array([clip.label for clip in self.clips])

    @property
    def probabilities(self) -> np.ndarray:
        """`(clips,)` float64."""
        return np.array([clip.probability for clip in self.clips])

    def read_strips(self, names: Iterable[str]) -> dict[str, Strip]:
        """Return what is to be seen of clips, by name, from where they are, or were."""
        wanted = list(dict.fromkeys(names))
        where, frames = folder_or_url(self.settings["dataset_path"]), self.settings["frames"]
        spool_dir = Path(self.settings.get("spool_dir", Settings().data.spool_dir))
        spool_size = self.settings.get("spool_size", Settings().data.spool_size)
        try:
            with clips_folder(where, spool_dir, spool_size) as folder:
                paths = [folder / name for name in wanted]
                strips = read_strips(
                    paths,
                    frames,
                    self.settings.get("cached_frames") or frames,
                    self.settings.get("clip_timeout", CLIP_TIMEOUT),
                )
                return {name: strips[path] for name, path in zip(wanted, paths, strict=True)}
        except (UserError, RunError) as error:
            if isinstance(where, Path):
                raise
            return {name: Strip(trouble=str(error)) for name in wanted}


def read_run(folder: Path) -> FinishedRun:
    """Return the finished run in a checkpoint directory.

    Raises:
        UserError: there is none, or one of its files is gone or damaged.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"--checkpoint-dir {folder}: no such folder")
    if not (folder / CONFIG).exists():
        raise UserError(
            f"--checkpoint-dir {folder} holds no run (no {CONFIG}): name the folder that a "
            "training command was given"
        )
    if not (folder / RESULTS).exists():
        raise UserError(
            f"--checkpoint-dir {folder} holds a run that is not finished (no {RESULTS}): its "
            "training command, given again, goes on; a report is made at its end"
        )
    config, results = read_json(folder / CONFIG), read_json(folder / RESULTS)
    _require(config.get("settings", {}), NEEDED_SETTINGS, folder / CONFIG)
    _require(results, NEEDED_RESULTS, folder / RESULTS)
    with _table(folder / HISTORY) as rows:
        history = [
            {name: float(cell) if cell else None for name, cell in row.items() if name != "time"}
            for row in rows
        ]
    with _table(folder / PREDICTIONS) as rows:
        clips = [_judged(row) for row in rows]
    with _table(folder / SPLITS_FILE) as rows:
        splits = {row["clip"]: row["split"] for row in rows}
    for path, found, told in (
        (folder / PREDICTIONS, len(clips), results["evaluation"]["clips"]),
        (folder / HISTORY, len(history), results["epochs_trained"]),
    ):
        if found != told:
            raise UserError(f"{path} has {found} rows, {RESULTS} tells of {told}: restore it")
    return FinishedRun(folder, config, results, history, clips, splits)


def _require(values: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    if missing := [name for name in names if name not in values]:
        raise UserError(
            f"{path} says nothing of {', '.join(missing)}: it is of an earlier version of this "
            "program; train again (--fresh) for a report"
        )


@contextmanager
def _table(path: Path) -> Iterator[Iterator[dict[str, str]]]:
    """Give the rows of a CSV file; raise `UserError` if it is gone or a cell is not what it was."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            try:
                yield iter(rows)
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise UserError(
                    f"{path}, line {rows.line_num}, is damaged ({type(error).__name__}: {error}): "
                    "restore it"
                ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore it") from error


def _judged(row: Mapping[str, str]) -> ReportedClip:
    weights = [row[name] for name in row if name and name.startswith("attention_")]
    return ReportedClip(
        name=row["clip"],
        label=CLASS_NAMES.index(row["label"]),
        probability=float(row["probability"]),
        verdict=CLASS_NAMES.index(row["verdict"]),
        group=row.get("group") or None,
        attention=tuple(map(float, weights)) if weights and all(weights) else None,
    )


def write_report(folders: Sequence[Path], path: Path) -> None:
    """Write the page of one finished run, or of several side by side; of one, its plots, too.

    Args:
        folders: checkpoint directories.
        path: of the page.

    Raises:
        UserError: there is no finished run in a folder.
        RunError: the page or a plot cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    drawn = [_draw(run) for run in runs]
    if len(runs) == 1:
        _write_plots(drawn[0], runs[0].folder / PLOTS)
    described = [
        _describe(run, of_run, name, with_plots=len(runs) == 1)
        for run, of_run, name in zip(runs, drawn, _short_names(runs), strict=True)
    ]
    page = _environment().get_template(TEMPLATE)
    text = page.render(runs=described, compared=_describe_comparison(runs, described))
    write_text(path, text)


# Plots.

Plots = dict[str, tuple[bytes, bytes]]  # PNG files by name: light, dark


def _draw(run: FinishedRun) -> Plots:
    results = run.results
    of_clips = run.labels, run.probabilities, results["threshold"]
    figures: dict[str, Callable[[plots.Theme], Any]] = {
        "curves": lambda theme: plots.curves(run.history, results["best_epoch"], theme),
        "confusion": lambda theme: plots.confusion(
            results["evaluation"]["confusion_matrix"], theme
        ),
        "roc": lambda theme: plots.roc(*of_clips, theme),
        "precision_recall": lambda theme: plots.precision_recall(*of_clips, theme),
        "reliability": lambda theme: plots.reliability(*of_clips, theme),
        "score_histogram": lambda theme: plots.score_histogram(*of_clips, theme),
    }
    return {
        name: (plots.as_png(draw(plots.LIGHT)), plots.as_png(draw(plots.DARK)))
        for name, draw in figures.items()
    }


def _write_plots(drawn: Plots, folder: Path) -> None:
    with failing_as(folder):
        folder.mkdir(exist_ok=True)
    for name, (light, _) in drawn.items():
        _write_bytes(light, folder / f"{name}.png")


def _write_bytes(data: bytes, path: Path) -> None:
    replace_file(path, lambda partial: partial.write_bytes(data))


# What the page shows of a run.


def _describe(run: FinishedRun, drawn: Plots, name: str, with_plots: bool) -> dict[str, Any]:
    """Return a run as the template takes it: words, and numbers as they are to be read.

    Args:
        with_plots: among its own sections; else they are side by side with other runs'.
    """
    chosen = choose_clips(run.clips, run.results["threshold"])
    pairs = run.results.get("leakage", [])[:PAIRS_SHOWN]
    in_pairs = [pair[side] for pair in pairs for side in ("clip", "repeated")]
    frames = run.settings["frames"]
    strips = run.read_strips((*(clip.name for clip in chosen), *in_pairs))
    return {
        "name": name,
        "folder": run.folder,
        "dataset": Path(run.settings["dataset_path"]).name,
        "dataset_path": run.settings["dataset_path"],
        "started": _moment(run.config.get("started")),
        "results": run.results,
        "config": run.config,
        "tested": run.results["evaluated_split"],
        "headline": _headline(run),
        "tiles": _tiles(run),
        "best_epoch": _best_epoch(run),
        "with_plots": with_plots,
        "warnings": _warnings(run),
        "plots": {
            plot: {"light": _png(light), "dark": _png(dark), "says": PLOT_NAMES[plot]}
            for plot, (light, dark) in drawn.items()
        },
        "figures": _figure_rows(run.results),
        "classes": _class_rows(run.results),
        "strips": [
            {
                "title": title,
                "says": says,
                "clips": [_strip(run, clip, strips[clip.name]) for clip in clips],
            }
            for title, says, clips in (
                (
                    "Worst mistakes",
                    "Wrong verdicts, the farthest from the label first.",
                    chosen.worst,
                ),
                ("Least certain", "The nearest to the threshold.", chosen.least_certain),
                ("Certain and right", "The nearest to their label.", chosen.certain),
            )
        ],
        "even_weight": 1 / frames,
        "has_attention": any(clip.attention for clip in run.clips),
        "pairs": [_pair(run, pair, strips) for pair in pairs],
        "checks": _checks(run),
        "usage": describe_usage(used) if (used := run.results.get("usage")) else None,
        "stages": _stages(run.results.get("seconds_by_stage")),
        "hardware": _hardware(run.history),
        "settings": _setting_rows(run.settings),
    }


def _png(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _jpeg(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _moment(text: str | None) -> str | None:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M") if text else None


def _cell(figures: Mapping[str, Any], name: str) -> dict[str, str | None]:
    """Return a figure and its interval in words; the figure is None if it is not defined."""
    value, interval = figures[name], figures["intervals"][name]
    if value is None:
        return {"value": None, "interval": None}
    spread = f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else None
    return {"value": f"{value:.3f}", "interval": spread}


def _headline(run: FinishedRun) -> dict[str, Any]:
    """Return how many of 100 clips of each class are called violent, with intervals and counts."""
    figures = run.results["evaluation"]
    (kept, alarms), (missed, found) = figures["confusion_matrix"]
    left_alone = figures["intervals"]["nonviolent_accuracy"]
    return {
        "found": _of_hundred(figures["violent_accuracy"]),
        "found_interval": _hundreds(figures["intervals"]["violent_accuracy"]),
        "found_counted": f"{found} of {missed + found}",
        "alarms": _of_hundred(1 - figures["nonviolent_accuracy"]),
        "alarms_interval": _hundreds(left_alone and (1 - left_alone[1], 1 - left_alone[0])),
        "alarms_counted": f"{alarms} of {kept + alarms}",
        # Resampling clips that are all judged alike gives the same figure each time.
        "varies": all(0 < figures[f"{name}_accuracy"] < 1 for name in CLASS_NAMES),
    }


def _of_hundred(share: float) -> str:
    """Return a share as a number out of 100; one that is not quite all or nothing says so."""
    number = round(100 * share)
    if number == 100 and share < 1:
        return "more than 99"
    if number == 0 and share > 0:
        return "less than 1"
    return str(number)


def _hundreds(interval: Sequence[float] | None) -> str | None:
    if interval is None:
        return None
    return f"{_of_hundred(interval[0])} to {_of_hundred(interval[1])}"


def _tiles(run: FinishedRun) -> list[dict[str, Any]]:
    """Return the four figures that tell most, each with its place on a line from 0 to 1."""
    figures = run.results["evaluation"]
    (kept, alarms), (missed, found) = figures["confusion_matrix"]
    commonest = max(kept + alarms, missed + found) / figures["clips"]
    tiles = []
    for name, title, compared_with, says in (
        ("accuracy", "Accuracy", commonest, f"{commonest:.3f}: always the commoner class"),
        ("violent_accuracy", "Violent clips found", None, f"{found} of {missed + found}"),
        ("nonviolent_accuracy", "Nonviolent left alone", None, f"{kept} of {kept + alarms}"),
        ("roc_auc", "ROC-AUC", 0.5, "0.5: chance"),
    ):
        value, interval = figures[name], figures["intervals"][name]
        tiles.append(
            {
                "title": title,
                **_cell(figures, name),
                "place": None if value is None else _percent(value),
                "band": interval and (_percent(interval[0]), _percent(1 - interval[1])),
                "compared_with": compared_with and _percent(compared_with),
                "says": says,
            }
        )
    return tiles


def _percent(share: float) -> str:
    """Return a share as CSS has it."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def _best_epoch(run: FinishedRun) -> list[tuple[str, str, str]]:
    """Return loss, accuracy and AUC of the training and of the validation clips."""
    best = next((row for row in run.history if row["epoch"] == run.results["best_epoch"]), {})

    def shown(name: str) -> str:
        value = best.get(name)
        return "not known" if value is None else f"{value:.3f}"

    titles = {"loss": "loss", "accuracy": "accuracy", "auc": "ROC-AUC"}
    return [(title, shown(name), shown(f"val_{name}")) for name, title in titles.items()]


def _warnings(run: FinishedRun) -> list[dict[str, str]]:
    """Return what makes the figures worth less than they look, the gravest first."""
    results = run.results
    figures = results["evaluation"]
    warnings = []

    def warn(kind: str, title: str, text: str) -> None:
        warnings.append({"kind": kind, "title": title, "text": text})

    if results.get("untrained_vgg19"):
        warn(
            GRAVE,
            "VGG19 had random weights",
            "Its features are untrained: the figures below say nothing about a real detector. "
            "Train with --vgg19-weights imagenet, or with a file.",
        )
    if results["evaluated_split"] == "val":
        warn(
            GRAVE,
            "These are figures of validation clips",
            "There is no test split. Epoch, temperature and threshold were chosen by these very "
            "clips: on new ones, expect less.",
        )
    leaks = results.get("leakage", [])
    left_out = set(results.get("clips_left_out_for_leakage", []))
    if remaining := {leak["clip"] for leak in leaks} - left_out:
        warn(
            GRAVE,
            f"{_count(len(remaining), 'clip')} of an earlier split repeated in a later one",
            "What was trained on, or chosen by, is tested on again: the figures look better than "
            "they are. The pairs are below, among the data to check.",
        )
    if figures["groups"] < FEW_GROUPS:
        of_one = figures["groups"] == 1
        warn(
            MILD,
            f"Only {_count(figures['groups'], 'group')} in the test",
            "Clips of one source resemble each other, so that intervals go by groups: "
            + ("of a single one there are none. " if of_one else "of so few they are wide. ")
            + "--cross-validate tests on every clip.",
        )
    if files := results.get("one_file_under_both_labels"):
        warn(
            MILD,
            f"{_count(len(files), 'file')} under both labels",
            "One of the two labels is wrong. They are below, among the data to check.",
        )
    return warnings


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _figure_rows(results: Mapping[str, Any]) -> dict[str, Any]:
    chosen, at_half = results["evaluation"], results["evaluation_at_0.5"]
    uncalibrated = results["evaluation_uncalibrated"]
    return {
        "threshold": f"{chosen['threshold']:.3f}",
        "chosen_for": results.get("chosen_for"),
        "temperature": results.get("temperature"),
        "verdicts": [
            (title, _cell(chosen, name), _cell(at_half, name))
            for name, title in FIGURE_NAMES.items()
        ],
        "calibration": [
            (title, _cell(chosen, name), _cell(uncalibrated, name))
            for name, title in CALIBRATION_NAMES.items()
        ],
        "members": [
            [_cell(member, name) for name in ("accuracy", "roc_auc")]
            for member in results.get("members_at_0.5", [])
        ],
    }


def _class_rows(results: Mapping[str, Any]) -> list[tuple[str, list[dict[str, str | None]]]]:
    """Return a row for each figure, with a cell for each class."""
    matrix = np.array(results["evaluation"]["confusion_matrix"])
    right, really, called = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)

    def plain(values: Sequence[str | None]) -> list[dict[str, str | None]]:
        return [{"value": value, "interval": None} for value in values]

    def shares(parts: np.ndarray, wholes: np.ndarray) -> list[dict[str, str | None]]:
        return plain([f"{p / w:.3f}" if w else None for p, w in zip(parts, wholes, strict=True)])

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
        ("precision", shares(right, called)),
        ("recall", [_cell(results["evaluation"], f"{name}_accuracy") for name in CLASS_NAMES]),
        ("F1", shares(2 * right, really + called)),
    ]


def _strip(run: FinishedRun, clip: ReportedClip, strip: Strip) -> dict[str, Any]:
    weights = clip.attention
    if weights is not None and len(weights) != run.settings["frames"]:
        weights = None  # of something else
    largest = max(weights) if weights else 0.0
    frames = [
        {
            "picture": _jpeg(picture),
            "weight": None if weights is None else f"{100 * weights[place]:.1f}",
            "bar": None if weights is None else _percent(weights[place] / max(largest, 1e-9)),
            "is_largest": weights is not None and weights[place] == largest,
        }
        for place, picture in enumerate(strip.frames)
    ]
    return {
        "clip": clip,
        "label": CLASS_NAMES[clip.label],
        "verdict": CLASS_NAMES[clip.verdict],
        "probability": f"{clip.probability:.3f}",
        "place": _percent(clip.probability),
        "threshold": _percent(run.results["threshold"]),
        "width": strip.width,
        "height": strip.height,
        "frames": frames,
        "even": _percent(1 / len(weights) / max(largest, 1e-9)) if weights else None,
        "trouble": strip.trouble,
    }


def _pair(run: FinishedRun, pair: Mapping[str, Any], strips: Mapping[str, Strip]) -> dict[str, Any]:
    def side(name: str) -> dict[str, Any]:
        strip = strips[name]
        shown = sorted(set(sample_positions(len(strip.frames), PAIR_FRAMES).tolist()))
        return {
            "name": name,
            "split": run.splits.get(name),
            "width": strip.width,
            "height": strip.height,
            "frames": [_jpeg(strip.frames[place]) for place in shown if strip.frames],
            "trouble": strip.trouble,
        }

    near = pair.get("similarity")
    return {
        "sides": [side(pair["clip"]), side(pair["repeated"])],
        "reason": pair["reason"],
        "similarity": None if near is None else f"{near:.3f}",
    }


def _checks(run: FinishedRun) -> dict[str, Any]:
    """Return what a person has to look at in the data: lists, each cut at `LISTED`."""
    results = run.results
    bad = [(item["clip"], item["split"], item["reason"]) for item in results.get("bad_clips", [])]
    leaks = results.get("leakage", [])
    listed = {
        "bad": bad,
        "more_pairs": [(leak["clip"], leak["repeated"]) for leak in leaks[PAIRS_SHOWN:]],
        "left_out": results.get("clips_left_out_for_leakage", []),
        "both_labels": results.get("one_file_under_both_labels", []),
        "static": results.get("static_clips", []),
        "two_sides": list(results.get("groups_on_two_sides", {}).items()),
    }
    return {
        name: {"count": len(items), "items": items[:LISTED], "more": max(0, len(items) - LISTED)}
        for name, items in listed.items()
    } | {"on_bad_clip": results.get("on_bad_clip", "skip"), "pairs": len(leaks)}


def _stages(seconds: Mapping[str, float] | None) -> list[dict[str, str]]:
    """Return where the time went, the longest stage first."""
    if not seconds:
        return []
    total = max(sum(seconds.values()), 1e-9)
    return [
        {"name": name, "seconds": f"{took:,.1f}", "share": _percent(took / total)}
        for name, took in sorted(seconds.items(), key=lambda item: -item[1])
        if took >= 0.05
    ]


def _hardware(history: Sequence[Mapping[str, float | None]]) -> list[tuple[str, str]]:
    """Return what the epochs took of the machine: means, and peaks of memory and heat."""
    rows = []
    for name in dict.fromkeys(name for row in history for name in row):
        known = [value for row in history if (value := row.get(name)) is not None]
        gpu = re.fullmatch(r"gpu(\d+)_(\w+)", name)
        quantity = gpu[2] if gpu else name
        if not known or quantity not in HARDWARE:
            continue
        title, unit, summary = HARDWARE[quantity]
        device = f"GPU {gpu[1]}, " if gpu else ""
        rows.append((f"{device}{title}", f"{summary(known):,.0f} {unit}"))
    return rows


def _setting_rows(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    defaults = Settings().by_name()
    return [
        {
            "flag": flag(name),
            "value": format_value(value),
            "default": format_value(defaults[name]) if name in defaults else "unknown",
        }
        for name, value in settings.items()
    ]


# Several runs.


def _points(difference: float) -> str:
    """Return a difference of shares in points of 100, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−").replace("+0.0", "0.0")


def _short_names(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the ends of the runs' paths, as long as they have to be to tell them apart."""
    names = [run.folder.name for run in runs]
    for length in range(2, max(len(run.folder.parts) for run in runs) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(run.folder.parts[-length:]) for run in runs]
    return names


def _describe_comparison(
    runs: Sequence[FinishedRun], described: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return what several runs have in common, and what not, a cell per run; of one, None."""
    if len(runs) == 1:
        return None
    first, *others = [
        _tested(run, of_run["name"]) for run, of_run in zip(runs, described, strict=True)
    ]
    figures = [run.results["evaluation"] for run in runs]
    return {
        "warnings": _common_warnings(described),
        "pairs": [
            _describe_pair(compare(first, other, runs[0].settings["seed"])) for other in others
        ],
        "figures": [
            (title, [_cell(of_run, name) for of_run in figures])
            for name, title in (FIGURE_NAMES | CALIBRATION_NAMES).items()
        ],
        "tested": [
            (
                "clips",
                [
                    f"{of_run['clips']:,} {run.results['evaluated_split']}"
                    for run, of_run in zip(runs, figures, strict=True)
                ],
            ),
            ("groups", [f"{of_run['groups']:,}" for of_run in figures]),
            ("threshold", [f"{of_run['threshold']:.3f}" for of_run in figures]),
            (
                "best epoch",
                [f"{run.results['best_epoch']} of {run.results['epochs_trained']}" for run in runs],
            ),
            ("time, energy and cost", [of_run["usage"] or "not recorded" for of_run in described]),
        ],
        "settings": [
            (flag(name), [format_value(value) for value in values])
            for name, values in setting_differences([run.settings for run in runs]).items()
        ],
    }


def _tested(run: FinishedRun, name: str) -> RunPredictions:
    return RunPredictions(
        name,
        [clip.name for clip in run.clips],
        [clip.group or "" for clip in run.clips],
        run.labels,
        np.array([clip.verdict for clip in run.clips]),
    )


def _common_warnings(described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each warning once, with the names of the runs that it is of, the gravest first."""
    found: dict[tuple[str, ...], list[str]] = {}
    for run in described:
        for warning in run["warnings"]:
            found.setdefault(tuple(warning.values()), []).append(run["name"])
    order = sorted(found, key=lambda warning: warning[0] != GRAVE)
    return [
        dict(zip(("kind", "title", "text"), warning, strict=True)) | {"runs": found[warning]}
        for warning in order
    ]


def _describe_pair(pair: Comparison) -> dict[str, Any]:
    """Return a comparison as the template takes it: differences are in points of 100."""
    difference, interval = pair.difference, pair.interval
    better = None
    if difference:
        better = f"{abs(100 * difference):.1f} points {'better' if difference > 0 else 'worse'}"
    return {
        "pair": pair,
        "better": better,
        "interval": interval and " to ".join(_points(end) for end in interval),
        "mcnemar": None if pair.mcnemar_p is None else f"{pair.mcnemar_p:.2g}",
        "accuracies": [
            None if value is None else f"{value:.3f}"
            for value in (pair.first_accuracy, pair.second_accuracy)
        ],
    }


# The template.


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    environment.filters |= {"parts": name_parts, "counted": _count}
    return environment


def _printed(value: Any) -> Any:
    """Return what is put on the page for a value: nothing that is not to be seen, or not UTF-8."""
    if isinstance(value, Markup) or not isinstance(value, str | Path):
        return value
    return "".join(text for text, _ in name_parts(str(value)))


def name_parts(name: str) -> list[tuple[str, bool]]:
    """Return a file's name in parts: what is shown as it is, and, True, what is spelt out.

    Spelt out is what a reader would not see, or not where it is: control characters, those that
    turn the writing's direction, bytes that are not UTF-8.
    """
    if name.isprintable():  # as nearly all are: pictures, too, are text on a page
        return [(name, False)] if name else []
    parts: list[tuple[str, bool]] = []
    plain = ""
    for character in name:
        if not _is_hidden(character):
            plain += character
            continue
        parts += [(plain, False)] if plain else []
        plain = ""
        is_byte = "\udc80" <= character <= "\udcff"
        spelt = (
            f"\\x{ord(character) - 0xDC00:02x}"
            if is_byte
            else character.encode("unicode_escape").decode()
        )
        parts.append((spelt, True))
    return [*parts, (plain, False)] if plain else parts


def _is_hidden(character: str) -> bool:
    joins = character in "\u200c\u200d"  # letters of some scripts, parts of one emoji
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not joins
