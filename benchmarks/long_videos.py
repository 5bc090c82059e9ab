"""Event figures on long videos that are joined from the test clips of a finished run.

    python -m benchmarks.long_videos --checkpoint-dir DIR --work-dir DIR --window 1.6 --stride 0.8

The clips that the run was tested on, in an order drawn with --seed, are joined into --files videos,
packet by packet. Violent clips are the events; those that follow each other are one. Their events
are then compared with these by predict.py: `event_figures.json` is in the work folder.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.command import make_parser
from benchmarks.linked_clips import Linked
from benchmarks.segments import joined
from violence_detection.clips.clip import Clip
from violence_detection.clips.manifest import ManifestRow, write_manifest
from violence_detection.runs.files import CONFIG, SPLITS_FILE
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import read_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the clips, write the manifest of events, and compare; return predict.py's status."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--files", type=int, default=4, help="long videos (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    options, flags = parser.parse_known_args(arguments)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    clips = clips_of_test(options.checkpoint_dir)
    order = np.random.default_rng(options.seed).permutation(len(clips))
    rows: list[ManifestRow] = []
    videos = []
    for number, part in enumerate(np.array_split(order, options.files), start=1):
        videos.append(options.work_dir / f"long_{number}.mp4")
        rows += joined([clips[index] for index in part], videos[-1])
    events = options.work_dir / "events.csv"
    write_manifest(rows, events)
    from violence_detection.commands.predict import main as predict

    command = ["--checkpoint-dir", str(options.checkpoint_dir), *map(str, videos), *flags]
    compare = ["--compare-with", str(events), "--compare-dir", str(options.work_dir)]
    return predict([*command, *compare])


def clips_of_test(checkpoint_dir: Path) -> list[Linked]:
    """Return the clips that a run was tested on."""
    dataset = Path(read_json(checkpoint_dir / CONFIG)["settings"]["dataset_path"])
    with (checkpoint_dir / SPLITS_FILE).open(newline="") as file:
        return [
            Linked(
                dataset.name, Clip(dataset, row["clip"], CLASS_NAMES.index(row["label"]), "test")
            )
            for row in csv.DictReader(file)
            if row["split"] == "test"
        ]


if __name__ == "__main__":
    sys.exit(main())
