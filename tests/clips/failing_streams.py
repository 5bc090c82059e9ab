"""What a decoder's process yields before it fails; quick to import, as every process does it."""

import os
import signal
import time
from collections.abc import Iterator

import numpy as np

from violence_detection.clips.video import UnreadableClip


def count_and_fail(last: int, then: str = "") -> Iterator[int]:
    """Yield numbers, then fail as a decoder may."""
    yield from range(last)
    if then == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if then == "hang":
        time.sleep(100)
    if then == "unreadable":
        raise UnreadableClip("no frame can be decoded")
    if then == "huge":
        np.ones(2**29)  # 4 GiB


def count_slowly(last: int) -> Iterator[int]:
    """Yield numbers, each after a tenth of a second."""
    for number in range(last):
        time.sleep(0.1)
        yield number
