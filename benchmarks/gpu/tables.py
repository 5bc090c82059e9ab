"""The figures of `benchmarks.gpu` as Markdown."""

import math
from typing import Any

from benchmarks.gpu.cells import Cell, figure
from benchmarks.tables import Table
from violence_detection.settings.constants import FRAME_SIZE

EPOCH = 10_000  # clips
DECODING, STREAMS, END_TO_END = "decoding", "decoding and streams", "end to end"
NETWORK, TRAINING = "VGG19, 1 device", "training"
COPIES = "copies to the device, GB/s"
NOT_YET = Cell(None, "not measured")


def as_markdown(report: dict[str, Any]) -> str:
    """Return what holds the box up, and the tables of each network.

    Args:
        report: as `benchmarks.gpu.__main__.Bench` makes it; all of it may be missing.
    """
    gpus = ", ".join(f"{gpu['name']} (driver {gpu['driver']})" for gpu in report["gpus"])
    lines = [
        f"{report['backend']} on {gpus or 'a GPU' if report['on_gpu'] else 'the CPU alone'}; "
        f"{report['cores']} cores of {report['processor']}; clips: {report['clips']}, "
        f"read by {report['reader']}; streams {', '.join(report['streams'])}; "
        f"{report['seconds']} s in all.",
        *([report["nvml"] + "."] if report["nvml"] else []),
    ]
    tables = [bottleneck_table(report)]
    tables += [extraction_table(report)] if report["extraction"] else []
    tables += [training_table(report)] if report["training"] else []
    return "\n".join([*lines, *("\n" + table.as_markdown() for table in tables)]) + "\n"


def bottleneck_table(report: dict[str, Any]) -> Table:
    """Return clips per second of each stage of extraction; the lowest holds it up."""
    stages = {name: Cell(**cell) for name, cell in report["stages"].items()}
    frames = report["frames"] * len(report["streams"])
    pixels = frames * FRAME_SIZE**2 * 3 / 1e9
    parts = {
        DECODING: stages.get(DECODING, NOT_YET),
        STREAMS: stages.get(STREAMS, NOT_YET),
        "copies to the device": _per(stages.get(COPIES, NOT_YET), pixels),
        NETWORK: _per(best(report["extraction"]), frames),
    }
    known = {name: cell.rate for name, cell in parts.items() if cell.rate is not None}
    lowest = min(known, key=lambda name: known[name], default="")
    whole = {name: cell for name, cell in stages.items() if name.startswith(END_TO_END)}
    rows = []
    for name, cell in {**parts, **whole}.items():
        used = report["used"].get(name, ("", ""))
        rows.append([name, str(cell), "the lowest" if name == lowest else "", *used])
    training = best(report["training"])
    epoch = "" if training.rate is None else f"{figure(EPOCH / training.rate)} s an epoch"
    used = report["used"].get(TRAINING, ("", ""))
    rows.append([f"training, {report['training_dtype']}", str(training), epoch, *used])
    header = ["", "clips/s", "", "GPU utilization", "GPU memory"]
    return Table("What holds a box like this up", header, rows)


def best(rates: dict[str, dict[str, Any]]) -> Cell:
    """Return the highest rate of a table; without any, the last reason."""
    cells = [Cell(**cell) for row in rates.values() for cell in row.values()]

    def rate(cell: Cell) -> float:
        return -math.inf if cell.rate is None else cell.rate

    return max(cells, key=rate, default=NOT_YET)


def _per(cell: Cell, amount: float) -> Cell:
    """Return the rate of things that each take an amount."""
    return cell if cell.rate is None else Cell(cell.rate / amount)


def extraction_table(report: dict[str, Any]) -> Table:
    """Return frames per second by dtype and batch."""
    rows = [
        [dtype, *(str(Cell(**cell)) for cell in cells.values())]
        for dtype, cells in report["extraction"].items()
    ]
    batches = list(next(iter(report["extraction"].values())))
    rows = [[*row, *[str(NOT_YET)] * (1 + len(batches) - len(row))] for row in rows]
    title = f"VGG19 to {report['layer']}, frames/s by frames at once"
    return Table(title, ["", *batches], rows)


def training_table(report: dict[str, Any]) -> Table:
    """Return the seconds that an epoch of 10,000 clips takes, by variant and batch."""
    rows = []
    for variant, cells in report["training"].items():
        row = [variant]
        for batch, cell in cells.items():
            known = Cell(**cell)
            # Whole steps: the last one of an epoch is padded.
            clips = math.ceil(EPOCH / int(batch)) * int(batch)
            row.append(str(known) if known.rate is None else figure(clips / known.rate))
        rows.append(row)
    batches = list(next(iter(report["training"].values())))
    rows = [[*row, *[str(NOT_YET)] * (1 + len(batches) - len(row))] for row in rows]
    title = (
        f"Training, {report['training_dtype']}, {report['frames']} frames of "
        f"{report['features']} values: seconds for {EPOCH:,} clips, by clips at once"
    )
    return Table(title, ["", *batches], rows)
