"""Run extraction on damaged and hostile clips: each must yield features or a reason.

    python -m benchmarks.fuzz_clips --count 1000

Clips of all kinds of `benchmarks.frames`, or those of a dataset, are mutated once or several times,
then extracted as in training: decoded in the decoder processes, run through a small part of VGG19,
and stored. The decoders' memory is filled with a pattern before it is used, which is looked for in
the frames. Exit status 1 if a clip is not accounted for, a frame has memory that was never written,
the run itself hangs or crashes, or a decoder uses more than 2 GB.
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

import numpy as np

from benchmarks.command import make_parser, print_report

MEMORY_LIMIT_MB = 2000
FRAMES, LAYER = 16, "block1_conv1"
# glibc fills memory with the complement of this byte when it is taken, with the byte when freed.
FILLED_WITH = 90
FILLED_SHARE = 0.02  # of a frame's pixels; with so many of the pattern's colours, it is memory
ABSURD = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1_000_000_000)
TABLES = (b"stts", b"stsz", b"stsc", b"stco", b"stss", b"ctts", b"mdhd", b"mvhd", b"tkhd", b"hdlr")
SAMPLE_ENTRIES = (b"avc1", b"mp4v", b"hev1", b"av01")

Mutation = Callable[[bytearray, random.Random], bytearray]


def flip_bits(data: bytearray, rng: random.Random) -> bytearray:
    """Flip 1 to 1000 bits anywhere."""
    for _ in range(int(10 ** rng.uniform(0, 3))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def truncate(data: bytearray, rng: random.Random) -> bytearray:
    """Truncate the file."""
    return data[: rng.randrange(1, len(data))]


def cut_out(data: bytearray, rng: random.Random) -> bytearray:
    """Cut a piece out of the middle."""
    begin = rng.randrange(len(data))
    return data[:begin] + data[begin + int(10 ** rng.uniform(0, 5)) :]


def swap_boxes(data: bytearray, rng: random.Random) -> bytearray:
    """Shuffle the file's top-level boxes."""
    boxes, offset = [], 0
    while offset + 8 <= len(data):
        size = max(8, int.from_bytes(data[offset : offset + 4]))
        boxes.append(data[offset : offset + size])
        offset += size
    rng.shuffle(boxes)
    return bytearray(b"".join(boxes))


def lie_in_header(data: bytearray, rng: random.Random) -> bytearray:
    """Write an absurd or random number into one of the tables that describe the frames."""
    offset = data.find(rng.choice(TABLES))
    if offset < 0:
        return flip_bits(data, rng)
    value = rng.choice([*ABSURD, rng.getrandbits(32)])
    return write_at(data, offset + 4 + 4 * rng.randrange(8), ">I", value)


def lie_about_box_size(data: bytearray, rng: random.Random) -> bytearray:
    """Declare a wrong size of a box."""
    offset = data.find(rng.choice((b"moov", b"mdat", b"trak", b"stbl", *TABLES)))
    return write_at(data, offset - 4, ">I", rng.choice([*ABSURD, rng.getrandbits(16)]))


def absurd_dimensions(data: bytearray, rng: random.Random) -> bytearray:
    """Declare a width and height of 0, 1, 16384 or 65535 pixels."""
    offsets = [offset for entry in SAMPLE_ENTRIES if (offset := data.find(entry)) >= 0]
    sides = [rng.choice((0, 1, 65535, 16384)) for _ in range(2)]
    if offsets:  # 24 bytes into the sample entry
        data = write_at(data, offsets[0] + 28, ">HH", *sides)
    track = data.find(b"tkhd")
    if track >= 0:
        data = write_at(data, track + 80, ">II", *(side << 16 for side in sides))
    return data


def absurd_frame_count(data: bytearray, rng: random.Random) -> bytearray:
    """Declare 0 or 10^9 frames."""
    count = rng.choice((0, 1_000_000_000))
    for table, field in ((b"stts", 12), (b"stsz", 12), (b"mdhd", 20), (b"mvhd", 20)):
        offset = data.find(table)
        if offset >= 0 and rng.random() < 0.7:
            data = write_at(data, offset + field, ">I", count)
    return data


def absurd_coded_dimensions(data: bytearray, rng: random.Random) -> bytearray:
    """Overwrite the decoder's parameters, which contain the coded dimensions."""
    offsets = [offset for entry in (b"avcC", b"esds") if (offset := data.find(entry)) >= 0]
    if not offsets:
        return flip_bits(data, rng)
    begin = offsets[0] + 8
    for offset in range(rng.randrange(1, 24)):
        data[min(begin + offset + rng.randrange(8), len(data) - 1)] = rng.randrange(256)
    return data


def write_at(data: bytearray, offset: int, kind: str, *values: int) -> bytearray:
    """Write numbers at an offset, if the data is long enough."""
    if 0 <= offset <= len(data) - struct.calcsize(kind):
        struct.pack_into(kind, data, offset, *values)
    return data


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, truncate, cut_out, swap_boxes, lie_in_header, lie_about_box_size),
    *(absurd_dimensions, absurd_frame_count, absurd_coded_dimensions),
)


def main() -> int:
    """Mutate, extract, print; return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--count", type=int, default=1000, metavar="N", help="mutated clips (default: 1000)"
    )
    parser.add_argument("--dataset-path", type=Path, help="real clips (default: drawn ones)")
    parser.add_argument(
        "--clip-timeout", type=float, default=20, metavar="SECONDS", help="(default: 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    flags = parser.parse_args()
    os.environ["MALLOC_PERTURB_"] = str(FILLED_WITH)  # of the decoders, which are started later
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = originals(flags.dataset_path, folder)
        mutated = mutate(paths, flags.count, flags.seed, folder / "mutated")
        report = extract(mutated, flags.clip_timeout, folder)
    print_report(report, flags.json)
    peak = max(report["decoder_peak_mb"], report["run_peak_mb"])
    unwritten = report["frames_of_unwritten_memory"]
    return int(report["unaccounted_for"] > 0 or unwritten > 0 or peak >= MEMORY_LIMIT_MB)


def originals(dataset_path: Path | None, folder: Path) -> list[Path]:
    """Return the clips of a dataset; without one, drawn ones of all kinds."""
    if dataset_path is not None:
        return sorted(dataset_path.rglob("*.mp4"))
    from benchmarks.frames import KINDS, write_clip

    paths = []
    for number, kind in enumerate(KINDS.values()):
        paths.append(folder / f"drawn{number}.{kind.suffix}")
        write_clip(paths[-1], kind)
    return paths


def mutate(paths: Sequence[Path], count: int, seed: int, folder: Path) -> list[Path]:
    """Write `count` mutated copies; the file name has the mutations in their order."""
    folder.mkdir()
    rng = random.Random(seed)
    mutated = []
    for number in range(count):
        data = bytearray(rng.choice(paths).read_bytes())
        mutations = [MUTATIONS[number % len(MUTATIONS)]]
        mutations += rng.choices(MUTATIONS, k=rng.choice((0, 0, 0, 0, 1, 2)))
        for mutation in mutations:
            if data:
                data = mutation(data, rng)
        names = "+".join(mutation.__name__ for mutation in mutations)
        mutated.append(folder / f"{number:05d}_{names}.mp4")
        mutated[-1].write_bytes(data)
    return mutated


def colours_of_unwritten_memory() -> np.ndarray:
    """Return the colours that memory with the pattern has in a frame, `(colours, 3)` int RGB."""
    import av

    colours = []
    for byte in (FILLED_WITH, 255 - FILLED_WITH):
        colours.append((byte, byte, byte))
        for pixel_format in ("yuv420p", "yuvj420p"):
            planes = np.full((24, 16), byte, np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, pixel_format)
            colours.append(tuple(frame.to_ndarray(format="rgb24")[8, 8].tolist()))
    return np.array(colours)


def is_unwritten_memory(image: np.ndarray, colours: np.ndarray) -> bool:
    """Return whether much of a frame has one of some colours, give or take two levels.

    Args:
        image: `(224, 224, 3)` uint8 RGB.
        colours: `(colours, 3)`.
    """
    pixels = image.reshape(-1, 3).astype(np.int16)
    return any(
        (np.abs(pixels - colour).max(axis=1) <= 2).mean() > FILLED_SHARE for colour in colours
    )


def extract(paths: Sequence[Path], clip_timeout: float, folder: Path) -> dict[str, Any]:
    """Extract features as training does; return what happened to the clips."""
    from violence_detection.clips.clip import Clip
    from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
    from violence_detection.features.cache.folder import CacheFolder
    from violence_detection.features.extraction import extract_features
    from violence_detection.features.network import on_replicas
    from violence_detection.models.vgg19 import build_extractor
    from violence_detection.models.vgg19_weights import feature_size
    from violence_detection.runtime.devices import find_devices, make_strategy

    make_extractor = partial(build_extractor, LAYER, "random")
    clips = [Clip(path.parent, path.name, number % 2, "train") for number, path in enumerate(paths)]
    recipe = Recipe(FRAMES, LAYER, "random-0", feature_size(LAYER), "float32")
    colours, unwritten = colours_of_unwritten_memory(), 0

    def make_network(recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
        network = on_replicas(make_strategy(find_devices(1), 4), make_extractor)

        def checked(images: np.ndarray) -> np.ndarray:
            nonlocal unwritten
            frames = images.reshape(-1, *images.shape[2:])
            unwritten += sum(is_unwritten_memory(frame, colours) for frame in frames)
            return network(images)

        return checked

    started = time.perf_counter()
    with DecoderPeaks() as peaks, CacheFolder(folder / "cache") as cache_folder:
        rows, bad = extract_features(
            clips,
            [FeatureCache(cache_folder, recipe)],
            make_network,
            1,
            clip_timeout,
        )
    seconds = time.perf_counter() - started
    # Some messages name the file; what is counted is the kind of reason.
    reasons = Counter(item.reason.split(" (")[0].split(" of ")[0] for item in bad)
    return {
        "clips": len(clips),
        "with_features": len(rows),
        "with_a_reason": len(bad),
        "unaccounted_for": len(set(clips) - rows.keys() - {item.clip for item in bad}),
        "frames_of_unwritten_memory": unwritten,
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
    """Records the peak resident memory of the decoders until the end of the block."""

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
    """Return the peak resident memory of a process in MB; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    sys.exit(main())
