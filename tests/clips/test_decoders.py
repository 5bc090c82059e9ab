"""Clips that hang their decoder, crash it, or need too much memory."""

import contextlib
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from tests.clips.failing_streams import count_and_fail, count_slowly
from tests.conftest import ROOT, write_hanging_clip
from tests.waiting import wait_until
from violence_detection.clips.cancellation import Cancellation, Cancelled
from violence_detection.clips.decoders import DecoderProcesses, stream_from_process
from violence_detection.clips.frames import read_frames
from violence_detection.clips.video import UnreadableClip

FRAMES = 4


@pytest.fixture
def good_clip(drawn_clips: Path) -> Path:
    return drawn_clips / "train" / "violent" / "violent0.mp4"


@pytest.fixture
def hanging_clip(tmp_path: Path) -> Path:
    """Return a clip that FFmpeg reads for hours."""
    return write_hanging_clip(tmp_path / "hanging.mp4")


@pytest.fixture
def decoders() -> Iterator[DecoderProcesses]:
    with DecoderProcesses(processes=1, callers=2, frames=FRAMES, timeout=2) as decoders:
        yield decoders


def test_frames_are_those_of_the_clip(decoders: DecoderProcesses, drawn_clips: Path) -> None:
    paths = sorted(drawn_clips.rglob("*.mp4"))
    with ThreadPoolExecutor(2) as threads:
        for path, frames in zip(paths, threads.map(decoders.read_images, paths), strict=True):
            np.testing.assert_array_equal(frames, [read_frames(path, FRAMES)])


def test_clip_that_hangs_is_unreadable_and_the_next_one_is_read(
    decoders: DecoderProcesses, hanging_clip: Path, good_clip: Path
) -> None:
    with pytest.raises(UnreadableClip, match=r"within 2 s \(--clip-timeout\)"):
        decoders.read_images(hanging_clip)
    np.testing.assert_array_equal(decoders.read_images(good_clip), [read_frames(good_clip, FRAMES)])


def test_clip_that_crashes_its_decoder_twice_is_unreadable(
    hanging_clip: Path, good_clip: Path
) -> None:
    def is_read() -> bool:
        with contextlib.suppress(psutil.Error):
            return any(
                file.path == str(hanging_clip)
                for process in multiprocessing.active_children()
                for file in psutil.Process(process.pid).open_files()
            )
        return False

    def crash_decoder() -> None:
        wait_until(is_read)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGSEGV)
            process.join(60)

    with DecoderProcesses(1, 2, FRAMES, timeout=100) as decoders, ThreadPoolExecutor(1) as thread:
        reading = thread.submit(decoders.read_images, hanging_clip)
        crash_decoder()
        assert not reading.done(), "the first crash may have another cause: the clip is retried"
        crash_decoder()
        with pytest.raises(UnreadableClip, match=r"decoder died \(SIGSEGV\)"):
            reading.result(60)
        frames = decoders.read_images(good_clip)
    np.testing.assert_array_equal(frames, [read_frames(good_clip, FRAMES)])


def black_png(side: int) -> bytes:
    """Return a square PNG image with transparency; FFmpeg would take 20 s for a large one."""
    compressor = zlib.compressobj(1)
    row = bytes(1 + 4 * side)
    pixels = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": pixels, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def test_clip_that_needs_gigabytes_is_unreadable(tmp_path: Path, good_clip: Path) -> None:
    side = 16000  # 1 GB as a frame, 768 MB as an image; FFmpeg refuses more
    image = black_png(side)
    clip = tmp_path / "huge.avi"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("png", rate=5)
        stream.width = stream.height = side
        stream.pix_fmt = "rgba"
        for number in range(2):
            packet = av.Packet(image)
            packet.stream = stream
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 5)
            packet.is_keyframe = True
            container.mux(packet)
    with DecoderProcesses(1, 2, FRAMES, timeout=100) as decoders:
        with pytest.raises(UnreadableClip, match=r"needs more than 1\.6 GiB"):
            decoders.read_images(clip)
        decoders.read_images(good_clip)


def test_closing_does_not_wait_for_a_clip_that_hangs(hanging_clip: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        with DecoderProcesses(1, 2, FRAMES, timeout=100) as decoders:
            readings = [threads.submit(decoders.read_images, hanging_clip) for _ in range(2)]
            wait_until(multiprocessing.active_children)
            began = time.monotonic()
        for reading in readings:
            assert reading.exception(60) is not None
    assert time.monotonic() - began < 30


def test_clip_that_nobody_waits_for_any_more_is_cancelled(
    hanging_clip: Path, good_clip: Path
) -> None:
    cancellation = Cancellation()
    with DecoderProcesses(1, 2, FRAMES, timeout=100) as decoders, ThreadPoolExecutor(1) as thread:
        reading = thread.submit(decoders.read_clip, hanging_clip, cancellation=cancellation)
        wait_until(multiprocessing.active_children)
        cancellation.cancel()
        with pytest.raises(Cancelled):
            reading.result(30)
        with pytest.raises(Cancelled):  # also what it would go on with
            decoders.read_clip(good_clip, cancellation=cancellation)
        frames = decoders.read_images(good_clip)
    np.testing.assert_array_equal(frames, [read_frames(good_clip, FRAMES)])


def test_stream_that_nobody_waits_for_any_more_is_cancelled() -> None:
    cancellation = Cancellation()
    numbers = stream_from_process(
        count_and_fail, 1, "hang", timeout=100, ahead=3, cancellation=cancellation
    )
    assert next(numbers) == 0
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, numbers)
        cancellation.cancel()
        with pytest.raises(Cancelled):
            waiting.result(30)
    assert not multiprocessing.active_children()


def test_time_limit_for_all_items_together() -> None:
    with pytest.raises(UnreadableClip, match="within 1 s"):
        list(stream_from_process(count_slowly, 100, timeout=1, ahead=200, in_all=True))


def test_decoder_that_was_killed_while_idle_is_replaced(
    decoders: DecoderProcesses, good_clip: Path
) -> None:
    expected = [read_frames(good_clip, FRAMES)]
    for _ in range(2):
        np.testing.assert_array_equal(decoders.read_images(good_clip), expected)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)


def test_checksum_of_a_pipe_times_out(decoders: DecoderProcesses, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UnreadableClip, match="within 2 s"):
        decoders.checksum(tmp_path / "pipe.mp4")
    with pytest.raises(FileNotFoundError):
        decoders.checksum(tmp_path / "nothing.mp4")


def test_stream_yields_everything_in_order() -> None:
    assert list(stream_from_process(count_and_fail, 50, timeout=20, ahead=3)) == list(range(50))


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("crash", r"decoder died \(SIGSEGV\)"),
        ("hang", r"within 1 s"),
        ("unreadable", "no frame can be decoded"),
        ("huge", "needs more than"),
    ],
)
def test_stream_that_fails_yields_what_it_had_and_raises_the_reason(then: str, reason: str) -> None:
    received = []
    with pytest.raises(UnreadableClip, match=reason):
        for number in stream_from_process(count_and_fail, 5, then, timeout=1, ahead=3):
            received.append(number)
    # A crash loses what was not sent yet.
    assert received == list(range(len(received) if then == "crash" else 5))
    assert not multiprocessing.active_children()


def test_stream_has_no_time_limit_while_nobody_reads_it() -> None:
    stream = stream_from_process(count_and_fail, 50, timeout=1, ahead=2)
    assert next(stream) == 0
    time.sleep(1.5)  # more than the time limit
    assert next(stream) == 1
    stream.close()
    assert not multiprocessing.active_children()


def test_process_that_ends_as_it_stands_leaves_no_words_of_python(drawn_clips: Path) -> None:
    clip = next(drawn_clips.glob("*/*/*.mp4"))
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from violence_detection.clips.decoders import DecoderProcesses\n"
        "if __name__ == '__main__':\n"
        "    with DecoderProcesses(1, 1, 4, 60.0) as decoders:\n"
        "        decoders.read_clip(Path(sys.argv[1]))\n"
        "        os._exit(0)\n"
    )
    command = [sys.executable, "-c", program, str(clip)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
