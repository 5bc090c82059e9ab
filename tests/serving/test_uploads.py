import asyncio
import contextlib
import dataclasses
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.clips.videos import frame_numbers, grey, write_clip
from tests.serving.http import LIMITS
from violence_detection.clips.frames import read_frames
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RunError
from violence_detection.serving.problems import Problem
from violence_detection.serving.uploads import (
    HEAD_BYTES,
    MAX_FORM_OVERHEAD,
    is_video,
    new_upload,
    receive_video,
    upload_folder,
)

CONTAINERS = {  # and a codec that fits into it
    **dict.fromkeys(("mp4", "mov", "mkv", "ts", "m2ts", "3gp", "h264"), "libx264"),
    **dict.fromkeys(("mpg", "vob", "mxf"), "mpeg2video"),
    **{"m4v": "mpeg4", "avi": "mpeg4", "flv": "flv1", "wmv": "wmv2", "webm": "libvpx"},
}
TYPE = "multipart/form-data; boundary=x"
HEAD = b'--x\r\nContent-Disposition: form-data; name="video"\r\n\r\n'
END = b"\r\n--x--\r\n"
CLIP = b"\0\0\0\x20ftypisom" + bytes(5000)


@pytest.mark.parametrize("container", CONTAINERS)
def test_videos_in_all_containers_are_accepted_and_decoded(tmp_path: Path, container: str) -> None:
    images = [grey(number) for number in range(25)]
    path = write_clip(tmp_path / f"clip.{container}", images, codec=CONTAINERS[container])
    assert is_video(path.read_bytes()[:HEAD_BYTES])
    uploaded = path.rename(tmp_path / "upload")  # without a suffix
    assert frame_numbers(read_frames(uploaded, 4)) == pytest.approx([0, 8, 16, 24], abs=1)


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
def test_files_that_refer_to_other_files_are_neither_accepted_nor_opened(
    tmp_path: Path, drawn_clips: Path, content: str
) -> None:
    clip = drawn_clips / "test" / "violent" / "violent0.mp4"
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    path = tmp_path / "clip.m3u8"
    path.write_text(content, encoding="latin-1")
    assert not is_video(path.read_bytes()[:HEAD_BYTES])
    with pytest.raises(UnreadableClip, match=r"not a video|empty"):
        read_frames(path.rename(tmp_path / "upload"), 4)


async def sent(*chunks: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(pause)
        yield chunk


def receive(
    path: Path, body: AsyncIterator[bytes], content_length: str | None = None, **changed: float
) -> int:
    limits = dataclasses.replace(LIMITS, max_upload=10_000, **changed)
    return asyncio.run(receive_video(body, TYPE, content_length, path, limits))


@pytest.mark.parametrize("size", [1, 2, 7, 512, 100_000])
def test_clip_is_stored_as_sent_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    clip = CLIP + b"\r\n--x\r--x-" + bytes(range(256))
    other = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    form = other + HEAD + clip + END
    chunks = [form[begin : begin + size] for begin in range(0, len(form), size)]
    assert receive(tmp_path / "clip", sent(*chunks)) == len(clip)
    assert (tmp_path / "clip").read_bytes() == clip


@pytest.mark.parametrize(
    ("chunks", "content_length", "status"),
    [
        ([HEAD, CLIP, CLIP, END], None, 413),
        ([HEAD, CLIP, END], str(10_000 + MAX_FORM_OVERHEAD + 1), 413),
        ([HEAD, CLIP, END], "9" * 20, 413),
        ([bytes(MAX_FORM_OVERHEAD), HEAD, CLIP, END], None, 400),
        ([HEAD, CLIP, b"\r\n--x\r\n\r\n", *[bytes(9000)] * 9], None, 413),
    ],
)
def test_too_large_an_upload_is_refused_before_its_end(
    tmp_path: Path, chunks: list[bytes], content_length: str | None, status: int
) -> None:
    taken = []

    async def body() -> AsyncIterator[bytes]:
        for chunk in [*chunks, *[bytes(10_000)] * 99]:
            taken.append(chunk)
            yield chunk

    with pytest.raises(Problem) as refused:
        receive(tmp_path / "clip", body(), content_length)
    assert refused.value.status == status
    assert len(taken) <= len(chunks)
    path = tmp_path / "clip"
    assert not path.exists() or path.stat().st_size <= 10_000


@pytest.mark.parametrize("limit", ["stall_timeout", "upload_timeout"])
def test_slow_upload_is_refused(tmp_path: Path, limit: str) -> None:
    chunks = [HEAD, CLIP[:600], *[b"x"] * 1000]
    with pytest.raises(Problem, match="too slow") as refused:
        receive(tmp_path / "clip", sent(*chunks, pause=0.1), **{limit: 0.05})
    assert refused.value.status == 408


@contextlib.contextmanager
def max_file_size(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_a_reason_to_retry(tmp_path: Path) -> None:
    with max_file_size(1000), pytest.raises(Problem, match="cannot store") as refused:
        receive(tmp_path / "clip", sent(HEAD, CLIP, END))
    assert refused.value.status == 503
    assert int(refused.value.headers["Retry-After"]) > 0


def test_upload_is_deleted_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_upload(tmp_path) as path:
        path.touch()
        raise KeyError
    with new_upload(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_of_dead_servers_are_removed_and_no_others(tmp_path: Path) -> None:
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


def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    with upload_folder(tmp_path) as folder:
        shared = folder.parent
    shared.rename(tmp_path / "elsewhere")
    shared.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="TMPDIR"), upload_folder(tmp_path):
        pass
    shared.unlink()
    shared.touch()
    with pytest.raises(RunError, match="TMPDIR"), upload_folder(tmp_path):
        pass
