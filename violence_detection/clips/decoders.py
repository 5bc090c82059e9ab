"""Frames of clips, read in processes beside this one: a clip may hang its decoder or bring it down.

FFmpeg is fed with what someone downloaded. A decoder that takes too long is killed, one that dies
is replaced, and one that would take gigabytes is refused them: in each case one clip is bad, and
the run goes on.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as DecodingTimeout
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pebble

from violence_detection.clips.frames import Times, UnreadableClip, read_timed_frames
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import open_video, video_info
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.settings.constants import FRAME_SIZE
from violence_detection.storage.files import file_checksum

MEMORY_LIMIT = 1.6 * 2**30  # bytes that decoding a clip may take, beside the program itself
ORPHAN_GRACE = 10  # seconds over the time limit after which a decoder ends itself
START = 30  # seconds that a process may take to start, on a machine that is busy

View = tuple[str, bool]  # a stream, and whether it is of the mirrored clip


class DecoderProcesses:
    """Processes that read clips, each under a time limit and a memory limit.

    Args:
        processes: how many clips are decoded at once.
        callers: how many threads call `read_images`.
        frames: per clip.
        timeout: seconds that a clip may take.
        views: of a clip that are asked for at once, at most.
    """

    def __init__(self, processes: int, callers: int, frames: int, timeout: float, views: int = 1):
        self.timeout = timeout
        self.shape = (callers, views, frames, FRAME_SIZE, FRAME_SIZE, 3)
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
        self._make_pool = partial(
            pebble.ProcessPool,
            max_workers=processes,
            initializer=_start_decoder,
            initargs=(shared, self.shape, timeout),
            context=spawn,
        )
        self._pool = self._make_pool()
        self._replacing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._replacing:
            self._closed = True
        self._pool.stop()  # kills what is still decoding: nobody wants it any more
        self._pool.join()
        for future in list(self._waited_for):  # the pool forgets some that it had not begun
            future.cancel()

    def read_images(self, path: Path, views: Sequence[View] = (("rgb", False),)) -> np.ndarray:
        """Return the images of `read_timed_images`."""
        return self.read_timed_images(path, views)[0]

    def read_timed_images(
        self, path: Path, views: Sequence[View] = (("rgb", False),)
    ) -> tuple[np.ndarray, Times]:
        """Return `(views, frames, 224, 224, 3)` uint8, and when each frame is shown, in seconds.

        It may be called from several threads.

        Args:
            views: of the clip's frames, as `streams.stream_images` makes them.

        Raises:
            UnreadableClip: also for a clip that takes too long, too much memory, or its decoder
                down; the last is tried twice, since something else may have killed it.
        """
        slot = self._free.get()
        try:
            times = self._call(_decode_into, path, slot, views)
            return self._slots[slot, : len(views)].copy(), times
        finally:
            self._free.put(slot)

    def checksum(self, path: Path) -> bytes:
        """Return `durable_files.file_checksum`, under the same limits: reading may hang, too."""
        return self._call(file_checksum, path)

    def aspect_ratio(self, path: Path) -> float:
        """Return the width of a clip's picture over its height, as it is to be shown.

        Raises:
            UnreadableClip: as `read_images` does; also where the file does not say.
        """
        return self._call(_aspect_ratio, path)

    def told_duration(self, path: Path) -> float | None:
        """Return the seconds that a clip lasts by what its file tells, which may be false.

        Raises:
            UnreadableClip: as `read_images` does.
        """
        return self._call(_told_duration, path)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `function` does in a decoder; twice if the decoder dies the first time."""
        try:
            try:
                return self._call_once(function, *arguments)
            except pebble.ProcessExpired:
                return self._call_once(function, *arguments)
        except DecodingTimeout as error:
            raise UnreadableClip(_too_slow(self.timeout)) from error
        except pebble.ProcessExpired as error:
            raise UnreadableClip(_died(error.exitcode)) from error

    def _call_once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        pool = self._pool
        try:
            with _interrupts_blocked():
                future = pool.schedule(_limited, args=(function, *arguments), timeout=self.timeout)
        except RuntimeError as error:  # a decoder was killed while it had nothing to do
            if self._closed:
                raise
            self._replace(pool)
            raise pebble.ProcessExpired("the pool is broken") from error
        self._waited_for.add(future)
        try:
            if self._closed:  # meanwhile
                future.cancel()
            return future.result()
        except BrokenProcessPool as error:
            self._replace(pool)
            raise pebble.ProcessExpired("the pool is broken") from error
        finally:
            self._waited_for.discard(future)

    def _replace(self, broken: pebble.ProcessPool) -> None:
        """Make a new pool in place of `broken`, unless another thread has."""
        with self._replacing:
            if self._pool is broken and not self._closed:
                broken.stop()
                broken.join()
                self._pool = self._make_pool()


def stream_from_process(
    function: Callable[..., Iterable[Any]], *arguments: Any, timeout: float, ahead: int
) -> Generator[Any, None, None]:
    """Yield what `function(*arguments)` yields, in a process of its own, under a decoder's limits.

    For what is too much to be read at once, as a long video is.

    Args:
        function: of a module that is quick to import; it yields anything but None.
        timeout: seconds that one item may take.
        ahead: how many items are made in advance.

    Raises:
        UnreadableClip: also for an item that takes too long or too much memory, or a process that
            died.
        OSError: the process met one.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(
        target=_send_all, args=(sender, timeout, ahead, function, arguments), daemon=True
    )
    with _interrupts_blocked():
        process.start()
    sender.close()  # this process's copy: else there would be no end when the other dies
    patience = timeout + START  # for the first item
    try:
        while (item := _received(receiver, process, patience, timeout)) is not None:
            if isinstance(item, Exception):
                raise item
            patience = timeout
            yield item
    finally:
        process.kill()
        process.join()
        receiver.close()


def _received(receiver: Connection, process: Any, patience: float, timeout: float) -> Any:
    """Return the next item; None after the last."""
    deadline = time.monotonic() + patience
    raise_if_interrupted()
    while not receiver.poll(0.1):
        raise_if_interrupted()
        if time.monotonic() > deadline:
            raise UnreadableClip(_too_slow(timeout))
    try:
        return receiver.recv()
    except EOFError as error:
        process.join()
        raise UnreadableClip(_died(process.exitcode)) from error


def _send_all(
    sender: Connection,
    timeout: float,
    ahead: int,
    function: Callable[..., Iterable[Any]],
    arguments: Sequence[Any],
) -> None:
    _start_process(timeout)
    made: queue.Queue[Any] = queue.Queue(ahead)

    def send() -> None:
        try:
            while True:
                item = made.get()
                sender.send(item)
                if item is None or isinstance(item, Exception):
                    os._exit(0)
        except OSError:  # nobody wants it any more
            os._exit(0)

    threading.Thread(target=send, daemon=True).start()
    try:
        with _memory_told():
            items = iter(function(*arguments))
            # Limited only while it is being made: it may wait long until it is wanted.
            while (item := _limited(next, items, None)) is not None:
                made.put(item)
        made.put(None)
    except (UnreadableClip, OSError) as error:
        made.put(error)
    threading.Event().wait()  # until all is sent


def _died(exit_code: int | None) -> str:
    code = exit_code or 0
    cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return f"its decoder died ({cause})"


def _too_slow(timeout: float) -> str:
    return f"it could not be read within {timeout:g} s (--clip-timeout)"


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C, here and so in the processes that are started: it is for this one to act on."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


# What a decoder process works with: set once, when it starts.
_decoder: dict[str, Any] = {}


def _start_decoder(shared: Any, shape: tuple[int, ...], timeout: float) -> None:
    _start_process(timeout)
    _decoder["slots"] = np.frombuffer(shared, np.uint8).reshape(shape)


def _start_process(timeout: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, also in the middle of FFmpeg
    cv2.setNumThreads(1)  # the processes share the cores already
    _decoder["seconds"] = int(timeout) + ORPHAN_GRACE
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(MEMORY_LIMIT)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _limited(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `function` does; if the run was killed, nobody else ends one that hangs."""
    signal.alarm(_decoder["seconds"])
    try:
        return function(*arguments)
    finally:
        signal.alarm(0)


def _decode_into(path: Path, slot: int, views: Sequence[View]) -> Times:
    images = _decoder["slots"][slot]
    with _memory_told():
        frames, times = read_timed_frames(path, images.shape[1])
        for place, (stream, flipped) in enumerate(views):
            images[place] = stream_images(frames, stream, flipped)
    return times


@contextlib.contextmanager
def _memory_told() -> Iterator[None]:
    """Raise `UnreadableClip` for memory that a clip may not have, and for what OpenCV refuses."""
    try:
        yield
    except MemoryError as error:
        raise UnreadableClip(_too_large()) from error
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise UnreadableClip(_too_large()) from error
        raise UnreadableClip(f"OpenCV: {error.err or error}") from error


def _aspect_ratio(path: Path) -> float:
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    width, height = map(capture.get, (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    # Of one pixel; where it is not known, it is square.
    wide, high = (capture.get(side) or 1.0 for side in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
    capture.release()
    if not width * height > 0:
        raise UnreadableClip("its width and height are not known")
    return width * wide / (height * high)


def _told_duration(path: Path) -> float | None:
    video = open_video(path)
    duration = video_info(video).duration
    video.release()
    return duration


def _too_large() -> str:
    return f"decoding it needs more than {MEMORY_LIMIT / 2**30:.1f} GiB"


def decoder_count() -> int:
    """Return how many clips are decoded at once: as many as there are cores to run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
