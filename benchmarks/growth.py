"""How time and memory of a whole cached run grow with the number of clips.

    python -m benchmarks.growth --clips 1000 10000 100000 --json FILE --plot FILE

The training command with its default streams and layer, on features that are made up: listing,
survey, checks and the search for copies, epochs, test, report; then `report.py` by itself. A clip
is a drawn video with a number behind it, so that the report has pictures to show. Every size has
processes of its own. Exit status 1 if anything grows faster than the clips.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.cached_run import SCRIPT, cached_dataset
from benchmarks.command import make_parser, write_report
from benchmarks.tables import Table

CLIPS = (1_000, 10_000, 100_000)
EPOCHS = 3
FLAGS = (
    *("--vgg19-weights", "random", "--folds", "1", "--groups", "none"),
    *("--epochs", str(EPOCHS), "--warmup-epochs", "0", "--fresh"),
)
SHORT = 2.0  # seconds: what takes less at the larger size grows unnoticed
TOLERANCE = 1.2  # times the clips
REPORT, ALL = "report.py", "the whole command"


def main() -> int:
    """Measure, print, and write the files that are asked for; return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=CLIPS, help=f"default: {CLIPS}")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    parser.add_argument("--plot", type=Path, help="where to write the plot, a .png")
    flags = parser.parse_args()
    sizes = {}
    for clips in sorted(flags.clips):
        with tempfile.TemporaryDirectory() as folder:
            sizes[str(clips)] = measure(Path(folder), clips)
        print(f"{clips:,} clips: {sizes[str(clips)]['seconds'][ALL]:.0f} s", file=sys.stderr)
    too_fast = faster_than_clips(sizes)
    report = {"epochs": EPOCHS, "sizes": sizes, "faster_than_clips": too_fast}
    table = table_of(sizes)
    print(table.as_text())
    for name in too_fast:
        print(f"grows faster than the clips: {name}")
    write_report(report, flags.json)
    if flags.markdown:
        flags.markdown.write_text(table.as_markdown() + "\n")
    if flags.plot:
        draw(sizes, flags.plot)
    return int(bool(too_fast))


def measure(folder: Path, clips: int) -> dict[str, Any]:
    """Return seconds by stage, peak memory, and size of the report for so many clips."""
    import numpy as np

    from violence_detection.clips.demo import draw_clip
    from violence_detection.features.recipe import stored_recipes
    from violence_detection.settings.parser import parse_settings

    draw_clip(folder / "drawn.mp4", False, np.random.default_rng(0))
    video = (folder / "drawn.mp4").read_bytes()
    settings = parse_settings(["--dataset-path", str(folder), *FLAGS])
    dataset = cached_dataset(
        *(folder, clips, stored_recipes(settings)),
        lambda path, number: path.write_bytes(video + number.to_bytes(8, "big")),
    )
    run = folder / "run"
    command = [sys.executable, str(SCRIPT), "--dataset-path", str(dataset / "clips")]
    command += ["--cache-dir", str(dataset / "cache"), "--checkpoint-dir", str(run), *FLAGS]
    seconds, memory = timed(command, folder / "output")
    results = json.loads((run / "training_results.json").read_text())
    report = [sys.executable, str(SCRIPT.with_name("report.py")), "--checkpoint-dir", str(run)]
    report_seconds, report_memory = timed(report, folder / "output")
    return {
        "seconds": {**results["seconds_by_stage"], REPORT: report_seconds, ALL: seconds},
        "peak_mb": {ALL: memory, REPORT: report_memory},
        "report_mb": (run / "report.html").stat().st_size / 1e6,
    }


def timed(command: Sequence[str], output: Path) -> tuple[float, float]:
    """Run a command; return its seconds and its peak of resident memory in MB."""
    began = time.perf_counter()
    with output.open("w+") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            file.seek(0)
            raise RuntimeError(f"{command[1]} failed: {file.read()[-2000:]}")
    return time.perf_counter() - began, used.ru_maxrss / 1024


def faster_than_clips(sizes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what takes more than its share from one size to the next, in words."""
    found = []
    for (few, before), (many, after) in pairwise(sizes.items()):
        growth = int(many) / int(few)
        for stage, seconds in after["seconds"].items():
            earlier = before["seconds"].get(stage, 0.0)
            if seconds > max(SHORT, TOLERANCE * growth * earlier):
                found.append(f"{stage}: {earlier:.1f} s at {few} clips, {seconds:.1f} at {many}")
        for what, megabytes in after["peak_mb"].items():
            if megabytes > TOLERANCE * growth * before["peak_mb"][what]:
                found.append(f"memory of {what}")
    return found


def table_of(sizes: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the figures of all sizes."""
    stages = list(dict.fromkeys(name for size in sizes.values() for name in size["seconds"]))
    rows = [
        [f"{stage}, s", *(f"{size['seconds'].get(stage, 0.0):.1f}" for size in sizes.values())]
        for stage in stages
    ]
    for what in (ALL, REPORT):
        peaks = [f"{size['peak_mb'][what]:,.0f}" for size in sizes.values()]
        rows.append([f"peak of {what}, MB", *peaks])
    rows.append(["report.html, MB", *(f"{size['report_mb']:.1f}" for size in sizes.values())])
    header = ["clips", *(f"{int(clips):,}" for clips in sizes)]
    return Table(f"A cached run of {EPOCHS} epochs", header, rows)


def draw(sizes: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Plot the seconds of each stage over the number of clips."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    clips = [int(size) for size in sizes]
    stages = list(sizes.values())[-1]["seconds"]
    for stage in sorted(stages, key=stages.__getitem__, reverse=True):
        seconds = [size["seconds"].get(stage) for size in sizes.values()]
        axes.plot(clips, seconds, marker="o", label=stage)
    longest = max(stages.values())
    limit = [longest * size / clips[-1] for size in clips]
    axes.plot(clips, limit, color="0.6", linestyle="--", label="as the clips")
    axes.set(xscale="log", yscale="log", xlabel="clips", ylabel="seconds")
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
