"""Feed extraction with damaged and hostile clips: each must give features or a reason.

    python -m benchmarks.fuzz_clips --count 1000 --dataset-path DIR

Clips are copied and mutated, one way or several, then extracted as in training: decoded in the
decoder processes, run through a small part of VGG19, stored. Exit status 1 if a clip is not
accounted for, the run itself hangs or dies, or a decoder takes more than 2 GB.
"""

import multiprocessing
import os
import random
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from benchmarks.command import make_parser, print_report

MEMORY_LIMIT_MB = 2000
FRAMES, LAYER = 16, "block1_conv1"
ABSURD = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1_000_000_000)
TABLES = (b"stts", b"stsz", b"stsc", b"stco", b"stss", b"ctts", b"mdhd", b"mvhd", b"tkhd", b"hdlr")
SAMPLE_ENTRIES = (b"avc1", b"mp4v", b"hev1", b"av01")

Mutation = Callable[[bytearray, random.Random], bytearray]


def flip_bits(data: bytearray, moments: random.Random) -> bytearray:
    """Flip 1 to 1000 bits anywhere."""
    for _ in range(int(10 ** moments.uniform(0, 3))):
        data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
    return data


def truncate(data: bytearray, moments: random.Random) -> bytearray:
    """Cut the end off."""
    return data[: moments.randrange(1, len(data))]


def cut_out(data: bytearray, moments: random.Random) -> bytearray:
    """Cut a piece out of the middle."""
    begin = moments.randrange(len(data))
    return data[:begin] + data[begin + int(10 ** moments.uniform(0, 5)) :]


def swap_boxes(data: bytearray, moments: random.Random) -> bytearray:
    """Put the file's outermost boxes in another order."""
    boxes, place = [], 0
    while place + 8 <= len(data):
        size = max(8, int.from_bytes(data[place : place + 4]))
        boxes.append(data[place : place + size])
        place += size
    moments.shuffle(boxes)
    return bytearray(b"".join(boxes))


def lie_in_header(data: bytearray, moments: random.Random) -> bytearray:
    """Write an absurd or random number into one of the tables that describe the frames."""
    place = data.find(moments.choice(TABLES))
    if place < 0:
        return flip_bits(data, moments)
    value = moments.choice([*ABSURD, moments.getrandbits(32)])
    return put(data, place + 4 + 4 * moments.randrange(8), ">I", value)


def lie_about_box_size(data: bytearray, moments: random.Random) -> bytearray:
    """Give a box another size than it has."""
    place = data.find(moments.choice((b"moov", b"mdat", b"trak", b"stbl", *TABLES)))
    return put(data, place - 4, ">I", moments.choice([*ABSURD, moments.getrandbits(16)]))


def absurd_dimensions(data: bytearray, moments: random.Random) -> bytearray:
    """Say that frames are 0, 1 or 65535 pixels wide or high."""
    places = [place for entry in SAMPLE_ENTRIES if (place := data.find(entry)) >= 0]
    sides = [moments.choice((0, 1, 65535, 16384)) for _ in range(2)]
    if places:  # 24 bytes into the sample entry
        data = put(data, places[0] + 28, ">HH", *sides)
    track = data.find(b"tkhd")
    return put(data, track + 80, ">II", *(side << 16 for side in sides)) if track >= 0 else data


def absurd_frame_count(data: bytearray, moments: random.Random) -> bytearray:
    """Say that there are 0 or 10^9 frames."""
    count = moments.choice((0, 1_000_000_000))
    for table, offset in ((b"stts", 12), (b"stsz", 12), (b"mdhd", 20), (b"mvhd", 20)):
        place = data.find(table)
        if place >= 0 and moments.random() < 0.7:
            data = put(data, place + offset, ">I", count)
    return data


def absurd_coded_dimensions(data: bytearray, moments: random.Random) -> bytearray:
    """Overwrite the decoder's own parameters, in which the coded dimensions are."""
    places = [place for entry in (b"avcC", b"esds") if (place := data.find(entry)) >= 0]
    if not places:
        return flip_bits(data, moments)
    begin = places[0] + 8
    for offset in range(moments.randrange(1, 24)):
        data[min(begin + offset + moments.randrange(8), len(data) - 1)] = moments.randrange(256)
    return data


def put(data: bytearray, place: int, kind: str, *values: int) -> bytearray:
    """Write numbers at a place, if the data reaches that far."""
    if 0 <= place <= len(data) - struct.calcsize(kind):
        struct.pack_into(kind, data, place, *values)
    return data


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, truncate, cut_out, swap_boxes, lie_in_header, lie_about_box_size),
    *(absurd_dimensions, absurd_frame_count, absurd_coded_dimensions),
)


def main() -> int:
    """Mutate, extract, print; return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="(default: 1000)")
    parser.add_argument("--dataset-path", type=Path, help="real clips (default: drawn ones)")
    parser.add_argument("--clip-timeout", type=float, default=20, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = originals(flags.dataset_path, folder)
        mutated = mutate(paths, flags.count, flags.seed, folder / "mutated")
        report = extract(mutated, flags.clip_timeout, folder)
    print_report(report, flags.json)
    peak = max(report["decoder_peak_mb"], report["run_peak_mb"])
    return int(report["unaccounted_for"] > 0 or peak >= MEMORY_LIMIT_MB)


def originals(dataset_path: Path | None, folder: Path) -> list[Path]:
    """Return the clips of a dataset, or some that are drawn."""
    if dataset_path is not None:
        return sorted(dataset_path.rglob("*.mp4"))
    import numpy as np

    from violence_detection.clips.demo import draw_clip

    drawing = np.random.default_rng(0)
    paths = [folder / f"drawn{number}.mp4" for number in range(4)]
    for number, path in enumerate(paths):
        draw_clip(path, number % 2 == 1, drawing)
    return paths


def mutate(paths: Sequence[Path], count: int, seed: int, folder: Path) -> list[Path]:
    """Write `count` mutated copies; the file name says how, in what order."""
    folder.mkdir()
    moments = random.Random(seed)
    mutated = []
    for number in range(count):
        data = bytearray(moments.choice(paths).read_bytes())
        ways = [MUTATIONS[number % len(MUTATIONS)]]
        ways += moments.choices(MUTATIONS, k=moments.choice((0, 0, 0, 0, 1, 2)))
        for way in ways:
            if data:
                data = way(data, moments)
        names = "+".join(way.__name__ for way in ways)
        mutated.append(folder / f"{number:05d}_{names}.mp4")
        mutated[-1].write_bytes(data)
    return mutated


def extract(paths: Sequence[Path], clip_timeout: float, folder: Path) -> dict[str, Any]:
    """Extract features as training does; return what became of the clips."""
    from violence_detection.clips.clip import Clip
    from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
    from violence_detection.features.cache.folder import CacheFolder
    from violence_detection.features.extraction import extract_features, on_replicas
    from violence_detection.models.classifier import build_extractor, feature_size
    from violence_detection.runtime.devices import find_devices, make_strategy

    make_extractor = partial(build_extractor, LAYER, "random")
    clips = [Clip(path.parent, path.name, number % 2, "train") for number, path in enumerate(paths)]
    recipe = Recipe(FRAMES, LAYER, "random-0", feature_size(LAYER), "float32")
    started = time.perf_counter()
    with DecoderPeaks() as peaks, CacheFolder(folder / "cache") as cache_folder:
        rows, bad = extract_features(
            clips,
            [FeatureCache(cache_folder, recipe)],
            lambda: on_replicas(make_strategy(find_devices(1), 4), make_extractor),
            1,
            clip_timeout,
        )
    seconds = time.perf_counter() - started
    # The file that decoding was about is in some of the messages; what is counted is the kind.
    reasons = Counter(item.reason.split(" (")[0].split(" of ")[0] for item in bad)
    return {
        "clips": len(clips),
        "with_features": len(rows),
        "with_a_reason": len(bad),
        "unaccounted_for": len(set(clips) - rows.keys() - {item.clip for item in bad}),
        "decoders_that_died": sum("decoder died" in item.reason for item in bad),
        "clips_that_timed_out": sum("could not be read within" in item.reason for item in bad),
        "decoder_peak_mb": peaks.decoders,
        "run_peak_mb": peak_mb(os.getpid()),
        "seconds": round(seconds, 1),
        "with_features_by_first_mutation": dict(
            Counter(clip.name[6:].removesuffix(".mp4").split("+")[0] for clip in rows)
        ),
        "reasons": dict(reasons.most_common()),
        "worst": [
            f"{item.clip.name}: {item.reason}"
            for item in bad
            if "decoder died" in item.reason or "could not be read within" in item.reason
        ],
    }


class DecoderPeaks:
    """Looks after the decoders while they live, at the peak of resident memory of each."""

    def __enter__(self) -> Self:
        self.decoders = 0  # MB
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    self.decoders = max(self.decoders, peak_mb(process.pid))


def peak_mb(process: int) -> int:
    """Return the peak resident memory of a process since it began; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    sys.exit(main())
