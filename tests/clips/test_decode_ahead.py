import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips.decode_ahead import decode_ahead
from violence_detection.clips.decoders import DecoderProcesses
from violence_detection.clips.frames import read_frames
from violence_detection.runtime.stage_clock import StageClock

FRAMES = 4


def test_clips_come_in_order(drawn_clips: Path) -> None:
    paths = sorted(drawn_clips.rglob("*.mp4"))

    def decode(decoders: DecoderProcesses, path: Path) -> tuple[Path, np.ndarray]:
        return path, decoders.read_images(path)

    decoded = [*decode_ahead(paths, decode, FRAMES, 1, 3, 60, StageClock())]
    assert [path for path, _ in decoded] == paths
    for path, images in decoded[:3]:
        np.testing.assert_array_equal(images, [read_frames(path, FRAMES)])


def test_items_are_taken_only_as_there_is_room_for_them() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    ahead = 5
    results = decode_ahead(items(), lambda decoders, item: item, FRAMES, 1, ahead, 60, StageClock())
    for number in range(20):
        assert next(results) == number
        assert len(taken) <= number + ahead
    results.close()
    assert len(taken) < 100


def test_error_ends_it_and_drops_what_is_left() -> None:
    started = threading.Semaphore(0)

    def decode(decoders: DecoderProcesses, item: int) -> int:
        started.release()
        if item == 2:
            raise ValueError("item 2")
        return item

    results = decode_ahead(range(100), decode, FRAMES, 1, 4, 60, StageClock())
    with pytest.raises(ValueError, match="item 2"):
        list(results)
    count = 0
    while started.acquire(blocking=False):
        count += 1
    assert count < 100
