"""Clips per second of decoding: seeking to each frame, this package, and the decoder's limit."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.timing import Workload, side_by_side
from violence_detection.clips.frames import read_frames, sample_positions
from violence_detection.settings.constants import FRAME_SIZE

ROUNDS = 3


def seek_frames(path: Path, frames: int, threads: int = 0) -> np.ndarray:
    """Return a clip's frames by the usual method: seek to each, read it, resize it.

    Args:
        threads: of FFmpeg's decoder; 0: its own choice.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    images = []
    for position in sample_positions(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), frames):
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(position))
        read, image = capture.read()
        if read:
            resized = cv2.resize(image, (FRAME_SIZE, FRAME_SIZE))
            images.append(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(images)


def grab_all(path: Path, retrieved: int = 0) -> int:
    """Decode a clip without using its frames: the limit for any reader of all frames.

    Args:
        retrieved: number of evenly spaced frames to convert to BGR at full size, as OpenCV does.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(sample_positions(length, retrieved).tolist()) if retrieved else ()
    frames, image = 0, None
    while capture.grab():
        if frames in wanted:
            _, image = capture.retrieve(image)
        frames += 1
    capture.release()
    return frames


def measure_decoding(paths: Sequence[Path], frames: int) -> dict[str, Any]:
    """Return clips per second on one core of each method, and of ours on 1, 2, … all cores."""
    cv2.setNumThreads(1)

    def workload(read: Callable[[Path], object]) -> Workload:
        def read_clip(path: Path) -> None:
            read(path)

        return Workload([partial(read_clip, path) for path in paths], len(paths))

    workloads = {
        "seeking": workload(lambda path: seek_frames(path, frames, threads=1)),
        "ours": workload(lambda path: read_frames(path, frames)),
        "retrieved": workload(lambda path: grab_all(path, frames)),
        "limit": workload(grab_all),
    }
    for path in paths:
        read_frames(path, frames)  # the files are in the page cache from here on
    rates = side_by_side(workloads, ROUNDS)

    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, min(2, cores), *(2**n for n in range(cores.bit_length())), cores})

    def decode_on(threads: int) -> None:
        with ThreadPoolExecutor(threads) as decoders:
            for _ in decoders.map(lambda path: read_frames(path, frames), [*paths, *paths]):
                pass

    by_cores = {
        str(count): Workload([partial(decode_on, count)], 2 * len(paths)) for count in counts
    }
    rates_by_cores = side_by_side(by_cores, ROUNDS)
    return {
        "clips": len(paths),
        "clips_per_second": {name: rates.median(name) for name in workloads},
        "clips_per_second_by_cores": {name: rates_by_cores.median(name) for name in by_cores},
        "ours_over_limit": rates.ratio("ours", "limit"),
        "ours_over_retrieved": rates.ratio("ours", "retrieved"),
        "ours_over_plain": rates.ratio("ours", "seeking"),
        "two_cores_over_one": rates_by_cores.ratio("2", "1") if cores > 1 else None,
    }
