"""The model card of a finished run: what the detector is, what it was tested on, what it is for.

`model_card.md` has the format of the Hugging Face Hub, YAML before Markdown
(https://huggingface.co/docs/hub/model-cards); `model_card.json` has the same content for programs.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import violence_detection
from violence_detection.evaluation.baselines import (
    chance_baseline,
    constant_baseline,
    more_frequent_class,
)
from violence_detection.evaluation.metrics import CLASS_ACCURACIES, FIGURES, format_figure
from violence_detection.evaluation.subgroups import SUBGROUP_TITLES, subgroup_row
from violence_detection.models import backbone_title
from violence_detection.reporting.finished_run import FinishedRun, read_run
from violence_detection.reporting.reliability import warnings_about
from violence_detection.reporting.rendering import write_markdown
from violence_detection.runs.files import BEST_MODEL, DETECTOR, MODEL_CARD, MODEL_CARD_JSON
from violence_detection.runs.usage import describe_usage
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES, PIXELS, SPLITS, VGG19
from violence_detection.settings.setting import flag
from violence_detection.settings.values import format_value
from violence_detection.storage.files import file_sha256, write_json

TEMPLATE = "model_card.md.j2"
TASK = "video-classification"  # as the Hub names it
TITLES = {
    "accuracy": "accuracy",
    "precision": "precision (violent)",
    "recall": "recall (violent)",
    "f1": "F1 (violent)",
    "roc_auc": "ROC-AUC",
    "pr_auc": "average precision",
    **{f"{name}_accuracy": f"{name} clips correct" for name in CLASS_NAMES},
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
}
GROUPS_LISTED = 30
FEWEST_CLIPS = 10  # of a subgroup, to name it as the weakest
RARE = 1000  # clips among which one is violent, where the detector watches a camera
SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}
# Settings that decide what is trained; the others are of this machine.
PROCEDURE = (
    *("model", "backbone", "feature_layer", "feature_pooling", "streams", "frames", "head"),
    *("fine_tune", "epochs", "batch_size", "learning_rate", "schedule", "select", "augment"),
    *("label_smoothing", "dropout", "l2", "use_focal_loss", "use_class_weights", "weak", "seed"),
)


def write_model_card(folder: Path) -> None:
    """Write the model card of a finished run into its folder, as Markdown and as JSON.

    Args:
        folder: the run's checkpoint directory.

    Raises:
        UserError: there is no finished run in the folder.
        RunError: the card cannot be written.
    """
    run = read_run(folder)
    card = describe_model(run)
    write_json(run.folder / MODEL_CARD_JSON, card)
    front_matter = yaml.safe_dump(hub_metadata(card), sort_keys=False, allow_unicode=True)
    write_markdown(
        TEMPLATE,
        run.folder / MODEL_CARD,
        card=card,
        front_matter=front_matter.encode(errors="replace").decode(),
        settings=[
            (flag(name), format_value(value))
            for name, value in card["procedure"]["settings"].items()
        ],
        constant=CLASS_NAMES[more_frequent_class(card["figures"]["confusion_matrix"])],
        figures=_figure_rows(card["figures"]),
        subgroups={
            column: [subgroup_row(value, figures) for value, figures in by_value.items()]
            for column, by_value in card["by_subgroup"].items()
        },
        subgroup_titles=SUBGROUP_TITLES,
    )


def describe_model(run: FinishedRun) -> dict[str, Any]:
    """Return the content of a run's model card as JSON values."""
    results, config = run.results, run.config
    return {
        "name": f"Violence detector trained on {_dataset(run)}",
        "dataset": _dataset(run),
        "verdict": results.get("verdict", []),
        "data": _data(run),
        "tested": SPLIT_TITLES[results["evaluated_split"]],
        "procedure": _procedure(run),
        "threshold": results["threshold"],
        "temperature": results.get("temperature"),
        "chosen_for": results.get("chosen_for"),
        "figures": results["evaluation"],
        "by_subgroup": results.get("by_subgroup", {}),
        "by_group": _by_group(run),
        "limits": _limits(run),
        "trained": config.get("started"),
        "usage": describe_usage(used) if (used := results.get("usage")) else None,
        "devices": config.get("devices", []),
        "precision": config.get("precision"),
        "versions": {
            "violence-detection": violence_detection.__version__,
            "commit": config.get("git_commit"),
            **{name: found for name, found in config.get("versions", {}).items() if found},
        },
        "sha256": {
            name: file_sha256(run.folder / name)
            for name in (BEST_MODEL, DETECTOR)
            if (run.folder / name).is_file()
        },
    }


def hub_metadata(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the Hub reads of a card: library, task, tags, and figures as a model index."""
    figures = card["figures"]
    metrics = [
        {"type": name, "name": _title_with_interval(figures, name), "value": round(value, 4)}
        for name in (*FIGURES, *CLASS_ACCURACIES)
        if (value := figures[name]) is not None
    ]
    result = {
        "task": {"type": TASK, "name": "violence detection"},
        "dataset": {"type": "own clips", "name": card["dataset"], "split": card["tested"]},
        "metrics": metrics,
    }
    return {
        "library_name": "keras",
        "pipeline_tag": TASK,
        "tags": ["violence-detection", "video", TASK],
        "metrics": list(FIGURES),
        "model-index": [{"name": card["name"], "results": [result]}],
    }


def _title_with_interval(figures: Mapping[str, Any], name: str) -> str:
    if (interval := figures["intervals"][name]) is None:
        return TITLES[name]
    return f"{TITLES[name]}, 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"


def _dataset(run: FinishedRun) -> str:
    """Return the last part of the dataset's path: the folders above it are nobody's business."""
    if run.settings.get("demo"):
        return "clips drawn by the program"
    return Path(run.settings["dataset_path"]).name


def _data(run: FinishedRun) -> dict[str, Any]:
    results = run.results
    counts = {
        "unreadable": len(results.get("bad_clips", [])),
        "left out as repeated in a later split": len(results.get("clips_left_out_for_leakage", [])),
        "repeated in a later split": len({leak["clip"] for leak in results.get("leakage", [])}),
        "without motion": len(results.get("static_clips", [])),
        "files under both labels": len(results.get("one_file_under_both_labels", [])),
        "labels that are probably wrong": len(run.suspects.clips) if run.suspects else 0,
    }
    return {
        "clips_and_groups": results.get("clips_and_groups"),
        "splits": {
            split: {**results["clips"][split], "groups": run.sources.get(split, 0)}
            for split in SPLITS
            if split in results["clips"]
        },
        "clip_seconds": results.get("clip_seconds"),
        "problems": {title: count for title, count in counts.items() if count},
    }


def _procedure(run: FinishedRun) -> dict[str, Any]:
    """Return how the model was made, in words, and the settings that decide it."""
    settings, results = run.settings, run.results
    folds = results.get("folds", 1)
    backbone = settings.get("backbone", VGG19)
    words = [
        f"{settings['frames']} frames of each clip"
        + (f" as {' and '.join(settings['streams'])}" if settings.get("streams") else ""),
        "a network trained from pixels"
        if backbone == PIXELS
        else f"features of {backbone_title(backbone)} up to {settings.get('feature_layer')}, "
        f"with weights {Path(str(settings.get('vgg19_weights'))).name}",
        f"head {settings.get('head')}",
        f"weights after epoch {results['best_epoch']} of {results['epochs_trained']}",
    ]
    if folds > 1:
        words.append(f"the mean of {folds} classifiers, each validated on another fold")
    return {
        "steps": words,
        "settings": {name: settings[name] for name in PROCEDURE if name in settings},
    }


def _by_group(run: FinishedRun) -> dict[str, Any]:
    """Return how many clips of each known group are predicted correctly, the worst group first."""
    clips: dict[str, list[bool]] = defaultdict(list)
    for clip in run.clips:
        if clip.group:
            clips[clip.group].append(clip.is_correct)
    ordered = sorted(clips, key=lambda group: (sum(clips[group]) - len(clips[group]), group))
    rows = [
        {"group": group, "clips": len(clips[group]), "correct": sum(clips[group])}
        for group in ordered
    ]
    return {"groups": rows[:GROUPS_LISTED], "more": max(0, len(rows) - GROUPS_LISTED)}


def _figure_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Return title, value with interval, that of the constant answer and that of chance."""
    confusion = figures["confusion_matrix"]
    baselines = constant_baseline(confusion), chance_baseline(confusion)
    return [
        [
            *(title, format_figure(figures, name)),
            *("" if (value := each.get(name)) is None else f"{value:.3f}" for each in baselines),
        ]
        for name, title in TITLES.items()
    ]


def _of_rare_violence(figures: Mapping[str, Any]) -> str | None:
    """Return what the tested rates mean where violence is rare; None where one is unknown."""
    (correct, alarms), (missed, found) = figures["confusion_matrix"]
    if not (found and correct + alarms):
        return None
    if not alarms:
        # The rule of three: Hanley and Lippman-Hand, JAMA 249, 1983.
        most = min(1.0, 3 / correct)
        return (
            f"No false alarm in {count_of(correct, 'nonviolent clip')} says that at most about "
            f"{100 * most:.2g} % of such clips give one. Where violence is rarer than that, most "
            "alarms may be false."
        )
    detected, false = found / (found + missed), alarms / (alarms + correct)
    right = 100 * detected / (detected + false * (RARE - 1))
    return (
        f"Violence is rarer at a camera than in the test. At the rates of the test, of 100 alarms "
        f"about {right:.2g} would be right if one clip in {RARE:,} were violent."
    )


def _limits(run: FinishedRun) -> list[str]:
    """Return what is known to limit the detector, and what is not known of it."""
    results = run.results
    limits = [f"{warning['title']}. {warning['text']}" for warning in warnings_about(run)]
    sources = count_of(results["evaluation"]["groups"], "group")
    limits.append(
        f"It was tested on {count_of(results['evaluation']['clips'], 'clip')} of {sources}. How it "
        "does at other cameras, in other light and in other places is not known."
    )
    for column, by_value in results.get("by_subgroup", {}).items():
        enough = {
            value: figures
            for value, figures in by_value.items()
            if figures["clips"] >= FEWEST_CLIPS
        }
        worst = min(enough, key=lambda value: enough[value]["accuracy"], default=None)
        if worst is not None and enough[worst]["accuracy"] < results["evaluation"]["accuracy"]:
            limits.append(
                f"By {column} it is least accurate for {worst}: "
                f"{format_figure(enough[worst], 'accuracy')}, of all "
                f"{format_figure(results['evaluation'], 'accuracy')}."
            )
    if seconds := results.get("clip_seconds"):
        limits.append(
            f"It has learned from clips of about {seconds:.1f} s. Longer videos are predicted in "
            "windows of that length."
        )
    if alarms := _of_rare_violence(results["evaluation"]):
        limits.append(alarms)
    limits.append("It sees frames alone: sound, and what was before or after the clip, is unknown.")
    return limits
