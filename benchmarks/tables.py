"""The speed benchmark's figures as tables, for a terminal and for Markdown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = list[str]


@dataclass(frozen=True)
class Table:
    """A table whose first column is text and whose other columns are figures."""

    title: str
    header: Row
    rows: list[Row]

    def as_text(self) -> str:
        """Return aligned columns."""
        columns = list(zip(self.header, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(
                cell.ljust(width) if number == 0 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [self.header, *self.rows]
        ]
        return "\n".join([self.title, *lines])

    def as_markdown(self) -> str:
        """Return a Markdown table below its title."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        rows = [f"| {' | '.join(row)} |" for row in [self.header, rule, *self.rows]]
        return "\n".join([f"**{self.title}**", "", *rows])


def figure_at(report: dict[str, Any], name: str) -> Any:
    """Return the value at `a.b.c` of nested dictionaries; None if there is none."""
    value: Any = report
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def make_tables(report: dict[str, Any]) -> list[Table]:
    """Return the tables of the measured stages."""
    makers: dict[str, list[Callable[[dict[str, Any]], Table]]] = {
        "decode": [decoding_table],
        "extraction": [extraction_table],
        "training": [training_table, pieces_table],
        "startup": [startup_table],
        "memory": [memory_table],
    }
    tables = [machine_table(report["machine"])]
    for stage, functions in makers.items():
        if stage in report:
            tables += [function(report[stage]) for function in functions]
    if "training" in report:
        tables += xla_tables(report["training"])
    return [*tables, targets_table(report["targets"])]


def machine_table(machine: dict[str, Any]) -> Table:
    """Return a description of the machine."""
    versions = machine["versions"]
    rows = [
        ["devices", "; ".join(machine["devices"])],
        ["cores, memory", f"{machine['cores']}, {machine['memory_gb']:.0f} GiB"],
        ["CPU's bfloat16", ", ".join(machine["cpu_bfloat16"]) or "none"],
        ["copy rate of one core", f"{machine['cpu_copy_gb_per_second']} GB/s"],
        ["TensorFlow, Keras", f"{versions['tensorflow']}, {versions['keras']}"],
    ]
    return Table("Machine", ["", ""], rows)


def decoding_table(decode: dict[str, Any]) -> Table:
    """Return clips per second of each method."""
    rates = decode["clips_per_second"]
    limit = decode["clips_per_second"]["limit"]
    rows = [
        [name, f"{rates[method]:.1f}", f"{rates[method] / limit:.3f}"]
        for method, name in (
            ("seeking", "seeking to each frame"),
            ("ours", "ours"),
            ("opencv", "OpenCV: grab() all, retrieve() 16"),
            ("limit", "OpenCV: grab() alone, its limit"),
        )
    ]
    rows += [
        [f"ours on {cores} core{'s' * (cores != '1')}", f"{rate:.1f}", ""]
        for cores, rate in decode["clips_per_second_by_cores"].items()
    ]
    for long in decode["long"]:
        rate, ratio = long["clips_per_second"]["ours"], long["ours_over_opencv"]
        rows.append([long["name"], f"{rate:.2f}", f"{ratio:.1f}x OpenCV"])
    return Table("Decoding, clips per CPU second", ["", "clips/s", "of the limit"], rows)


def extraction_table(extraction: dict[str, Any]) -> Table:
    """Return clips per second of each precision."""
    rows = []
    for name, figures in extraction.items():
        if "no_device" in figures:
            rows.append([f"{name}: {figures['no_device']}", *["no device"] * 6])
            continue
        for measured in (figures, figures.get("one_device")):
            if measured is None:
                continue
            rates, count = measured["clips_per_second"], measured["devices"]
            rows.append(
                [
                    f"{measured['dtype']}, {count} device{'s' * (count != 1)}",
                    *(f"{rates[method]:.2f}" for method in ("plain", "ours", "limit")),
                    f"{measured['ours_over_plain']:.2f}",
                    f"{measured['ours_over_limit']:.2f}",
                    f"{measured['ours_over_shared_limit']:.2f}",
                ]
            )
    header = ["", "plain", "ours", "limit", "/ plain", "/ limit", "/ shared limit"]
    return Table("Extraction, clips/s", header, rows)


def training_table(training: dict[str, Any]) -> Table:
    """Return clips per second of each configuration."""
    rows = []
    for row in training["configurations"]:
        name = [row["name"], str(row["batch_size"])]
        if "no_device" in row:
            rows.append([*name, "no device", *["-"] * 6])
            continue
        rates = row["clips_per_second"]
        rows.append(
            [
                row["name"] + ("*" if row["all_replicas"] and row["replicas"] == 1 else ""),
                str(row["batch_size"]),
                f"{row['replicas']} {row['dtype']}",
                f"{rates['plain']:.0f}",
                f"{rates['ours']:.0f}",
                f"{row['seconds_per_epoch_of_10000_clips']:.3g}",
                f"{row['peak_memory_mb']:.0f}",
                f"{row['ours_over_plain']:.2f}",
                f"{row['ours_over_limit']:.2f}",
            ]
        )
    header = ["", "batch", "replicas", "plain", "ours", "epoch", "MB", "/ plain", "/ limit"]
    title = "Training, clips/s; seconds per epoch of 10,000 clips; peak MB"
    return Table(f"{title} (*: only one)", header, rows)


def xla_tables(training: dict[str, Any]) -> list[Table]:
    """Return the rates with --xla over those without it, in a table; none if none is known."""
    name = "ours_over_without_xla"
    known = [row for row in training["configurations"] if row.get(name)]
    rows = [
        [f"{row['name']}, {row['batch_size']}, {row['dtype']}", f"{row[name]:.2f}"] for row in known
    ]
    return [Table("Training with --xla", ["", "/ without"], rows)] if rows else []


def pieces_table(training: dict[str, Any]) -> Table:
    """Return the times of a step's pieces, each measured alone."""
    rows = []
    for row in training["configurations"]:
        pieces = row.get("milliseconds_of_pieces_alone")
        if pieces:
            rows.append(
                [
                    f"{row['dtype']}, {row['batch_size']}",
                    f"{row['milliseconds_of_a_step']:.1f}",
                    f"{row['milliseconds_at_best']:.1f}",
                    f"{row['milliseconds_of_its_products']:.1f}",
                    *(f"{milliseconds:.1f}" for milliseconds in pieces.values()),
                ]
            )
    header = ["batch", "step", "at best", "products", "standardize"]
    header += ["LSTM", "fwd+bwd", "Adam", "read"]
    title = "Milliseconds of a step; at best: products, standardize, Adam and read"
    return Table(title, header, rows)


def startup_table(startup: dict[str, Any]) -> Table:
    """Return the seconds that a user waits at the start."""
    rows = [
        ["--help", f"{startup['help_seconds']:.2f} s"],
        [
            f"first step, {startup['clips']:,} clips in the cache",
            f"{startup['first_step_seconds']:.1f} s",
        ],
    ]
    return Table("Start-up", ["", ""], rows)


def memory_table(memory: dict[str, Any]) -> Table:
    """Return the peak memory of the training command."""
    rows = [
        [f"{int(clips):,} clips", f"{memory['features_mb'][clips]:.0f} MB", f"{peak:.0f} MB"]
        for clips, peak in memory["peak_mb"].items()
    ]
    return Table("Memory of an epoch", ["", "features", "peak"], rows)


def targets_table(targets: list[dict[str, Any]]) -> Table:
    """Return each target, whether it is met, and the best that this machine allows."""
    rows = []
    for row in targets:
        bound = f"≥ {row['at_least']}" if "at_least" in row else f"≤ {row['at_most']}"
        figure = "no device" if row["figure"] is None else f"{row['figure']:.3f}"
        at_best = "" if row["at_best"] is None else f"{row['at_best']:.3f}"
        met = {True: "yes", False: "no", None: "-"}[row["met"]]
        rows.append([row["name"], figure, bound, met, at_best])
    return Table("Targets", ["", "measured", "target", "met", "at best"], rows)
