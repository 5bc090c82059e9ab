"""The cost of the cache's index, an epoch's order and the clip list at ten million clips.

    python -m benchmarks.index_scale --clips 10000000 --parts 4 --json FILE

The keys of so many clips are generated, for both default streams and the thumbnails; the features
are sparse files of the right size. The clips that are listed are empty files. Each
measurement runs in a process of its own, whose peak of resident memory is reported. The files that
are read have just been written, so that the disk is not measured.
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.tables import Table
from violence_detection.clips.dataset import find_clips
from violence_detection.features.cache.feature_cache import THUMBNAIL, FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.parts import (
    FILE_FIELDS,
    FILES,
    KEYS,
    ROW_FIELDS,
    ROWS,
    part_names,
    record_type,
    write_keys,
)
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.training.order import ClipOrder

CLIPS = 10_000_000
CLIPS_PER_FOLDER = 1000  # of the dataset whose clips are listed
CHUNK = 1_000_000  # clips
STREAM = Recipe(16, "fc2", "weights", 4096, "float16", "difference")
RECIPES = (STREAM, replace(STREAM, stream="flow"), Recipe(16, THUMBNAIL, "", 64, "float16"))

Seconds = dict[str, float]


def main() -> None:
    """Generate, measure, print, and write the file that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--clips", type=int, default=CLIPS, help="in the cache (default: 10000000)")
    parser.add_argument("--parts", type=int, default=1, help="of each recipe (default: 1)")
    flags = parser.parse_args()
    report: dict[str, Any] = {"clips": flags.clips, "parts": flags.parts}
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        draw_cache(cache, flags.clips, flags.parts)
        files = [path.stat().st_size for path in cache.rglob(f"*{KEYS}")]
        report["index_megabytes"] = round(sum(files) / 1e6)
        for measure in (open_cache, look_up, fingerprint, store_one, shuffle, list_clips):
            report[measure.__name__] = in_fresh_process(measure, cache, flags.clips)
    print(index_table(report).as_text())
    write_report(report, flags.json)


def index_table(report: dict[str, Any]) -> Table:
    """Return the table of what was measured."""
    title = f"{report['clips']:,} clips in {count_of(report['parts'], 'part')}"
    stages = {
        "open": "open_cache",
        "find the rows of all clips, in an epoch's order": "look_up",
        "shuffle an epoch (with both classes in every batch)": "shuffle",
        "add one clip, flushed to disk": "store_one",
        "the clip list, from a folder of so many files": "list_clips",
    }
    rows = []
    for words, name in stages.items():
        figures = report[name]
        stratified = figures.get("seconds_stratified")
        seconds = f"{figures['seconds']:.2g}" + (f" ({stratified:.2g})" if stratified else "")
        rows.append([words, seconds, f"{figures['peak_megabytes']:,}"])
    return Table(title, ["", "seconds", "peak MB"], rows)


def in_fresh_process(measure: Callable[..., Seconds], *arguments: object) -> dict[str, float]:
    """Return the seconds that `measure` returns, and its process's peak resident memory in MB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        seconds = process.submit(measure, *arguments).result()
        figures = {name: round(value, 3) for name, value in seconds.items()}
        return figures | {"peak_megabytes": process.submit(_peak).result()}


def _peak() -> int:
    # `getrusage` would start from the peak of the parent.
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 // 10**6


def contents_of(part: int, count: int) -> np.ndarray:
    """Return `(count, 2)` random content hashes, the same ones for the same part."""
    return np.random.default_rng(part).integers(0, 2**64, (count, 2), np.uint64).astype(">u8")


def draw_cache(cache: Path, clips: int, parts: int) -> None:
    """Write the keys of a cache of so many clips, evenly over the parts of each recipe."""
    for part in range(parts):
        first, end = part * clips // parts, (part + 1) * clips // parts
        chunks = [contents_of(start, min(CHUNK, end - start)) for start in range(first, end, CHUNK)]
        keys = np.concatenate(chunks)
        for recipe in RECIPES:
            folder = cache / recipe.key
            folder.mkdir(exist_ok=True)
            records = np.zeros(len(keys), record_type(ROW_FIELDS))
            records["key"], records["seconds"], records["share"] = keys, 1, 1
            with (folder / f"{part:04}{ROWS}").open("wb") as file:
                file.truncate(len(keys) * recipe.row_bytes)
            write_keys(folder / f"{part:04}{KEYS}", recipe.description, records)
        files = np.zeros(len(keys), record_type(FILE_FIELDS))
        files["key"], files["content"] = keys, keys.view("V16")[:, 0]
        (cache / FILES).mkdir(exist_ok=True)
        write_keys(cache / FILES / f"{part:04}{KEYS}", FILES, files)


def opened(cache: Path) -> list[FeatureCache]:
    """Return the cache of each recipe."""
    folder = CacheFolder(cache)
    return [FeatureCache(folder, recipe) for recipe in RECIPES]


def open_cache(cache: Path, clips: int) -> Seconds:
    """Measure opening the cache: its files' index and all recipes."""
    started = time.perf_counter()
    caches = opened(cache)
    seconds = time.perf_counter() - started
    assert len(caches[0]) == clips, (len(caches[0]), clips)
    return {"seconds": seconds}


def look_up(cache: Path, clips: int) -> Seconds:
    """Measure finding the rows of all clips of one recipe, in the order of an epoch."""
    rows = opened(cache)[0]
    parts = len(part_names(cache / RECIPES[0].key))
    contents: list[bytes] = []
    for part in range(parts):
        first, end = part * clips // parts, (part + 1) * clips // parts
        for start in range(first, end, CHUNK):
            data = contents_of(start, min(CHUNK, end - start)).tobytes()
            contents += [data[at : at + 16] for at in range(0, len(data), 16)]
    order = ClipOrder(np.zeros(clips, np.int8), seed=0).of_epoch(0)
    shuffled = [contents[number] for number in order]
    del contents
    started = time.perf_counter()
    found = rows.rows_of(shuffled)
    seconds = time.perf_counter() - started
    assert (found >= 0).all()
    few = shuffled[:10_000]
    started = time.perf_counter()
    for content in few:
        assert rows.row_of(content) is not None
    return {"seconds": seconds, "seconds_one_by_one_of_10000": time.perf_counter() - started}


def fingerprint(cache: Path, clips: int) -> Seconds:
    """Measure the fingerprint of all rows of the cache's first part."""
    rows = opened(cache)[0]
    numbers = np.arange(clips // len(part_names(cache / RECIPES[0].key)))
    started = time.perf_counter()
    rows.fingerprint(numbers.tolist())
    return {"seconds": time.perf_counter() - started, "rows": len(numbers)}


def store_one(cache: Path, clips: int) -> Seconds:
    """Measure storing one more clip durably in a large cache."""
    (rows, *_) = opened(cache)
    features = np.zeros((1, *rows.row_shape), np.float16)
    started = time.perf_counter()
    rows.store([b"one more"], features)
    rows.commit()
    return {"seconds": time.perf_counter() - started}


def shuffle(cache: Path, clips: int) -> Seconds:
    """Measure shuffling an epoch, plain and with both classes in every batch."""
    labels = np.random.default_rng(0).random(clips) < 0.78
    plain, stratified = ClipOrder(labels, seed=0), ClipOrder(labels, seed=0, stratified=True)
    started = time.perf_counter()
    plain.of_epoch(1)
    shuffled = time.perf_counter()
    stratified.of_epoch(1)
    return {"seconds": shuffled - started, "seconds_stratified": time.perf_counter() - shuffled}


def list_clips(cache: Path, clips: int) -> Seconds:
    """Measure finding the clips of a dataset of empty files, 1000 in a folder."""
    with tempfile.TemporaryDirectory() as name:
        dataset, in_one = Path(name), min(CLIPS_PER_FOLDER, clips // 20)
        for number, first in enumerate(range(0, clips, in_one)):
            split = ("train", "val")[number // 2 % 5 == 4]
            folder = dataset / split / CLASS_NAMES[number % 2] / f"source{number:06}"
            folder.mkdir(parents=True)
            for clip in range(first, min(first + in_one, clips)):
                os.close(os.open(folder / f"{clip:08}.mp4", os.O_CREAT))
        started = time.perf_counter()
        found = find_clips(dataset, seed=0)
        seconds = time.perf_counter() - started
        assert len(found) == clips
        return {"seconds": seconds}


if __name__ == "__main__":
    main()
