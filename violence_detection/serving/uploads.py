"""Clips that are sent to the service: read as they come, checked on the way, never kept.

A form is parsed while it is read and its clip goes straight to a file of the server's own, so
that neither memory nor disk takes more of it than is allowed, whatever its headers say.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from violence_detection.errors import RunError, failing_as
from violence_detection.serving.problems import Problem
from violence_detection.storage.locks import locked

FIELD = b"video"
FORM_BYTES = 64 * 1024  # of a form, beside its clip
HEAD_BYTES = 512  # of a clip, by which it is told what it is
WRITTEN_AT_ONCE = 2**20  # bytes: a thread is asked for each piece
FORMATS = "mp4, mov, mkv, webm, avi, flv, wmv, mpg"
NO_VIDEO = f"this is no video file ({FORMATS})"
RETRY_AFTER_FULL_DISK = 30  # seconds


@contextlib.contextmanager
def upload_folder(parent: Path) -> Iterator[Path]:
    """Make a folder below `parent` for this server's uploads; at the end it is removed.

    What servers have left there that were killed is removed, too: a lock tells who lives.

    Raises:
        RunError: it cannot be made.
    """
    ours = parent / f"violence-detector-{os.getuid()}"
    with contextlib.ExitStack() as held:
        with failing_as(ours, "made (TMPDIR names another place)"):
            ours.mkdir(mode=0o700, exist_ok=True)
            # Others may write into the folder for temporary files.
            if ours.is_symlink() or ours.stat().st_uid != os.getuid():
                raise RunError(f"{ours} belongs to somebody else: remove it, or set TMPDIR")
            with locked(ours, lambda _: None):
                _remove_leftovers(ours)
                folder = Path(tempfile.mkdtemp(dir=ours))
                held.callback(shutil.rmtree, folder, ignore_errors=True)
                held.enter_context(locked(folder, _raise_in_use))
        yield folder


class _InUse(Exception):
    pass


def _raise_in_use(by: str) -> None:
    raise _InUse(by)


def _remove_leftovers(folder: Path) -> None:
    for left in folder.iterdir():
        if left.is_dir():
            with contextlib.suppress(_InUse), locked(left, _raise_in_use):
                shutil.rmtree(left)


@contextlib.contextmanager
def new_upload(folder: Path) -> Iterator[Path]:
    """Return the path of a file that is not there yet; at the end of the block it is removed."""
    path = folder / secrets.token_hex(16)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


async def receive_video(
    body: AsyncIterator[bytes],
    content_type: str,
    content_length: str | None,
    path: Path,
    max_bytes: int,
    stalled: float,
    timeout: float,
) -> int:
    """Write the part `video` of a form into a new file; return how many bytes it has.

    Args:
        body: of the request, as it comes.
        content_type, content_length: the headers. A length that is too large is believed.
        max_bytes: that the clip may have.
        stalled: seconds after which something more must have come.
        timeout: seconds that all of it may take.

    Raises:
        Problem: the form is not one, has no clip or too large a one, or comes too slowly; what
            comes is no video, by its first bytes; the disk is full.
    """
    boundary = _boundary_of(content_type)
    too_large = Problem(413, f"the clip is larger than the {max_bytes / 2**20:g} MB allowed")
    if _number(content_length) > max_bytes + FORM_BYTES:
        raise too_large
    received = 0
    try:
        with path.open("xb") as file:
            form = _Form(boundary, max_bytes, too_large)
            async with asyncio.timeout(timeout):
                while chunk := await _next_chunk(body, stalled):
                    received += len(chunk)
                    form.take(chunk)
                    if received - form.size > FORM_BYTES:
                        raise Problem(413, "the form has too much in it beside the clip")
                    if len(form.pending) >= WRITTEN_AT_ONCE:
                        await asyncio.to_thread(file.write, form.taken_out())
            form.finish()
            await asyncio.to_thread(file.write, form.taken_out())
    except TimeoutError as error:
        raise Problem(408, "the clip came too slowly") from error
    except OSError as error:
        later = {"Retry-After": str(RETRY_AFTER_FULL_DISK)}
        raise Problem(503, "the server has no room for the clip", later) from error
    return form.size


def _number(text: str | None) -> int:
    """Return the number of a header; 0 if it is none."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,20}", text) else 0


async def _next_chunk(body: AsyncIterator[bytes], stalled: float) -> bytes:
    """Return some bytes; none at the end."""
    async with asyncio.timeout(stalled):
        return await anext(body, b"")


def _boundary_of(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise Problem(415, "send the clip as the part `video` of a multipart/form-data form")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(400, "the form's Content-Type names no boundary")
    return boundary


class _Form:
    """A form that is parsed as it comes: of its part `video`, what is not written yet."""

    def __init__(self, boundary: bytes, max_bytes: int, too_large: Problem):
        self.size = 0  # of the clip so far
        self.pending = bytearray()
        self._max_bytes = max_bytes
        self._too_large = too_large
        self._head = bytearray()
        self._header = [b"", b""]  # name and value of the one that is read
        self._disposition = b""
        self._is_video = False
        self._videos = 0
        self._ended = False
        with _told_as_bad_form():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_header_name,
                    "on_header_value": self._take_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._take_data,
                    "on_end": self._end,
                },
            )

    def take(self, chunk: bytes) -> None:
        """Parse what has come; raises `Problem`."""
        with _told_as_bad_form():
            self._parser.write(chunk)

    def finish(self) -> None:
        """Raise a `Problem` if this was not all of a form with one clip."""
        if not self._ended:
            raise Problem(400, "the form ends before its last boundary")
        if self._videos != 1 or not self.size:
            missing = "the form has no part `video`, or nothing in it"
            raise Problem(422, "the form has several clips" if self._videos > 1 else missing)
        if self.size < HEAD_BYTES and not is_video(bytes(self._head)):
            raise Problem(415, NO_VIDEO)

    def taken_out(self) -> bytes:
        """Return what is not written yet, which then counts as written."""
        taken = bytes(self.pending)
        self.pending.clear()
        return taken

    def _begin_part(self) -> None:
        self._is_video, self._disposition, self._header = False, b"", [b"", b""]

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _end_headers(self) -> None:
        self._is_video = parse_options_header(self._disposition)[1].get(b"name") == FIELD
        self._videos += self._is_video

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_video:
            return
        lacking = HEAD_BYTES - self.size
        self.size += end - start
        if self.size > self._max_bytes:
            raise self._too_large
        if lacking > 0:
            self._head += data[start : min(end, start + lacking)]
            if len(self._head) == HEAD_BYTES and not is_video(bytes(self._head)):
                raise Problem(415, NO_VIDEO)
        self.pending += data[start:end]

    def _end(self) -> None:
        self._ended = True


@contextlib.contextmanager
def _told_as_bad_form() -> Iterator[None]:
    try:
        yield
    except (FormParserError, ValueError) as error:
        raise Problem(400, "the form is not valid multipart/form-data") from error


def is_video(head: bytes) -> bool:
    """Return whether a file that begins so may be a clip; FFmpeg has the last word.

    Only containers of video pass. FFmpeg also opens playlists, which name other files and hosts.

    Args:
        head: the first `HEAD_BYTES`, or all of a file of less.
    """
    iso_boxes = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
    starts = (
        b"\x1aE\xdf\xa3",  # Matroska, WebM
        b"FLV\x01",
        b"0&\xb2u\x8ef\xcf\x11",  # ASF: wmv
        b"\x00\x00\x01\xba",  # MPEG programme stream
        b"\x00\x00\x01\xb3",  # MPEG video
        b"OggS",
    )
    return (
        head[4:8] in iso_boxes
        or head.startswith(starts)
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or (len(head) > 188 and head[0] == head[188] == 0x47)  # MPEG transport stream
    )
