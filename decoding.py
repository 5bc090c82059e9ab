"""Frames of clips, read in processes beside this one: a clip may hang its decoder or bring it down.

FFmpeg is fed with what someone downloaded. A decoder that takes too long is killed, one that dies
is replaced, and one that would take gigabytes is refused them: in each case one clip is bad, and
the run goes on.
"""

import multiprocessing
import os
import queue
import signal
import sys
from concurrent.futures import TimeoutError as DecodingTimeout
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import pebble

from config import FRAME_SIZE
from frames import UnreadableClip, read_frames

MEMORY_LIMIT = 1.6 * 2**30  # bytes that decoding a clip may take, beside the program itself
ORPHAN_GRACE = 10  # seconds over the time limit after which a decoder ends itself


class DecoderProcesses:
    """Processes that read clips, each under a time limit and a memory limit.

    Args:
        processes: how many clips are decoded at once.
        callers: how many threads call `read_frames`.
        frames: per clip.
        timeout: seconds that a clip may take.
    """

    def __init__(self, processes: int, callers: int, frames: int, timeout: float):
        self.timeout = timeout
        self.shape = (callers, frames, FRAME_SIZE, FRAME_SIZE, 3)
        # Started afresh, not forked: this process has threads, and its files are not theirs.
        spawn = multiprocessing.get_context("spawn")
        # Frames come back through shared memory: a pipe would copy each clip's megabytes twice.
        shared = spawn.RawArray("B", int(np.prod(self.shape)))
        self._slots = np.frombuffer(shared, np.uint8).reshape(self.shape)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(callers):
            self._free.put(slot)
        self._closed = False
        self._waited_for: set[pebble.ProcessFuture] = set()
        self._pool = pebble.ProcessPool(
            max_workers=processes,
            initializer=_start_decoder,
            initargs=(shared, self.shape, timeout),
            context=spawn,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._pool.stop()  # kills what is still decoding: nobody wants it any more
        self._pool.join()
        for future in list(self._waited_for):  # the pool forgets some that it had not begun
            future.cancel()

    def read_frames(self, path: Path) -> np.ndarray:
        """Return what `frames.read_frames` does; may be called from several threads.

        Raises:
            UnreadableClip: also for a clip that takes too long, too much memory, or its decoder
                down; the last is tried twice, since something else may have killed it.
        """
        slot = self._free.get()
        try:
            try:
                self._decode(path, slot)
            except pebble.ProcessExpired:
                self._decode(path, slot)
            return self._slots[slot].copy()
        except DecodingTimeout as error:
            raise UnreadableClip(
                f"it could not be read within {self.timeout:g} s (--clip-timeout)"
            ) from error
        except pebble.ProcessExpired as error:
            raise UnreadableClip(f"its decoder died ({_cause_of_death(error)})") from error
        finally:
            self._free.put(slot)

    def _decode(self, path: Path, slot: int) -> None:
        future = self._pool.schedule(_decode_into, args=(path, slot), timeout=self.timeout)
        self._waited_for.add(future)
        try:
            if self._closed:  # meanwhile
                future.cancel()
            future.result()
        finally:
            self._waited_for.discard(future)


def _cause_of_death(error: pebble.ProcessExpired) -> str:
    code = error.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


# What a decoder process works with: set once, when it starts.
_decoder: dict[str, Any] = {}


def _start_decoder(shared: Any, shape: tuple[int, ...], timeout: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, also in the middle of FFmpeg
    cv2.setNumThreads(1)  # the processes share the cores already
    slots = np.frombuffer(shared, np.uint8).reshape(shape)
    _decoder.update(slots=slots, seconds=int(timeout) + ORPHAN_GRACE)
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(MEMORY_LIMIT)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _decode_into(path: Path, slot: int) -> None:
    if hasattr(signal, "alarm"):
        # If the run itself is killed, nobody else ends a decoder that hangs.
        signal.alarm(_decoder["seconds"])
    slots = _decoder["slots"]
    try:
        slots[slot] = read_frames(path, slots.shape[1])
    except MemoryError as error:
        raise UnreadableClip(_too_large()) from error
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise UnreadableClip(_too_large()) from error
        raise UnreadableClip(f"OpenCV: {error.err or error}") from error
    except OSError as error:
        raise UnreadableClip(error.strerror or str(error)) from error
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _too_large() -> str:
    return f"decoding it needs more than {MEMORY_LIMIT / 2**30:.1f} GiB"


def decoder_count() -> int:
    """Return how many clips are decoded at once: as many as there are cores to run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
