"""Clips per CPU second of reading: this package, OpenCV's reader in two ways, and its limit."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.timing import Workload, side_by_side
from violence_detection.clips.frames import read_frames, sample_positions
from violence_detection.settings.constants import FRAME_SIZE

ROUNDS = 3
LONG_SECONDS, LONG_SIZE, LONG_RATE = 300, (1280, 720), 25
LONG_ROUNDS = 2
# Seconds between the keyframes of a long clip: as cameras have them, and as x264 does by itself.
KEYFRAMES = {"keyframe every 2 s": 2, "keyframe every 10 s": 10}


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


def opencv_frames(path: Path, frames: int) -> np.ndarray:
    """Return a clip's frames by OpenCV: all are decoded in order, those wanted are converted."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    positions = sample_positions(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), frames).tolist()
    wanted, images, number = set(positions), {}, 0
    while capture.grab():
        if number in wanted:
            _, image = capture.retrieve()
            resized = cv2.resize(image, (FRAME_SIZE, FRAME_SIZE))
            images[number] = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)
        number += 1
    capture.release()
    return np.stack([images[position] for position in positions])


def grab_all(path: Path) -> None:
    """Decode a clip without using its frames: the limit for any reader of all frames."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while capture.grab():
        pass
    capture.release()


def write_long_clip(path: Path, seconds: int, keyframe_every: int) -> Path:
    """Write a clip of a picture that moves.

    Args:
        path: of the file.
        seconds: its length.
        keyframe_every: seconds.
    """
    width, height = LONG_SIZE
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    picture = cv2.resize(noise, LONG_SIZE, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "g": str(keyframe_every * LONG_RATE)}
        stream = container.add_stream("libx264", rate=LONG_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * LONG_RATE):
            image = np.roll(picture, 3 * number, axis=1)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def per_cpu_second(read: Callable[[Path], object], paths: Sequence[Path]) -> Workload:
    """Return the reading of clips as a workload that is timed by the CPU's time."""

    def read_clip(path: Path) -> float:
        started = time.process_time()
        read(path)
        return time.process_time() - started

    return Workload([partial(read_clip, path) for path in paths], len(paths))


def measure_long_clips(
    frames: int, folder: Path, seconds: int = LONG_SECONDS
) -> list[dict[str, Any]]:
    """Return clips per CPU second of ours and of OpenCV's reader, for each kind of long clip.

    Args:
        frames: of a clip.
        folder: for the clips.
        seconds: their length.
    """
    cv2.setNumThreads(1)
    rows = []
    for name, keyframe_every in KEYFRAMES.items():
        path = write_long_clip(folder / f"{keyframe_every}.mp4", seconds, keyframe_every)
        workloads = {
            "ours": per_cpu_second(lambda path: read_frames(path, frames), [path]),
            "opencv": per_cpu_second(lambda path: opencv_frames(path, frames), [path]),
        }
        rates = side_by_side(workloads, LONG_ROUNDS)
        rows.append(
            {
                "name": f"{seconds} s, {LONG_SIZE[0]}x{LONG_SIZE[1]}, {name}",
                "clips_per_second": {method: rates.median(method) for method in workloads},
                "ours_over_opencv": rates.ratio("ours", "opencv"),
            }
        )
    return rows


def measure_decoding(
    paths: Sequence[Path], frames: int, folder: Path, long_seconds: int = LONG_SECONDS
) -> dict[str, Any]:
    """Return clips per CPU second of each method, and of ours on 1, 2, … cores per second.

    Args:
        paths: of the clips.
        frames: of a clip.
        folder: for the long clips.
        long_seconds: length of the long clips; 0: none.
    """
    cv2.setNumThreads(1)
    workloads = {
        "seeking": per_cpu_second(lambda path: seek_frames(path, frames, threads=1), paths),
        "ours": per_cpu_second(lambda path: read_frames(path, frames), paths),
        "opencv": per_cpu_second(lambda path: opencv_frames(path, frames), paths),
        "limit": per_cpu_second(grab_all, paths),
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
        "ours_over_opencv": rates.ratio("ours", "opencv"),
        "ours_over_plain": rates.ratio("ours", "seeking"),
        "two_cores_over_one": rates_by_cores.ratio("2", "1") if cores > 1 else None,
        **_long_figures(measure_long_clips(frames, folder, long_seconds) if long_seconds else []),
    }


def _long_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"long": rows, "long_over_opencv": rows[0]["ours_over_opencv"] if rows else None}
