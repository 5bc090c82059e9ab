"""Segments of long videos beside the clips that these were joined from.

    python -m benchmarks.segments --dataset-path DIR --files 20 --work-dir DIR --json FILE

The clips of each class are joined, in the order of their names, into so many long videos, packet by
packet: nothing is encoded anew. The manifest of their segments, `segments.csv` in the work folder,
has the clips' groups and can be trained on. Compared are the frames that a network would see.
"""

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.linked_clips import Linked, clips_of
from benchmarks.tables import Table
from violence_detection.clips.clip import Segment
from violence_detection.clips.frames import read_clip
from violence_detection.clips.manifest import ManifestRow, write_manifest

FRAMES = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the clips, write the manifest, compare, print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--files", type=int, default=20, help="long videos (default: 20)")
    parser.add_argument("--work-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    clips = sorted(clips_of(options.dataset_path), key=lambda linked: linked.path)
    rows: list[ManifestRow] = []
    for number, part in enumerate(np.array_split(np.arange(len(clips)), options.files)):
        chosen = [clips[index] for index in part]
        rows += joined(chosen, options.work_dir / f"long_{number + 1:02}.mp4")
    write_manifest(rows, options.work_dir / "segments.csv")
    report = compared(clips, rows, options.work_dir)
    cells = [f"{report[name]:,}" for name in ("clips", "identical")]
    cells += [f"{report[name]:.3f}" for name in ("largest_difference", "mean_difference")]
    header = ["clips", "identical", "largest difference", "mean difference"]
    print(Table("Grey levels, 0 to 255", header, [cells]).as_text())
    write_report(report, options.json)
    return 0


def joined(clips: Sequence[Linked], path: Path) -> list[ManifestRow]:
    """Write the packets of clips one after the other into one video; return its segments.

    Args:
        clips: encoded alike.
        path: of the video.
    """
    rows: list[ManifestRow] = []
    end = Fraction(0)
    with av.open(str(path), "w") as output:
        stream = None
        for linked in clips:
            with av.open(str(linked.clip.path)) as container:
                source = container.streams.video[0]
                stream = stream or output.add_stream_from_template(source)
                if source.codec_context.extradata != stream.codec_context.extradata:
                    raise ValueError(f"{linked.clip.path} is encoded otherwise than the first clip")
                base, start = source.time_base or Fraction(1, 1), source.start_time or 0
                length = Fraction(0)
                for packet in container.demux(source):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        length = max(length, (packet.pts - start + (packet.duration or 0)) * base)
                        packet.pts += round(end / base) - start
                        packet.dts += round(end / base) - start
                        packet.stream = stream
                        output.mux(packet)
            rows.append(
                ManifestRow(
                    *(path.name, linked.clip.label, float(end), float(end + length)),
                    group=linked.clip.group,
                )
            )
            end += length
    return rows


def compared(clips: Sequence[Linked], rows: Sequence[ManifestRow], folder: Path) -> dict[str, Any]:
    """Return how the frames of segments differ from those of the clips."""
    largest, total, identical = 0.0, 0.0, 0
    for linked, row in zip(clips, rows, strict=True):
        segment = Segment(row.start or 0.0, row.end)
        # Through the text of the manifest: its times have three decimals.
        segment = Segment(round(segment.start, 3), round(segment.end or 0.0, 3))
        alone = read_clip(Path(linked.clip.path), FRAMES)[0].astype(np.int16)
        difference = np.abs(alone - read_clip(folder / row.video, FRAMES, segment)[0])
        largest = max(largest, float(difference.max()))
        total += float(difference.mean())
        identical += not difference.any()
    return {
        "clips": len(rows),
        "frames": FRAMES,
        "identical": identical,
        "largest_difference": largest,
        "mean_difference": total / len(rows),
    }


if __name__ == "__main__":
    sys.exit(main())
