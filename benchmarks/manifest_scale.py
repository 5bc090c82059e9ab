"""What reading and splitting a manifest of a million rows costs.

    python -m benchmarks.manifest_scale --rows 1000000 --json FILE

Once a row for each of so many videos, which are empty files, a thousand in a folder; once segments,
a thousand of each video, which is a drawn clip of two seconds. Each measurement runs in a process
of its own, whose peak of resident memory is reported.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.index_scale import in_fresh_process
from benchmarks.tables import Table
from violence_detection.clips.demo import draw_clip
from violence_detection.clips.listed import listed_clips
from violence_detection.clips.locations import dataset_locations
from violence_detection.clips.manifest import ManifestRow, write_manifest

ROWS = 1_000_000
TOGETHER = 1000  # videos in a folder, segments of a video


def main() -> None:
    """Write the manifests, measure, print, and write the file that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="default: 1000000")
    flags = parser.parse_args()
    report: dict[str, Any] = {"rows": flags.rows}
    table = Table(f"A manifest of {flags.rows:,} rows", ["", "s", "peak MB"], [])
    for name, rows in (("whole videos", whole_videos), ("segments", segments)):
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder) / "clips.csv"
            write_manifest(rows(Path(folder), flags.rows), manifest)
            found = in_fresh_process(read_and_split, manifest, flags.rows)
        report[name] = found
        table.rows.append([name, f"{found['seconds']:.1f}", f"{found['peak_megabytes']:,}"])
    print(table.as_text())
    write_report(report, flags.json)


def whole_videos(folder: Path, rows: int) -> Iterator[ManifestRow]:
    """Yield a row for each of so many empty files, which are made."""
    for number in range(rows):
        source, label = number // TOGETHER, number % 2
        if number % TOGETHER == 0:
            (folder / f"source{source:06}").mkdir()
        video = f"source{source:06}/{number:08}.mp4"
        os.close(os.open(folder / video, os.O_CREAT))
        yield ManifestRow(video, label, group=f"source {source}")


def segments(folder: Path, rows: int) -> Iterator[ManifestRow]:
    """Yield so many segments of drawn videos."""
    draw_clip(folder / "drawn.mp4", violent=True, random=np.random.default_rng(0))
    for number in range(rows):
        video, segment = divmod(number, TOGETHER)
        if segment == 0:
            os.link(folder / "drawn.mp4", folder / f"{video:06}.mp4")
        start = segment / TOGETHER
        yield ManifestRow(f"{video:06}.mp4", segment % 2, start, start + 0.5)


def read_and_split(manifest: Path, rows: int) -> dict[str, float]:
    """Measure reading a manifest and dividing its clips into splits."""
    started = time.perf_counter()
    with dataset_locations(manifest, manifest.parent / "spool", 1.0) as locations:
        clips, _ = listed_clips(manifest, locations, 0, 60.0)
    seconds = time.perf_counter() - started
    assert len(clips) == rows
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
