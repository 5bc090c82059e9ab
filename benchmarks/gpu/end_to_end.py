"""Clips per second from files to features: decoders on all cores feed one or several GPUs."""

import itertools
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.clips import processes, read_streams

START_SECONDS = 180.0  # that a process may take to load its network


@dataclass(frozen=True)
class Work:
    """What is done with a clip.

    Args:
        clips: files, repeated until the time is over.
        frames: of a clip.
        streams: of a clip, each through VGG19.
        layer, dtype: of VGG19; on a CPU it is float32.
        batch: frames in a batch, about.
        seconds: to measure for.
    """

    clips: Sequence[Path]
    frames: int
    streams: Sequence[str]
    layer: str
    dtype: str
    batch: int
    seconds: float


def end_to_end(work: Work, devices: Sequence[str | None], cores: int) -> float:
    """Return the clips per second of a process for each device, all at once.

    Args:
        work: the same for all.
        devices: values of CUDA_VISIBLE_DEVICES; None: as it is.
        cores: of all processes together; each has its part of the decoders.

    Raises:
        RuntimeError: a process failed, with its error.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(len(devices)), spawn.Queue()
    own = max(1, cores // len(devices))
    workers = [
        spawn.Process(target=_worker, args=(work, device, own, barrier, answers))
        for device in devices
    ]
    for worker in workers:
        worker.start()
    try:
        rates = [_answer(answers, workers, work.seconds) for _ in workers]
    finally:
        for worker in workers:
            worker.join(10)
            if worker.is_alive():
                worker.terminate()
    return sum(rates)


def _answer(answers: Any, workers: Sequence[Any], seconds: float) -> float:
    end = time.monotonic() + START_SECONDS + 4 * seconds
    while answers.empty():
        if time.monotonic() > end or not any(worker.is_alive() for worker in workers):
            raise RuntimeError("a process for a GPU ended or hangs without an answer")
        time.sleep(0.05)
    answer = answers.get()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _worker(work: Work, device: str | None, cores: int, barrier: Any, answers: Any) -> None:
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before Keras loads its backend
    try:
        answers.put(_clips_per_second(work, cores, barrier))
    except threading.BrokenBarrierError:
        answers.put("another process for a GPU failed")
    except Exception as error:  # of a backend: told to the process that waits for it
        barrier.abort()
        answers.put(f"{type(error).__name__}: {error}")


def _clips_per_second(work: Work, cores: int, barrier: Any) -> float:
    from benchmarks.gpu.networks import build_extractor, on_gpu

    network = build_extractor(work.layer, work.dtype if on_gpu() else "float32")
    of_clip = work.frames * len(work.streams)
    at_once = max(1, work.batch // of_clip)
    decode = partial(read_streams, frames=work.frames, streams=work.streams)
    coming = itertools.cycle(work.clips)
    # As many clips are decoded ahead as the GPU takes in two batches: memory stays bounded.
    ahead = max(2 * cores, 2 * at_once)
    with processes(cores) as pool:
        decoded = deque(pool.submit(decode, next(coming)) for _ in range(ahead))

        def batch() -> None:
            images = []
            for _ in range(at_once):
                images.append(decoded.popleft().result())
                decoded.append(pool.submit(decode, next(coming)))
            network.predict_on_batch(np.concatenate(images).reshape(-1, *images[0].shape[2:]))

        try:
            batch()  # compiles
            barrier.wait(START_SECONDS)
            began, done = time.perf_counter(), 0
            while not done or time.perf_counter() - began < work.seconds:
                batch()
                done += at_once
            return done / (time.perf_counter() - began)
        finally:
            pool.shutdown(cancel_futures=True)
