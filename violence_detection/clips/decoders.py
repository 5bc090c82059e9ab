"""Clips are decoded in other processes: a clip may hang its decoder or crash it.

FFmpeg is fed with files from anywhere. A decoder that takes too long is killed, one that dies is
replaced, and one that would take gigabytes is refused them: in each case one clip is unreadable,
and the run continues.
"""

import contextlib
import logging
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
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import av
import cv2
import numpy as np
import pebble

from violence_detection.clips.cancellation import Cancellation
from violence_detection.clips.clip import Segment
from violence_detection.clips.ffmpeg_log import FFmpegMessages
from violence_detection.clips.frames import ClipInfo, read_clip
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import UnreadableClip, last_time, reported_duration
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.settings.constants import FRAME_SIZE
from violence_detection.storage.files import file_checksum

log = logging.getLogger(__name__)

TIDIES_UP = "ignore:resource_tracker:UserWarning"  # as Python's -W takes it
MEMORY_LIMIT = 1.6 * 2**30  # bytes for decoding a clip, on top of the program itself
ORPHAN_GRACE = 10  # seconds past the time limit after which a decoder ends itself
START_TIMEOUT = 30  # seconds for a process to start, on a busy machine

View = tuple[str, bool]  # a stream, and whether the clip is mirrored


class DecoderProcesses:
    """Processes that decode clips, each under a time limit and a memory limit.

    Args:
        processes: how many clips are decoded at once.
        callers: how many threads call the methods.
        frames: of each clip.
        timeout: seconds that a clip may take.
        views: of a clip that are requested at once, at most.
    """

    def __init__(self, processes: int, callers: int, frames: int, timeout: float, views: int = 1):
        self.timeout = timeout
        self.shape = (callers, views, frames, FRAME_SIZE, FRAME_SIZE, 3)
        # Spawned, not forked: a fork would inherit open files and the locks of other threads.
        spawn = multiprocessing.get_context("spawn")
        # Frames return through shared memory: a pipe would copy each clip's megabytes twice.
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
            initargs=(shared, self.shape),
            context=spawn,
        )
        self._pool = self._make_pool()
        self._replacing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._replacing:
            self._closed = True
        self._pool.stop()  # kills the decoders, whatever they are doing
        self._pool.join()
        for future in list(self._waited_for):  # the pool forgets some that had not started
            future.cancel()

    def read_images(self, path: Path, views: Sequence[View] = (("rgb", False),)) -> np.ndarray:
        """Return the images of `read_clip` alone."""
        return self.read_clip(path, views)[0]

    def read_clip(
        self,
        path: Path,
        views: Sequence[View] = (("rgb", False),),
        segment: Segment | None = None,
        cancellation: Cancellation | None = None,
    ) -> tuple[np.ndarray, ClipInfo]:
        """Return a clip's frames in one or several views. Thread-safe.

        Args:
            path: the video file.
            views: see `streams.stream_images`.
            segment: of the video; None: all of it.
            cancellation: ends it; None: nobody does.

        Returns:
            `(views, frames, 224, 224, 3)` uint8, and what the clip is like.

        Raises:
            UnreadableClip: also for a clip that takes too much time or memory, or crashes its
                decoder twice; the first crash may have had another cause.
            OSError: the file cannot be read.
            Cancelled: it was cancelled.
        """
        slot = self._free.get()
        try:
            info = self._call(_decode_into, path, slot, views, segment, cancellation=cancellation)
            return self._slots[slot, : len(views)].copy(), info
        finally:
            self._free.put(slot)

    def checksum(self, path: Path) -> bytes:
        """Return `storage.files.file_checksum`, under the same limits: reading may hang, too."""
        return self._call(file_checksum, path)

    def reported_duration(
        self, path: Path, cancellation: Cancellation | None = None
    ) -> float | None:
        """Return `video.reported_duration`; raises as `read_clip` does."""
        return self._call(reported_duration, path, cancellation=cancellation)

    def last_time(self, path: Path) -> float | None:
        """Return `video.last_time`; raises as `read_clip` does."""
        return self._call(last_time, path)

    def _call(
        self,
        function: Callable[..., Any],
        path: Path,
        *arguments: Any,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """Call a function in a decoder; once more if the decoder dies the first time."""
        cancellation = cancellation or Cancellation()
        try:
            try:
                answer = self._call_once(cancellation, function, path, *arguments)
            except pebble.ProcessExpired:
                answer = self._call_once(cancellation, function, path, *arguments)
        except DecodingTimeout as error:
            raise UnreadableClip(_too_slow(self.timeout)) from error
        except pebble.ProcessExpired as error:
            raise UnreadableClip(_died(error.exitcode)) from error
        log_messages(path, answer.messages)
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _call_once(
        self, cancellation: Cancellation, function: Callable[..., Any], *arguments: Any
    ) -> "_Answer":
        pool = self._pool
        try:
            with _interrupts_blocked():
                future = pool.schedule(
                    _answer, args=(self.timeout, function, *arguments), timeout=self.timeout
                )
        except RuntimeError as error:  # a decoder was killed while it was idle
            if self._closed:
                raise
            self._replace(pool)
            raise pebble.ProcessExpired("the pool is broken") from error
        self._waited_for.add(future)
        try:
            if self._closed:  # by another thread, in the meantime
                future.cancel()
            with cancellation.stopping(future.cancel):  # kills the decoder
                return future.result()
        except BrokenProcessPool as error:
            self._replace(pool)
            raise pebble.ProcessExpired("the pool is broken") from error
        finally:
            self._waited_for.discard(future)

    def _replace(self, broken: pebble.ProcessPool) -> None:
        """Replace a broken pool, unless another thread has."""
        with self._replacing:
            if self._pool is broken and not self._closed:
                broken.stop()
                broken.join()
                self._pool = self._make_pool()


def stream_from_process(
    function: Callable[..., Iterable[Any]],
    *arguments: Any,
    timeout: float,
    ahead: int,
    in_all: bool = False,
    cancellation: Cancellation | None = None,
) -> Generator[Any, None, None]:
    """Yield what `function(*arguments)` yields, from a process under a decoder's limits.

    For what is too much to be read at once, such as a long video.

    Args:
        function: of a module that is quick to import; it yields anything but None.
        *arguments: of `function`; the first one is what is read.
        timeout: seconds that one item may take.
        ahead: how many items are made in advance.
        in_all: the time limit is for all items together.
        cancellation: kills the process; None: nobody does.

    Raises:
        UnreadableClip: also for an item that takes too much time or memory, or a process that
            died.
        OSError: raised by `function`.
        Interrupted: a signal arrived while waiting.
        Cancelled: it was cancelled.
    """
    cancellation = cancellation or Cancellation()
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(
        target=_send_all, args=(sender, timeout, in_all, ahead, function, arguments), daemon=True
    )
    with _interrupts_blocked():
        process.start()
    sender.close()  # this process's copy: or the pipe would stay open when the other one dies
    patience = timeout + START_TIMEOUT  # for the first item
    try:
        while True:
            with cancellation.stopping(process.kill):
                item = _received(receiver, process, patience, timeout)
            if item is None:
                break
            if isinstance(item, Exception):
                raise item
            if isinstance(item, _Messages):
                log_messages(arguments[0], item.lines)
                continue
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
    in_all: bool,
    ahead: int,
    function: Callable[..., Iterable[Any]],
    arguments: Sequence[Any],
) -> None:
    _start_process()
    made: queue.Queue[Any] = queue.Queue(ahead)

    def send() -> None:
        try:
            while True:
                item = made.get()
                sender.send(item)
                if item is None or isinstance(item, Exception):
                    os._exit(0)
        except OSError:  # nobody is receiving any more
            os._exit(0)

    threading.Thread(target=send, daemon=True).start()
    try:
        with _explaining_errors():
            items, left = iter(function(*arguments)), timeout
            # The limit is for making an item: it may then wait for long.
            began = time.monotonic()
            while (item := _limited(timeout, next, items, None)) is not None:
                left -= time.monotonic() - began if in_all else 0
                if left < 0:
                    raise UnreadableClip(_too_slow(timeout))
                made.put(item)
                began = time.monotonic()
                if messages := _ffmpeg.take():
                    made.put(_Messages(messages))
        made.put(_Messages(_ffmpeg.take()))
        made.put(None)
    except (UnreadableClip, OSError) as error:
        made.put(_Messages(_ffmpeg.take()))
        made.put(error)
    threading.Event().wait()  # until `send` ends the process


class _Messages(NamedTuple):
    """What FFmpeg had to say."""

    lines: list[str]


def log_messages(source: object, messages: Sequence[str]) -> None:
    """Log what FFmpeg said while it read a source: a path, or an object with a `display_name`."""
    for message in messages:
        name = getattr(source, "display_name", source)  # an address may contain a password
        log.debug("%s: FFmpeg: %s", name, message.strip())


def _died(exit_code: int | None) -> str:
    code = exit_code or 0
    cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return f"the decoder died ({cause})"


def _too_slow(timeout: float) -> str:
    return f"could not be read within {timeout:g} s (--clip-timeout)"


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C here, and so in the processes that are started: only this one acts on it."""
    # Python's own process for what others share lifts the block when it is started. If this one is
    # ended as it stands, it tidies up; that it did would stand below the shell's prompt.
    sys.warnoptions.append(TIDIES_UP)
    resource_tracker.ensure_running()
    sys.warnoptions.remove(TIDIES_UP)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


# Only in a decoder process: the shared memory for its images, set when it starts, and what FFmpeg
# has said.
_process_slots: list[np.ndarray] = []
_ffmpeg = FFmpegMessages()


def _start_decoder(shared: Any, shape: tuple[int, ...]) -> None:
    _start_process()
    _process_slots[:] = np.frombuffer(shared, np.uint8).reshape(shape)


def _start_process() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends it at once, even inside FFmpeg
    cv2.setNumThreads(1)  # the processes share the cores already
    _ffmpeg.start()
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(MEMORY_LIMIT)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _limited(timeout: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function under an alarm: if the run was killed, nobody else ends one that hangs."""
    signal.alarm(int(timeout) + ORPHAN_GRACE)
    try:
        return function(*arguments)
    finally:
        signal.alarm(0)


class _Answer(NamedTuple):
    """What a call in a decoder process has come to."""

    result: Any
    error: Exception | None
    messages: list[str]


def _answer(timeout: float, function: Callable[..., Any], *arguments: Any) -> _Answer:
    """Call a function under an alarm; return its result or its error with FFmpeg's messages."""
    result, error = None, None
    try:
        result = _limited(timeout, function, *arguments)
    except (UnreadableClip, OSError) as unreadable:
        error = unreadable
    return _Answer(result, error, _ffmpeg.take())


def _decode_into(path: Path, slot: int, views: Sequence[View], segment: Segment | None) -> ClipInfo:
    images = _process_slots[slot]
    with _explaining_errors():
        frames, info = read_clip(path, images.shape[1], segment)
        for index, (stream, flipped) in enumerate(views):
            images[index] = stream_images(frames, stream, flipped)
    return info


@contextlib.contextmanager
def _explaining_errors() -> Iterator[None]:
    """Raise `UnreadableClip` for a clip that needs too much memory, or is refused by a library."""
    try:
        yield
    except MemoryError as error:
        raise UnreadableClip(_too_large()) from error
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise UnreadableClip(_too_large()) from error
        raise UnreadableClip(f"OpenCV: {error.err or error}") from error
    except av.FFmpegError as error:  # which may not survive the way to another process
        raise UnreadableClip(f"FFmpeg: {error.strerror or error}") from error


def _too_large() -> str:
    return f"decoding needs more than {MEMORY_LIMIT / 2**30:.1f} GiB of memory"


def decoder_count() -> int:
    """Return how many clips are decoded at once: the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
