"""What holds a box with GPUs up: one command, on any of Keras's backends, in about eight minutes.

    KERAS_BACKEND=torch python -m benchmarks.gpu --output gpu

Needs keras, numpy and OpenCV or PyAV alone. Writes gpu.md and gpu.json. A size that does not fit
into the GPU's memory says so in its cell; exit status 1 if anything else failed.
"""

# Processes that decode clips import this module again: Keras is imported in functions.
import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import clips as clip_work
from benchmarks.gpu.cells import Budget, Cell, measure_into
from benchmarks.gpu.end_to_end import Work, end_to_end
from benchmarks.gpu.tables import (
    DECODING,
    END_TO_END,
    NETWORK,
    STREAMS,
    TRAINING,
    as_markdown,
)
from benchmarks.gpu.usage import Gpu, UsageOf, find_gpus

BATCHES = (64, 128, 256, 512, 1024)
DTYPES = ("float16", "float32", "bfloat16")
GRACE = 60.0  # seconds past --seconds after which a cell that does not end is given up


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 0, or 1 if a cell failed for another reason than too little memory."""
    options = parse(arguments)
    # Memory as it is needed, instead of all at once: what is read then means something.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML numbers them
    logging.getLogger("tensorflow").setLevel("ERROR")  # a graph for each size is intended
    gpus, no_nvml = find_gpus(options.nvidia_smi)
    print(no_nvml or "\n".join(f"GPU {g.number}: {g.name}, driver {g.driver}" for g in gpus))
    files = [options.output.with_suffix(suffix) for suffix in (".md", ".json")]
    bench = Bench(options, gpus, no_nvml)
    # Compiling may take minutes and cannot be interrupted; what was measured is in the files.
    last = threading.Timer(options.seconds + GRACE, os._exit, (1,))
    last.daemon = True
    last.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench.measure(options.files or clip_work.draw_clips(Path(folder)))
    finally:
        last.cancel()
    print(f"\n{files[0].read_text()}\n{files[0]}, {files[1]}")
    return int(any(cell.failed for cell in bench.cells()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    sizes: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="of .md and .json")
    parser.add_argument("--clips", type=Path, help="folder of clips (default: drawn ones)")
    parser.add_argument("--layer", default="fc2", help="of VGG19 (default: fc2)")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--batches", default=BATCHES, help="frames, and clips, at once", **sizes)
    parser.add_argument("--frames", type=int, default=16, help="of a clip")
    parser.add_argument("--features", type=int, default=8192, help="of a frame: both streams'")
    parser.add_argument("--streams", nargs="+", help="default: the program's; rgb without OpenCV")
    parser.add_argument("--cores", type=int, default=clip_work.core_count(), metavar="N")
    parser.add_argument("--seconds", type=float, default=480, help="in all, about (default: 480)")
    parser.add_argument("--stage-seconds", type=float, default=10, help="of decoding, end to end")
    parser.add_argument("--nvidia-smi", default="nvidia-smi", help="command that reads NVML")
    options = parser.parse_args(arguments)
    options.files = clip_work.find_clips(options.clips) if options.clips else []
    if options.clips and not options.files:
        parser.error(f"--clips {options.clips}: no clips ({', '.join(clip_work.SUFFIXES)})")
    if options.streams is None:
        from violence_detection.settings.schema import Settings

        streams = Settings().features.streams
        options.streams = streams if clip_work.reader() == "opencv" else ("rgb",)
    return options


class Bench:
    """What has been measured; it is saved after each cell.

    Args:
        options: of the command line.
        gpus: as NVML lists them.
        no_nvml: why it lists none.
    """

    def __init__(self, options: argparse.Namespace, gpus: Sequence[Gpu], no_nvml: str):
        self.options = options
        self.gpus = list(gpus)
        self.no_nvml = no_nvml
        self.budget = Budget(options.seconds, self.save)
        self.stages: dict[str, Cell] = {}
        self.extraction: dict[str, dict[int, Cell]] = {}
        self.training: dict[str, dict[int, Cell]] = {}
        self.used: dict[str, tuple[str, str]] = {}  # utilization and memory of the GPUs, by stage
        self.on_gpu = bool(gpus)
        self.backend = os.environ.get("KERAS_BACKEND", "Keras's default backend")

    @property
    def policy(self) -> str:
        """Keras's dtype policy of the training: the program's own choice."""
        return "mixed_float16" if self.on_gpu else "float32"

    def cells(self) -> list[Cell]:
        """Return all cells."""
        rows: list[dict[Any, Cell]] = [
            self.stages,
            *self.extraction.values(),
            *self.training.values(),
        ]
        return [cell for row in rows for cell in row.values()]

    def measure(self, clips: Sequence[Path]) -> None:
        """Measure everything, on some clips."""
        self.measure_clips(clips)
        # In processes of their own, before this one holds any memory of a GPU.
        self.measure_end_to_end(clips)
        self.measure_networks()
        self.save()

    def measure_clips(self, clips: Sequence[Path]) -> None:
        """Measure decoding, and decoding with streams, on all cores."""
        print("Decoding, on all cores", flush=True)
        options = self.options
        for name, streams in ((DECODING, ("rgb",)), (STREAMS, options.streams)):
            work = partial(clip_work.read_streams, frames=options.frames, streams=streams)
            rate = partial(
                clip_work.clips_per_second, work, clips, options.cores, options.stage_seconds
            )
            measure_into(self.stages, name, f"{name}: clips/s", self.budget, rate)

    def measure_end_to_end(self, clips: Sequence[Path]) -> None:
        """Measure from files to features, with one GPU and with two."""
        print("End to end", flush=True)
        options, numbers = self.options, [gpu.number for gpu in self.gpus]
        work = Work(
            *(clips, options.frames, options.streams, options.layer, options.dtypes[0]),
            *(min(256, max(options.batches)), options.stage_seconds),
        )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices: list[str | None] = [*(visible.split(",") if visible else numbers)]
        for count in (1, 2):
            name = f"{END_TO_END}, {count} {'GPU' if self.gpus else 'device'}{'s' * (count > 1)}"
            if count > max(1, len(devices)):
                self.stages[name] = Cell(None, "none" if self.gpus else "no GPU that NVML lists")
                continue
            with UsageOf(numbers[:count], options.nvidia_smi) as usage:
                rate = partial(end_to_end, work, devices[:count] or [None], options.cores)
                measure_into(self.stages, name, f"{name}: clips/s", self.budget, rate)
            self.used[name] = usage.used.describe()

    def measure_networks(self) -> None:
        """Measure copies, VGG19 and the training step."""
        from benchmarks.gpu import networks

        self.on_gpu, self.backend = networks.on_gpu(), networks.describe_backend()
        print(f"{self.backend}, on {'a GPU' if self.on_gpu else 'the CPU'}", flush=True)
        options, budget = self.options, self.budget
        first = [gpu.number for gpu in self.gpus[:1]] if self.on_gpu else []
        networks.measure_copies(self.stages, budget)
        with UsageOf(first, options.nvidia_smi) as usage:
            networks.measure_extraction(
                *(self.extraction, options.layer, options.dtypes, options.batches),
                budget.share(0.5),
            )
        self.used[NETWORK] = usage.used.describe()
        with UsageOf(first, options.nvidia_smi) as usage:
            networks.measure_training(
                *(self.training, options.frames, options.features, options.batches),
                *(self.policy, budget),
            )
        self.used[TRAINING] = usage.used.describe()

    def save(self) -> None:
        """Write what is known so far as Markdown and as JSON."""
        report = self.report()
        self.options.output.with_suffix(".md").write_text(as_markdown(report), encoding="utf-8")
        text = json.dumps(report, indent=2)
        self.options.output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")

    def report(self) -> dict[str, Any]:
        """Return all that is known, as JSON."""
        options = self.options
        return {
            "backend": self.backend,
            "on_gpu": self.on_gpu,
            "gpus": [vars(gpu) for gpu in self.gpus],
            "nvml": self.no_nvml,
            "cores": options.cores,
            "processor": _processor(),
            "clips": "the user's" if options.clips else "drawn, MPEG-4, 320 x 240, 2 s",
            "reader": clip_work.reader(),
            **{name: getattr(options, name) for name in ("frames", "features", "layer")},
            "streams": list(options.streams),
            "seconds": round(self.budget.used),
            "training_dtype": self.policy,
            "stages": {name: cell.as_json() for name, cell in self.stages.items()},
            "extraction": _as_json(self.extraction),
            "training": _as_json(self.training),
            "used": self.used,
        }


def _as_json(rates: dict[str, dict[int, Cell]]) -> dict[str, dict[str, Any]]:
    return {
        name: {str(batch): cell.as_json() for batch, cell in cells.items()}
        for name, cells in rates.items()
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


if __name__ == "__main__":
    sys.exit(main())
