"""How large the report of a run on many clips is, and how long Chromium takes to open it.

    python -m benchmarks.report_page --clips 10000 --dataset-path fights --json FILE

The run is made up, all its clips are tested; files, figures, lists and page are written as those of
a run are. The pictures are those of real clips: the names of the clips are links to some of them,
without --dataset-path to drawn ones. The page has every list at its longest, 12 suspect labels and
8 pairs of repeated clips with their frames. It is opened five times, each time by a new browser;
the median is reported, until all pictures are decoded, and with everything unfolded.
"""

import shutil
import statistics
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.runtime.tensorflow_log import quiet_tensorflow

quiet_tensorflow()  # also of the processes that decode clips, which import this again

from benchmarks.command import make_parser, write_report
from benchmarks.tables import Table
from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import video_files
from violence_detection.clips.demo import draw_clip
from violence_detection.clips.splits import count_by_split, write_splits
from violence_detection.errors import UserError
from violence_detection.evaluation.metrics import evaluate
from violence_detection.evaluation.subgroups import subgroup_figures
from violence_detection.reporting.page import write_report as write_page
from violence_detection.runs.files import (
    CONFIG,
    HISTORY,
    LABEL_ISSUES,
    PREDICTIONS,
    REPORT,
    RESULTS,
    SPLITS_FILE,
)
from violence_detection.runs.label_issues import write_label_issues
from violence_detection.runs.results import write_predictions
from violence_detection.runs.usage import usage
from violence_detection.settings.constants import CLASS_NAMES, SPLITS
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import write_csv, write_json

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FILES = 48  # different videos, at most
GROUPS, CAMERAS = 400, 12
VIOLENT = 0.78
EPOCHS = 100
OPENINGS = 5
MOST_MEGABYTES, MOST_SECONDS = 20.0, 2.0  # what is asked for
SETTLED = """async () => {
  await Promise.all([...document.images].map((image) => image.decode()));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() / 1000;
}"""
UNFOLD = "() => document.querySelectorAll('details').forEach((e) => { e.open = true })"


def main() -> None:
    """Make up a run, write its report, measure, print, and write the file that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--clips", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--dataset-path", type=Path, help="folder of real clips; default: drawn")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clips = link_clips(folder / "clips", flags.dataset_path, flags.clips)
        run = make_run(folder / "run", folder / "clips", clips)
        started = time.perf_counter()
        write_page(run, run / REPORT)
        written = time.perf_counter() - started
        opened = open_in_browser(run / REPORT)
        report = {
            "clips": flags.clips,
            "write_seconds": written,
            "megabytes": (run / REPORT).stat().st_size / 1e6,
            **opened,
        }
    table = Table(f"Report of {flags.clips:,} clips", ["", "measured", "at most"], [])
    for title, name, form, most in (
        ("written, s", "write_seconds", ".1f", ""),
        ("size, MB", "megabytes", ".1f", f"{MOST_MEGABYTES:g}"),
        ("opened, s", "open_seconds", ".2f", f"{MOST_SECONDS:g}"),
        ("opened and unfolded, s", "unfold_seconds", ".2f", ""),
    ):
        table.rows.append([title, format(report[name], form), most])
    print(table.as_text())
    write_report(report, flags.json)


def link_clips(folder: Path, dataset: Path | None, count: int) -> list[Clip]:
    """Return so many clips: links below `folder` to the videos of a dataset, or to drawn ones."""
    videos = []
    if dataset is not None:
        videos = video_files(dataset)
        videos = videos[:: max(1, len(videos) // FILES)][:FILES]
    random = np.random.default_rng(0)
    for number in range(0 if videos else FILES):
        videos.append(folder / "drawn" / f"{number}.mp4")
        videos[-1].parent.mkdir(parents=True, exist_ok=True)
        draw_clip(videos[-1], violent=number % 2 == 1, random=random)
    clips = []
    for number, video in enumerate(islice(cycle(videos), count)):
        label = int(number < VIOLENT * count)
        file = f"test/{CLASS_NAMES[label]}/camera {number % CAMERAS}/clip {number:06}{video.suffix}"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).symlink_to(video.resolve())
        clips.append(Clip(folder, file, label, "test", group=f"source {number % GROUPS}"))
    return clips


def make_run(folder: Path, dataset: Path, clips: list[Clip]) -> Path:
    """Write the files of a finished run that tested all these clips; return its folder."""
    folder.mkdir()
    settings = Settings().replace(dataset_path=dataset, checkpoint_dir=folder)
    frames, random = settings.features.frames, np.random.default_rng(1)
    labels = np.array([clip.label for clip in clips])
    logits = random.normal(np.where(labels == 1, 2.0, -2.0), 1.5)
    probabilities = 1 / (1 + np.exp(-logits))
    attention = random.dirichlet(np.ones(frames), len(clips))
    write_splits(clips, folder / SPLITS_FILE)
    write_predictions(clips, probabilities, 0.5, attention, folder / PREDICTIONS)
    write_label_issues(clips, probabilities, 0.5, folder / LABEL_ISSUES)
    columns = ("epoch", "loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc")
    falling = 0.2 + 0.5 * np.exp(-np.arange(EPOCHS) / 20)
    rows = [
        (n + 1, x, 1 - x, 1 - x / 2, x + 0.1, 0.9 - x, 0.9, 1e-3) for n, x in enumerate(falling)
    ]
    write_csv(folder / HISTORY, (*columns, "learning_rate"), rows)
    started = {"started": "2026-01-02T03:04:05+00:00", "devices": [], "versions": {}}
    write_json(folder / CONFIG, {"settings": settings.as_json(), **started})
    write_json(folder / RESULTS, results_of(clips, labels, probabilities))
    return folder


def results_of(clips: list[Clip], labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Return the results of the made-up run, with a problem of every kind."""
    groups, names = [clip.group_key for clip in clips], [clip.name for clip in clips]
    cameras = [clip.file.split("/")[2] for clip in clips]
    figures = evaluate(labels, probabilities, 0.5, groups, seed=0)
    by_camera = {"camera": cameras}
    tenth = names[: len(names) // 10]
    return {
        "best_epoch": EPOCHS,
        "epochs_trained": EPOCHS,
        "stopped_early": False,
        "evaluated_split": "test",
        "threshold": 0.5,
        "temperature": 1.0,
        "chosen_for": "accuracy",
        "verdict": ["Better than chance: this run is made up.", "Next: train on clips."],
        "clips": {split: count_by_split(clips)["test"] for split in SPLITS},
        "clip_seconds": 2.0,
        "evaluation": figures,
        "evaluation_at_0.5": figures,
        "evaluation_uncalibrated": figures,
        "by_subgroup": subgroup_figures(labels, probabilities, 0.5, groups, by_camera, seed=0),
        "bad_clips": [{"clip": name, "split": "test", "reason": "empty"} for name in tenth],
        "static_clips": tenth,
        "partly_read_clips": [{"clip": name, "share": 0.5} for name in tenth],
        "long_clips": [{"clip": name, "seconds": 60.0} for name in tenth],
        "leakage": [
            {"clip": one, "repeated": other, "similarity": 0.99, "reason": "near duplicate"}
            for one, other in zip(tenth, reversed(tenth), strict=True)
        ],
        "usage": usage(3600.0, 1.0, 0.12, None),
        "seconds_by_stage": {"start": 5.0, "training": 3000.0},
    }


def open_in_browser(page: Path, openings: int = OPENINGS) -> dict[str, float]:
    """Return the median seconds that Chromium takes to open a page, and with all unfolded."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is installed")
    opened, unfolded = [], []
    with sync_playwright() as playwright:
        for _ in range(openings):
            browser = playwright.chromium.launch(executable_path=program)
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.as_uri(), wait_until="load")
            opened.append(tab.evaluate(SETTLED))  # since the navigation began
            started = time.perf_counter()
            tab.evaluate(UNFOLD)
            tab.evaluate(SETTLED)
            unfolded.append(opened[-1] + time.perf_counter() - started)
            browser.close()
    return {
        "open_seconds": statistics.median(opened),
        "unfold_seconds": statistics.median(unfolded),
    }


if __name__ == "__main__":
    main()
