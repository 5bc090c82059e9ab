"""Clips per second of decoding: seeking to each frame, ours, and the decoder's own limit."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.timing import Way, side_by_side
from violence_detection.clips.frames import read_frames, sample_positions
from violence_detection.settings.constants import FRAME_SIZE

ROUNDS = 3


def seek_frames(path: Path, frames: int, threads: int = 0) -> np.ndarray:
    """Return a clip's frames the plain way: seek to each, read it, resize it.

    Args:
        threads: of FFmpeg's decoder; 0: as many as it chooses itself.
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
    """Decode a clip and look at nothing: what no reader of all frames can be faster than.

    Args:
        retrieved: evenly spaced frames to convert to BGR and copy, at full size, as OpenCV does.
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
    """Return clips per second per core of each way, and ours over 1, 2, … all cores."""
    cv2.setNumThreads(1)

    def each(read: Callable[[Path], object], clips: Sequence[Path]) -> Way:
        def one(path: Path) -> None:
            read(path)

        return Way([partial(one, path) for path in clips], len(clips))

    ways = {
        "seeking": each(lambda path: seek_frames(path, frames, threads=1), paths),
        "ours": each(lambda path: read_frames(path, frames), paths),
        "retrieved": each(lambda path: grab_all(path, frames), paths),
        "limit": each(grab_all, paths),
    }
    for path in paths:
        read_frames(path, frames)  # the files are in memory from here on
    alone = side_by_side(ways, ROUNDS)

    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, min(2, cores), *(2**n for n in range(cores.bit_length())), cores})

    def decode_on(threads: int) -> None:
        with ThreadPoolExecutor(threads) as decoders:
            for _ in decoders.map(lambda path: read_frames(path, frames), [*paths, *paths]):
                pass

    together = side_by_side(
        {str(count): Way([partial(decode_on, count)], 2 * len(paths)) for count in counts}, ROUNDS
    )
    return {
        "clips": len(paths),
        "clips_per_second": {name: alone.median(name) for name in ways},
        "clips_per_second_by_cores": {name: together.median(name) for name in map(str, counts)},
        "ours_over_limit": alone.ratio("ours", "limit"),
        "ours_over_retrieved": alone.ratio("ours", "retrieved"),
        "ours_over_plain": alone.ratio("ours", "seeking"),
        "two_cores_over_one": together.ratio("2", "1") if cores > 1 else None,
    }
