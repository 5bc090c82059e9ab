"""Kill the training command at random moments, resume it, and compare with an undisturbed run.

    python -m benchmarks.crash --kills 50

Each kill is a SIGKILL at a random moment of the stage whose turn it is. Once a run has finished in
spite of its kills, its weights, CSV rows, test figures and features must be bit for bit those of a
run that was never interrupted. Then the next run starts, in new folders, until all kills are done.
Exit status 1 if anything differs.
"""

import csv
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, print_report
from violence_detection.features.cache.merging import open_parts, rows_of_part
from violence_detection.features.cache.parts import ROW_FIELDS

SCRIPT = Path(__file__).parent.parent / "train_rtx5000_dual_optimized.py"
TIMES = (  # columns that differ from run to run
    *("time", "seconds", "clips_per_second", "cpu_utilization", "memory_mb"),
)
EPOCHS = 6
POLL = 0.0005  # seconds
TIMEOUT = 600.0  # seconds for one start of the command
STAGES = (  # of a run, in this order: the later ones need the earlier
    *("start-up", "decoding", "cache write", "training", "checkpoint write"),
    *("training", "checkpoint write", "report"),
)
# What the command prints at the beginning of the stages, and after the extraction.
STARTED, EXTRACTING, EXTRACTED = "train ", "XLA ", "features of"
TRAINING, TRAINED = "first step", "best model"


def start_training(flags: Sequence[str]) -> "subprocess.Popen[str]":
    """Start the training command; its standard output has its errors, too."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


Start = Callable[[Sequence[str]], "subprocess.Popen[str]"]


@dataclass
class Attempt:
    """One start of the training command, and its output so far."""

    flags: Sequence[str]
    folder: Path
    start: Start
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = self.start(self.flags)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def has_printed(self, words: str) -> bool:
        """Return whether there is a line with `words` in the output."""
        return any(words in line for line in self.lines)

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Return True as soon as `reached()` does, False if the command ends before."""
        deadline = time.monotonic() + TIMEOUT
        while not reached():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise SystemExit(f"error: no progress in {TIMEOUT:g} s: {''.join(self.lines)}")
            time.sleep(POLL)
        return True

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._reader.join()

    def finish(self) -> int:
        """Wait for the end of the process; return its exit status."""
        status = self.process.wait(TIMEOUT)
        self._reader.join()
        return status


def main() -> int:
    """Kill, compare, print; return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--kills", type=int, default=50, metavar="N", help="number of kills (default: 50)"
    )
    parser.add_argument("--dataset-path", type=Path, help="real clips (default: drawn ones)")
    parser.add_argument(
        "--feature-layer", default="block2_conv1", help="of VGG19 (default: block2_conv1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = flags.dataset_path or drawn_dataset(Path(folder))
        report = crash(flags.kills, dataset, flags.feature_layer, flags.seed, Path(folder))
    print_report(report, flags.json)
    return int(report["runs_that_differ"] > 0)


def crash(
    kills: int,
    dataset: Path,
    layer: str,
    seed: int,
    folder: Path,
    start: Start = start_training,
) -> dict[str, Any]:
    """Return how many kills there were, in which stages, and what differs at the end.

    Args:
        kills: how many there are to be.
        dataset: the clips.
        layer: of VGG19, whose output are the features.
        seed: of the random moments.
        folder: for the runs' files.
        start: starts the command with the given flags.
    """
    moments = random.Random(seed)

    def attempt_in(folder: Path) -> Attempt:
        return Attempt(run_flags(dataset, layer, folder), folder, start)

    undisturbed = attempt_in(folder / "whole")
    began = time.monotonic()
    undisturbed.wait_until(lambda: undisturbed.has_printed(EXTRACTING))
    extraction = time.monotonic()
    undisturbed.wait_until(lambda: undisturbed.has_printed(EXTRACTED))
    extraction_seconds = time.monotonic() - extraction
    if undisturbed.finish():
        raise SystemExit(f"error: the command fails undisturbed, too: {''.join(undisturbed.lines)}")
    for words in (STARTED, EXTRACTING, EXTRACTED, TRAINING, TRAINED):
        if not undisturbed.has_printed(words):
            raise SystemExit(f"error: the command no longer prints {words!r}: adapt this benchmark")
    expected = outcome(folder / "whole")
    print(f"an undisturbed run takes {time.monotonic() - began:.1f} s", file=sys.stderr)

    killed: Counter[str] = Counter()
    differences: list[str] = []
    runs, missed = 0, 0
    stages = itertools.cycle(STAGES)
    while sum(killed.values()) < kills:
        run_folder = folder / f"run_{runs}"
        # A run that ends before its moment has come leaves the stages after it to the next one.
        for stage in stages:
            attempt = attempt_in(run_folder)
            if not attempt.wait_until(moment_in(stage, attempt, moments, extraction_seconds)):
                missed += 1
                break
            attempt.kill()
            killed[stage] += 1
            print(f"kill {sum(killed.values())} in {stage}", file=sys.stderr, flush=True)
            if stage == STAGES[-1] or sum(killed.values()) == kills:
                break
        last = attempt_in(run_folder)
        if last.finish():
            differences.append(f"run {runs} failed: {''.join(last.lines)[-2000:]}")
        else:
            differences += [
                f"run {runs}: {text}" for text in compare(expected, outcome(run_folder))
            ]
        runs += 1
        shutil.rmtree(run_folder)
    return {
        "kills": sum(killed.values()),
        "kills_by_stage": dict(killed),
        "runs": runs,
        "runs_that_differ": len({text.split(":")[0] for text in differences}),
        "ended_before_their_kill": missed,
        "differences": differences,
    }


def moment_in(
    stage: str, attempt: Attempt, moments: random.Random, extraction_seconds: float
) -> Callable[[], bool]:
    """Return a function that returns whether a moment drawn within `stage` has been reached."""
    cache, run = attempt.folder / "cache", attempt.folder / "run"
    if stage == "cache write":
        size = rows_size(cache)
        return lambda: rows_size(cache) > size
    if stage == "checkpoint write":
        # One in a hundred polls that find a partial file: any of these files, at any point.
        return lambda: (
            any(path for folder in (run, run / "resume") for path in folder.glob(".partial-*"))
            and moments.random() < 0.01
        )
    after, longest = {
        "start-up": (STARTED, 1.0),
        "decoding": (EXTRACTING, extraction_seconds),
        "training": (TRAINING, 0.6),
        "report": (TRAINED, 0.4),
    }[stage]
    delay = moments.uniform(0, longest)
    began: list[float] = []

    def reached() -> bool:
        if not began and attempt.has_printed(after):
            began.append(time.monotonic())
        return bool(began) and time.monotonic() >= began[0] + delay

    return reached


def rows_size(cache: Path) -> int:
    """Return the bytes of all rows in a cache folder."""
    return sum(path.stat().st_size for path in cache.glob("*/*.rows"))


def drawn_dataset(folder: Path) -> Path:
    """Return a folder of drawn clips in layout 1."""
    import numpy as np

    from violence_detection.clips.demo import draw_clip
    from violence_detection.settings.constants import CLASS_NAMES

    dataset, drawing = folder / "clips", np.random.default_rng(0)
    for split, count in {"train": 12, "val": 4, "test": 4}.items():
        for name in CLASS_NAMES:
            (dataset / split / name).mkdir(parents=True)
            for number in range(count):
                draw_clip(dataset / split / name / f"{number}.mp4", name == "violent", drawing)
    return dataset


def run_flags(dataset: Path, layer: str, folder: Path) -> list[str]:
    """Return the flags of a short deterministic run whose files are below `folder`."""
    return [
        *("--dataset-path", str(dataset), "--cache-dir", str(folder / "cache")),
        *("--checkpoint-dir", str(folder / "run"), "--deterministic", "--no-mixed-precision"),
        *("--vgg19-weights", "random", "--feature-layer", layer),
        *("--streams", "rgb"),
        *("--epochs", str(EPOCHS), "--warmup-epochs", "1", "--batch-size", "8", "--folds", "1"),
        *("--groups", "none"),
    ]


def epochs_of(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's CSV, without what differs from run to run."""
    path = run / "training_history.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a finished run computed: features, CSV rows, weights, figures, predictions."""
    run, cache = folder / "run", folder / "cache"
    results = json.loads((run / "training_results.json").read_text())
    figures = [name for name in results if name.startswith("evaluation")]
    return {
        "features": dict(cached_features(cache)),
        "CSV rows": epochs_of(run),
        "test figures": {name: results[name] for name in [*figures, "temperature", "threshold"]},
        "predictions.csv": (run / "predictions.csv").read_text(),
        **{path.name: weights_in(path) for path in sorted(run.glob("*.keras"))},
    }


def cached_features(cache: Path, recipe: str = "") -> list[tuple[bytes, bytes]]:
    """Return the contents of clips, and their features, as they are in the parts of a cache.

    Args:
        cache: its folder.
        recipe: its key; "": the cache has one.
    """
    return [
        (record["key"].tobytes(), row.tobytes())
        for folder in cache.glob(recipe or "[0-9a-f]" * 16)
        for keys, rows in open_parts(folder, ROW_FIELDS)
        if rows is not None and keys.count
        for record, row in rows_of_part((keys, rows), rows.size // keys.count)
    ]


def weights_in(model: Path) -> bytes:
    """Return the bytes of a model's weights, without the archive, which contains dates."""
    with zipfile.ZipFile(model) as archive:
        return archive.read("model.weights.h5")


def compare(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return which results differ."""
    names = sorted(expected.keys() | found.keys())
    return [f"{name} differ" for name in names if expected.get(name) != found.get(name)]


if __name__ == "__main__":
    sys.exit(main())
