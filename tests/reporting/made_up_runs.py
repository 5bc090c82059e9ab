"""Runs that a test makes up: their files without a training, and what their page shows."""

import os
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.splits import count_by_split, write_splits
from violence_detection.evaluation.event_figures import ComparedVideo, ScoredSpan, event_figures
from violence_detection.evaluation.metrics import evaluate, figure_words
from violence_detection.reporting.comparison_page import write_comparison
from violence_detection.reporting.page import write_report
from violence_detection.runs.label_issues import write_label_issues
from violence_detection.runs.results import write_predictions
from violence_detection.runs.usage import usage
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import read_json, write_csv, write_json

FRAMES = 4
STARTED = "2026-01-02T03:04:05+00:00"
THRESHOLD = 0.45
Make = Callable[..., Path]


class Reported(NamedTuple):
    """A run, its results and its page."""

    folder: Path
    results: dict[str, Any]
    page: "Page"


def write_run(
    folder: Path,
    dataset: Path,
    settings: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    split: str = "test",
    wrong: int = 1,
    frames: int = FRAMES,
) -> Path:
    """Write the files of a finished run on the clips of `dataset`; return its folder.

    Of each class, `wrong` clips are misclassified; the first frame has the most attention.
    """
    folder.mkdir(parents=True)
    given = Settings().replace(dataset_path=dataset, checkpoint_dir=folder, frames=frames)
    clips = find_clips(dataset, given.devices.seed)
    write_splits(clips, folder / "splits.csv")
    tested = [clip for clip in clips if clip.split == split]
    probabilities = made_up_probabilities(tested, wrong)
    labels = np.array([clip.label for clip in tested])
    groups = [clip.group_key for clip in tested]
    figures = {
        name: evaluate(labels, probabilities, threshold, groups, seed=0)
        for name, threshold in {
            "evaluation": THRESHOLD,
            "evaluation_at_0.5": 0.5,
            "evaluation_uncalibrated": 0.5,
        }.items()
    }
    weights = np.tile(np.arange(frames, 0, -1) / np.arange(frames + 1).sum(), (len(tested), 1))
    write_predictions(tested, probabilities, THRESHOLD, weights, folder / "predictions.csv")
    columns = ("epoch", "time", "loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc")
    columns += ("learning_rate", "seconds", "clips_per_second", "cpu_utilization", "memory_mb")
    epochs = [
        (1, STARTED, 0.5, 0.6, 0.65, 0.6, 0.5, 0.55, 0.0005, 2.5, 99, 40, 512),
        (2, STARTED, 0.4, 0.7, 0.75, 0.5, 0.875, 0.8, 0.001, 2.5, 99, 60, 600),
        (3, STARTED, 0.3, 0.8, 0.85, 0.7, 0.75, 0.7, 0.0, 2.5, 99, "", ""),
    ]
    write_csv(folder / "training_history.csv", columns, epochs)
    write_json(
        folder / "training_config.json",
        {
            "settings": given.as_json() | (settings or {}),
            "bad_clips": {},
            "devices": ["/device:CPU:0 (some processor)"],
            "precision": "bfloat16",
            "versions": {"python": "3.11.9", "tensorflow": None},
            "git_commit": "0123456789abcdef",
            "started": STARTED,
        },
    )
    write_json(
        folder / "training_results.json",
        {
            "best_epoch": 2,
            "epochs_trained": 3,
            "stopped_early": False,
            "evaluated_split": split,
            "threshold": THRESHOLD,
            "temperature": 1.25,
            "chosen_for": "accuracy",
            "clips": count_by_split(clips),
            **figures,
            "usage": usage(200.0, 0.25, 0.12, None),
            "seconds_by_stage": {"start": 4.0, "training": 16.0},
            **(results or {}),
        },
    )
    return folder


def write_suspects(run: Path, clips: list[Clip], wrong: int = 3) -> None:
    """List the labels of a run's clips; of each class, `wrong` labels are contradicted."""
    probabilities = made_up_probabilities(clips, wrong)
    write_label_issues(clips, probabilities, THRESHOLD, run / "label_issues.csv")


def made_up_probabilities(clips: list[Clip], wrong: int) -> np.ndarray:
    """Return `(clips,)` probabilities; the first `wrong` clips of each class are misclassified."""
    seen = [0, 0]
    probabilities = []
    for clip in clips:
        number = seen[clip.label]
        seen[clip.label] += 1
        far = 0.9 - 0.01 * number
        probabilities.append(far if (number >= wrong) == (clip.label == 1) else 1 - far)
    return np.array(probabilities)


MEMBER = {
    "accuracy": 0.625,
    "roc_auc": 0.7,
    "intervals": {"accuracy": None, "roc_auc": (0.6, 0.8)},
    "confusion_matrix": [[25, 15], [15, 25]],
}
LEAK = {"clip": "train/violent/violent0.mp4", "repeated": "test/violent/violent1.mp4"}


HOSTILE_NAMES = (
    "<script>alert(1)</script>.mp4",
    '"><img src=x onerror=alert(2)>.mp4',
    "'\"&amp;{{ 7 * 7 }}{% raw %}</style><b>.mp4",
    "x" * 200 + ".mp4",
    "שלום עליכם.mp4",
    "🥊 👨\u200d👩\u200d👧.mp4",
    "two  spaces, a\nline and a\ttab.mp4",
    "turned \u202e4pm.evil.mp4",
    os.fsdecode(b"caf\xe9.mp4"),
)


def make_hostile(parent: Path, drawn_clips: Path) -> Path:
    """Return a folder of clips with a hostile name, as have its groups and its test clips."""
    folder = parent / '<b id="evil">clips & "quotes"'
    shutil.copytree(drawn_clips, folder)
    for number, name in enumerate(HOSTILE_NAMES):
        class_name = CLASS_NAMES[number % 2]
        path = folder / "test" / class_name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn_clips / "test" / class_name / f"{class_name}1.mp4", path)
    groups = [
        (f"test/violent/{name}", "<i>group</i>")
        for name in (HOSTILE_NAMES[1], HOSTILE_NAMES[3], HOSTILE_NAMES[5])
    ]
    write_csv(folder / "groups.csv", ("clip", "group"), groups)
    return folder


def hostile_results(dataset: Path) -> dict[str, Any]:
    """Return results that name every test clip wherever a name can be."""
    names = [clip.name for clip in find_clips(dataset, 0) if clip.split == "test"]
    leak = {"similarity": None, "reason": "same group <b>"}
    return {
        "leakage": [{"clip": a, "repeated": b, **leak} for a, b in pairwise(names)],
        "bad_clips": [{"clip": name, "split": "test", "reason": name} for name in names],
        "one_file_under_both_labels": [names],
        "static_clips": names,
        "clips_left_out_for_leakage": names,
        "groups_on_two_sides": {name: ["train", "test"] for name in names},
    }


def compared_video(name: str, *, found: bool = True) -> dict[str, Any]:
    """Return a video of ten minutes with an annotated event, as `event_figures.json` has it."""
    event = {"start": 60.0, "end": 70.0, "found": found, "delay": 2.5 if found else None}
    detected = {"start": 59.0, "end": 66.0, "peak": 63.0, "probability": 0.9, "false_alarm": False}
    return {
        "video": name,
        "seconds": 600.0,
        "events_found": int(found),
        "false_alarms": 0,
        "events": [event],
        "detected_events": [detected] if found else [],
        "plot": "plot.png",
        "windows": [
            {"start": 2.0 * n, "end": 2.0 * n + 2, "probability": 0.9 if n == 31 and found else 0.1}
            for n in range(300)
        ],
    }


def write_event_figures(path: Path, *videos: dict[str, Any], threshold: float = THRESHOLD) -> None:
    """Write event figures: those of a video whose event is found after nine minutes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    windows = [ScoredSpan(0.0, 600.0, 0.9)]
    figures = event_figures([ComparedVideo(600.0, windows, windows, [(60.0, 70.0)])], threshold)
    value = {
        "model": "best_model.keras 0123abcd",
        "untrained_vgg19": False,
        "threshold": threshold,
        "window": 2.0,
        "stride": 1.0,
        "annotations": "/data/events.csv",
        "figures": figures,
        "warnings": ["a <b>warning</b>"],
        "not_compared": [{"video": "broken.mp4", "reason": "the file is <empty>"}],
        "videos": list(videos),
    }
    write_json(path, value)


def escaped(name: str) -> str:
    """Return a hostile name as the page should show it."""
    for character, sequence in {
        "\n": "\\n",
        "\t": "\\t",
        "\u202e": "\\u202e",
        "\udce9": "\\xe9",
    }.items():
        name = name.replace(character, sequence)
    return name


def change_results(run: Path, **changes: Any) -> None:
    """Change results; a key with the value None is removed."""
    path = run / "training_results.json"
    changed = read_json(path) | changes
    write_json(path, {key: value for key, value in changed.items() if value is not None})


class Page(HTMLParser):
    """A page's text, whole and by section, its elements, its lists' items, its tables' rows."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.sections: dict[str, str] = {}
        self.items: list[str] = []
        self.rows: list[list[str]] = []
        self._section = "header"
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def plots(self) -> int:
        """Return the number of plots on the page."""
        return sum(str(image["src"]).startswith("data:image/png") for image in self.of("img"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "source"):
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs).get("id") or self._section
        if tag == "li":
            self.items.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "each element ends where it should"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            return
        self.text += data
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if "li" in self._open:
            self.items[-1] += data
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, title: str, number: int = 0) -> list[str]:
        """Return the cells of a row with that title, by default the first."""
        found = [row[1:] for row in self.rows if row and plain(row[0]) == title]
        return [plain(cell) for cell in found[number]]


def plain(text: str) -> str:
    return " ".join(text.split())


def page_of(*runs: Path) -> Page:
    path = runs[0] / "page.html"
    if len(runs) == 1:
        write_report(runs[0], path)
    else:
        write_comparison(runs, path)
    return Page(path)


def shown(figures: dict[str, Any], name: str) -> str:
    return " ".join(text for text in figure_words(figures, name, "–") if text)
