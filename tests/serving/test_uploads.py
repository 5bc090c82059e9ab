import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from violence_detection.commands.serve import CAPTURE_OPTIONS
from violence_detection.errors import RunError
from violence_detection.serving.problems import Problem
from violence_detection.serving.uploads import (
    FORM_BYTES,
    HEAD_BYTES,
    is_video,
    new_upload,
    receive_video,
    upload_folder,
)

CONTAINERS = {  # and a coding that OpenCV can write into it
    **{"mp4": "mp4v", "mov": "mp4v", "m4v": "mp4v", "mkv": "mp4v", "webm": "VP80"},
    **{"avi": "MJPG", "flv": "FLV1", "wmv": "WMV2", "mpg": "PIM1", "ts": "mp4v"},
}
TYPE = "multipart/form-data; boundary=x"
HEAD = b'--x\r\nContent-Disposition: form-data; name="video"\r\n\r\n'
END = b"\r\n--x--\r\n"
CLIP = b"\0\0\0\x20ftypisom" + bytes(5000)


@pytest.mark.parametrize("container", CONTAINERS)
def test_videos_of_all_containers_pass_and_are_opened(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"clip.{container}"
    code = cv2.VideoWriter.fourcc(*CONTAINERS[container])
    writer = cv2.VideoWriter(str(path), code, 25, (320, 240))
    for grey in range(5):
        writer.write(np.full((240, 320, 3), 40 * grey, np.uint8))
    writer.release()
    assert is_video(path.read_bytes()[:HEAD_BYTES])
    assert opened(path.rename(tmp_path / "upload"))  # its name tells nothing


def opened(path: Path) -> bool:
    """Return whether a decoder of the server opens a file."""
    program = "import cv2, sys; print(cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG).isOpened())"
    environment = {**os.environ, "OPENCV_FFMPEG_CAPTURE_OPTIONS": CAPTURE_OPTIONS}
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile clip.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        "<?xml version='1.0'?><MPD><Period></Period></MPD>",
        "\x89PNG\r\n\x1a\n",
        "",
    ],
)
def test_what_names_other_files_or_hosts_is_neither_taken_nor_opened(
    tmp_path: Path, drawn_clips: Path, content: str
) -> None:
    clip = drawn_clips / "test" / "violent" / "violent0.mp4"
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    path = tmp_path / "clip.m3u8"
    path.write_text(content, encoding="latin-1")
    assert not is_video(path.read_bytes()[:HEAD_BYTES])
    assert not opened(path)


async def sent(*chunks: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(pause)
        yield chunk


def receive(path: Path, body: AsyncIterator[bytes], **limits: Any) -> int:
    given = {"max_bytes": 10_000, "stalled": 10, "timeout": 10, "content_length": None, **limits}
    return asyncio.run(receive_video(body, TYPE, path=path, **given))


@pytest.mark.parametrize("size", [1, 2, 7, 512, 100_000])
def test_clip_arrives_as_it_was_sent_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    clip = CLIP + b"\r\n--x\r--x-" + bytes(range(256))
    other = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    form = other + HEAD + clip + END
    chunks = [form[begin : begin + size] for begin in range(0, len(form), size)]
    assert receive(tmp_path / "clip", sent(*chunks)) == len(clip)
    assert (tmp_path / "clip").read_bytes() == clip


@pytest.mark.parametrize(
    ("chunks", "limits", "status"),
    [
        ([HEAD, CLIP, CLIP, END], {}, 413),
        ([HEAD, CLIP, END], {"content_length": str(10_000 + FORM_BYTES + 1)}, 413),
        ([HEAD, CLIP, END], {"content_length": "9" * 20}, 413),
        ([bytes(FORM_BYTES), HEAD, CLIP, END], {}, 400),
        ([HEAD, CLIP, b"\r\n--x\r\n\r\n", *[bytes(9000)] * 9], {}, 413),
    ],
)
def test_more_than_is_allowed_is_refused_before_all_of_it_has_come(
    tmp_path: Path, chunks: list[bytes], limits: dict[str, Any], status: int
) -> None:
    taken = []

    async def body() -> AsyncIterator[bytes]:
        for chunk in [*chunks, *[bytes(10_000)] * 99]:
            taken.append(chunk)
            yield chunk

    with pytest.raises(Problem) as refused:
        receive(tmp_path / "clip", body(), **limits)
    assert refused.value.status == status
    assert len(taken) <= len(chunks)
    path = tmp_path / "clip"
    assert not path.exists() or path.stat().st_size <= 10_000


def test_upload_that_comes_too_slowly_is_ended(tmp_path: Path) -> None:
    chunks = [HEAD, CLIP[:600], *[b"x"] * 1000]
    for number, limits in enumerate(({"stalled": 0.05}, {"timeout": 0.5})):
        with pytest.raises(Problem, match="too slowly") as refused:
            receive(tmp_path / str(number), sent(*chunks, pause=0.1), **limits)
        assert refused.value.status == 408


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_has_no_room_is_told_as_a_reason_to_come_back(tmp_path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(Problem, match="no room") as refused:
        receive(tmp_path / "clip", sent(HEAD, CLIP, END))
    assert refused.value.status == 503
    assert int(refused.value.headers["Retry-After"]) > 0


def test_file_of_an_upload_is_removed_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_upload(tmp_path) as path:
        path.touch()
        raise KeyError
    with new_upload(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_is_cleared_of_what_dead_servers_left_and_of_nothing_else(tmp_path: Path) -> None:
    with upload_folder(tmp_path) as one:
        (one / "clip").touch()
        left = one.parent / "left"
        left.mkdir()
        (left / "clip").touch()
        with upload_folder(tmp_path) as other:
            assert other != one
            assert not left.exists()
            assert (one / "clip").exists()
            assert other.stat().st_mode & 0o077 == 0
        assert not other.exists()
        assert one.exists()
    assert not one.exists()


def test_folder_that_somebody_else_has_made_is_refused(tmp_path: Path) -> None:
    with upload_folder(tmp_path) as folder:
        ours = folder.parent
    ours.rename(tmp_path / "elsewhere")
    ours.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="TMPDIR"), upload_folder(tmp_path):
        pass
    ours.unlink()
    ours.touch()
    with pytest.raises(RunError, match="TMPDIR"), upload_folder(tmp_path):
        pass
