"""Decoding and streams on all cores, with OpenCV or PyAV. Loads no network."""

import importlib.util
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.settings.constants import FRAME_SIZE

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
DRAWN, WIDTH, HEIGHT, RATE, LENGTH = 16, 320, 240, 25, 50  # clips; pixels; frames/s; frames


def reader() -> str:
    """Return what decodes clips here: "opencv" or "pyav"; raises `ModuleNotFoundError`."""
    for name, module in (("opencv", "cv2"), ("pyav", "av")):
        if importlib.util.find_spec(module):
            return name
    raise ModuleNotFoundError("neither OpenCV nor PyAV: pip install opencv-python-headless")


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_clips(folder: Path) -> list[Path]:
    """Return the clips below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def draw_clips(folder: Path, count: int = DRAWN, by: str | None = None) -> list[Path]:
    """Draw clips of two seconds into a folder: a texture that moves, MPEG-4, 320 x 240.

    Args:
        folder: is there.
        count: of clips.
        by: "opencv" or "pyav"; None: which there is.
    """
    paths = [folder / f"{number:02d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
        picture = coarse.repeat(8, 0).repeat(8, 1)
        steps = random.integers(1, 4, 2)
        frames = (np.roll(picture, tuple(t * steps), (0, 1)) for t in range(LENGTH))
        {"opencv": _write_with_opencv, "pyav": _write_with_pyav}[by or reader()](path, frames)
    return paths


def _write_with_opencv(path: Path, frames: Iterator[np.ndarray]) -> None:
    import cv2

    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"mp4v"), float(RATE), (WIDTH, HEIGHT)
    )
    for frame in frames:
        writer.write(frame)
    writer.release()


def _write_with_pyav(path: Path, frames: Iterator[np.ndarray]) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "bgr24")))
        container.mux(stream.encode())


def read_clip(path: Path, frames: int, by: str | None = None) -> np.ndarray:
    """Return `(frames, 224, 224, 3)` uint8 RGB, evenly spaced over a clip.

    Args:
        path: of the clip.
        frames: how many.
        by: "opencv" or "pyav"; None: which there is.
    """
    return {"opencv": _read_with_opencv, "pyav": _read_with_pyav}[by or reader()](path, frames)


def _chosen(total: int, frames: int) -> list[int]:
    return [(2 * index + 1) * max(1, total) // (2 * frames) for index in range(frames)]


def _read_with_opencv(path: Path, frames: int) -> np.ndarray:
    import cv2

    cv2.setNumThreads(1)  # a process for each core
    video = cv2.VideoCapture(str(path))
    wanted = _chosen(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), frames)
    small: dict[int, np.ndarray] = {}
    for number in range(wanted[-1] + 1):
        if not video.grab():
            break
        if number in wanted:
            _, frame = video.retrieve()
            resized = cv2.resize(frame, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)
            small[number] = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)
    video.release()
    return _stacked(path, small, wanted)


def _read_with_pyav(path: Path, frames: int) -> np.ndarray:
    import av

    small: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        total = stream.frames or sum(1 for _ in container.decode(stream))
        if not stream.frames:
            container.seek(0)
        wanted = _chosen(total, frames)
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                resized = frame.reformat(FRAME_SIZE, FRAME_SIZE, "rgb24", interpolation="AREA")
                small[number] = resized.to_ndarray()
            if number >= wanted[-1]:
                break
    return _stacked(path, small, wanted)


def _stacked(path: Path, small: dict[int, np.ndarray], wanted: Sequence[int]) -> np.ndarray:
    """Return the frames that were wanted; in place of one past the end, the last."""
    if not small:
        raise ValueError(f"{path}: no frame can be decoded")
    last = small[max(small)]
    return np.stack([small.get(number, last) for number in wanted])


def read_streams(path: Path, frames: int, streams: Sequence[str]) -> np.ndarray:
    """Return `(streams, frames, 224, 224, 3)` uint8, as the program shows them to VGG19."""
    decoded = read_clip(path, frames)
    if tuple(streams) == ("rgb",):
        return decoded[np.newaxis]
    from violence_detection.clips.streams import stream_images  # needs OpenCV

    return np.stack([stream_images(decoded, stream) for stream in streams])


def processes(count: int) -> ProcessPoolExecutor:
    """Return a pool of processes, spawned: a fork would copy a GPU's context.

    One that dies ends the pool with an error.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def shapes_of(path: Path, work: Callable[[Path], np.ndarray]) -> tuple[int, ...]:
    """Do the work of a clip and send back the shape alone: pipes are not what is measured."""
    return work(path).shape


def clips_per_second(
    work: Callable[[Path], np.ndarray], clips: Sequence[Path], cores: int, seconds: float
) -> float:
    """Return the clips per second of some work, in a process for each core.

    Args:
        work: on a clip; of a module that a new process can import.
        clips: repeated until the time is over.
        cores: processes.
        seconds: to measure for, when all processes have started.
    """
    with processes(cores) as pool:
        one = partial(shapes_of, work=work)
        list(pool.map(one, [clips[0]] * (4 * cores)))
        began, done, block = time.perf_counter(), 0, 8 * cores
        endless = itertools.cycle(clips)
        # Blocks: what is handed out in advance would otherwise grow without end.
        while not done or time.perf_counter() - began < seconds:
            list(pool.map(one, itertools.islice(endless, block)))
            done += block
        return done / (time.perf_counter() - began)
