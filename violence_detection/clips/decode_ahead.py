"""Clips decoded in advance, while the caller computes."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from violence_detection.clips.decoders import DecoderProcesses, decoder_count
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.stage_clock import FRAMES, NETWORK, StageClock

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")


def decode_ahead(
    items: Iterable[Item],
    decode: Callable[[DecoderProcesses, Item], Decoded],
    frames: int,
    views: int,
    ahead: int,
    timeout: float,
    clock: StageClock,
) -> Generator[Decoded, None, None]:
    """Yield `decode(decoders, item)` for each item, in order, computed in advance.

    Args:
        items: taken one by one, as there is room for them.
        decode: called from several threads; returns an error that concerns its item alone.
        frames: of a clip, see `DecoderProcesses`.
        views: of a clip at most, see `DecoderProcesses`.
        ahead: how many items may be decoded in advance.
        timeout: seconds that a clip may take.
        clock: counts the time spent waiting for frames, and the time in between.

    Raises:
        Interrupted: a signal arrived while waiting.
        Exception: whatever `decode` raises; the remaining items are dropped.
    """
    processes = decoder_count()
    callers = processes + 1  # one clip is handed over while every process decodes another
    decoders = DecoderProcesses(processes, callers, frames, timeout, views)
    waiting: deque[Future[Decoded]] = deque()
    # On an error the processes are stopped first: the threads wait for them.
    with ThreadPoolExecutor(callers, thread_name_prefix="decoder") as threads, decoders:
        try:
            for item in items:
                waiting.append(threads.submit(decode, decoders, item))
                if len(waiting) >= ahead:
                    yield _result(waiting.popleft(), clock)
            while waiting:
                yield _result(waiting.popleft(), clock)
        finally:
            for future in waiting:
                future.cancel()


def _result(future: Future[Decoded], clock: StageClock) -> Decoded:
    """Wait for a result; a signal ends the wait."""
    clock.begin(FRAMES)
    while True:
        raise_if_interrupted()
        with contextlib.suppress(TimeoutError):
            decoded = future.result(timeout=0.1)
            clock.begin(NETWORK)
            return decoded
