"""How fast the exported files of a detector are, each format in its own runtime.

    python -m benchmarks.exports --work-dir DIR --vgg19-weights FILE.h5 --page docs/export.md

Two detectors are trained for a moment on a few drawn clips: what they predict is of no account. Of
each, `export.py` writes every format and times them in turns, one clip at a time and in batches.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.runs import finished_run
from benchmarks.tables import Table
from benchmarks.timing import in_own_process
from violence_detection.runtime.tensorflow_log import quiet_tensorflow

CLIPS_PER_CLASS = {"train": 2, "val": 1, "test": 1}
MARKS = "<!-- python -m benchmarks.exports -->", "<!-- end -->"  # around the tables in a page
FRAMES = 16


class Measured(NamedTuple):
    """A detector whose files are timed."""

    name: str
    layer: str
    end_to_end: bool


DETECTORS = (
    Measured("The classifier of 64 values per frame, from features", "block1_conv1", False),
    Measured("VGG19 to block1_conv1 and the classifier, from pictures", "block1_conv1", True),
    Measured("The classifier of 4,096 values per frame, from features", "fc2", False),
    Measured("VGG19 to fc2 and the classifier, from pictures", "fc2", True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, export, print the tables, and write the files that are asked for."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument("--work-dir", type=Path, required=True, help="keeps finished runs")
    parser.add_argument(
        "--vgg19-weights", default="random", help="as in training (default: %(default)s)"
    )
    parser.add_argument(
        "--layers", nargs="+", help="of VGG19, some of those that are measured (default: all)"
    )
    parser.add_argument("--page", type=Path, help="page whose tables are replaced")
    options = parser.parse_args(arguments)
    work_dir = options.work_dir.absolute()
    in_own_process(draw_clips, work_dir / "clips", tensorflow=False)
    measured = [d for d in DETECTORS if d.layer in (options.layers or [d.layer])]
    report: dict[str, Any] = {
        "machine": in_own_process(machine),
        "load_before": round(os.getloadavg()[0], 1),  # processes that others keep busy
        "detectors": {
            each.name: in_own_process(exports_of, each, work_dir, options.vgg19_weights)
            for each in measured
        },
    }
    tables = [table_of(name, exports) for name, exports in report["detectors"].items()]
    print("\n\n".join(table.as_text() for table in tables))
    write_report(report, options.json)
    if options.page:
        replace_tables(options.page, report, tables)
    return 0


def draw_clips(folder: Path) -> None:
    """Draw a few clips, unless they are there."""
    from violence_detection.clips.demo import draw_clip

    random = np.random.default_rng(0)
    for split, count in CLIPS_PER_CLASS.items():
        for class_name in ("nonviolent", "violent"):
            (folder / split / class_name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                path = folder / split / class_name / f"{number}.mp4"
                if not path.exists():
                    draw_clip(path, class_name == "violent", random)


def machine() -> dict[str, Any]:
    """Return a description of this machine."""
    from benchmarks.machine import describe_machine
    from violence_detection.runtime.devices import find_devices

    return describe_machine(list(find_devices(None)))


def exports_of(measured: Measured, work_dir: Path, weights: str) -> list[dict[str, Any]]:
    """Return what `export.json` says of a detector's files, in float32.

    Args:
        measured: the detector; it is trained unless it has been.
        work_dir: has the clips, and keeps the runs.
        weights: of VGG19.
    """
    from violence_detection.commands.export import main as export

    command = [
        *("--dataset-path", str(work_dir / "clips"), "--cache-dir", str(work_dir / "cache")),
        *("--feature-layer", measured.layer, "--vgg19-weights", weights, "--streams", "rgb"),
        *("--frames", str(FRAMES), "--epochs", "1", "--folds", "1", "--groups", "none"),
        *("--warmup-epochs", "0", "--no-mixed-precision"),
    ]
    run = finished_run(work_dir, command, "detector.json").folder
    output = run / ("end_to_end" if measured.end_to_end else "classifier")
    flags = ["--checkpoint-dir", str(run), "--output", str(output), "--clips", "2"]
    if status := export([*flags, *(["--end-to-end"] if measured.end_to_end else [])]):
        raise SystemExit(status)
    exports = json.loads((output / "export.json").read_text(encoding="utf-8"))["exports"]
    newest = {item["format"]: item for item in exports}  # SavedModels are numbered
    return [{key: item[key] for key in item if key != "metadata"} for item in newest.values()]


def table_of(name: str, exports: Sequence[dict[str, Any]]) -> Table:
    """Return a row for the original and for each format."""
    original = exports[0]["original"]
    rows = [
        [label, short(figures["latency_ms"]), short(figures["clips_per_second"]), megabytes]
        for label, figures, megabytes in (
            ("TensorFlow, the run's own networks", original, f"{original['size'] / 1e6:.2f}"),
            *(
                (f"{item['format']} ({item['runtime']})", item, f"{item['size'] / 1e6:.2f}")
                for item in exports
            ),
        )
    ]
    return Table(name, ["", "ms for one clip", "clips/s in batches", "MB"], rows)


def short(value: float) -> str:
    """Return a figure with three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def replace_tables(page: Path, report: dict[str, Any], tables: Sequence[Table]) -> None:
    """Replace what stands between `MARKS` in a page.

    Args:
        page: has both marks.
        report: with the machine and its load.
        tables: to put there.
    """
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    machine = report["machine"]
    device = re.sub(r"^/device:\S+ ", "", "; ".join(machine["devices"])).strip("()")
    where = (
        f"On {machine['cores']} cores of {device}, in float32, {FRAMES} frames per clip. When it "
        f"began, {report['load_before']:g} other processes wanted to compute: compare within a "
        "table."
    )
    body = "\n\n".join([MARKS[0], where, *(table.as_markdown() for table in tables), MARKS[1]])
    page.write_text(before + body + after, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
