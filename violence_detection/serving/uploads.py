"""Uploaded clips: parsed and checked while they arrive, and deleted afterwards.

The clip in a form goes straight to a file of the server, so that neither memory nor disk takes
more than is allowed, whatever the headers say.
"""

import asyncio
import contextlib
import functools
import os
import re
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from violence_detection.clips.demo import draw_clip
from violence_detection.errors import RunError, failing_as
from violence_detection.serving.limits import Limits
from violence_detection.serving.problems import Problem
from violence_detection.storage.locks import process_folder

FIELDS = (b"video", b"file")  # the part that holds the clip
SHOWN_NAME = 40  # characters of another part's name
MAX_FORM_OVERHEAD = 64 * 1024  # bytes of a form besides its clip
HEAD_BYTES = 512  # of a clip, from which its container is recognized
WRITE_BYTES = 2**20  # a thread writes each piece
VIDEO_FORMATS = "mp4, mov, mkv, webm, avi, flv, wmv, mpg, ts, m2ts, 3gp, vob, dav"
NOT_A_VIDEO = f"not a video file ({VIDEO_FORMATS})"
RETRY_AFTER_FULL_DISK = 30  # seconds


@contextlib.contextmanager
def upload_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder below `parent` for this server's uploads, removed at the end.

    Folders of servers that were killed are removed, too: a server locks its own.

    Raises:
        RunError: it cannot be made.
    """
    shared = parent / f"violence-detector-{os.getuid()}"
    with contextlib.ExitStack() as stack:
        with failing_as(shared, "created (TMPDIR sets another place)"):
            shared.mkdir(mode=0o700, exist_ok=True)
            # Other users may write into the folder for temporary files.
            if shared.is_symlink() or shared.stat().st_uid != os.getuid():
                raise RunError(f"{shared} belongs to another user: remove it, or set TMPDIR")
            folder = stack.enter_context(process_folder(shared))
        yield folder


@contextlib.contextmanager
def new_upload(folder: Path) -> Iterator[Path]:
    """Yield the path of a file that does not exist yet; it is deleted after the block."""
    path = folder / secrets.token_hex(16)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@functools.cache
def drawn_clip(folder: Path) -> bytes:
    """Return the content of a drawn clip of two figures who fight; it is drawn once.

    Args:
        folder: for a temporary file.

    Raises:
        RunError: OpenCV cannot write mp4 files.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "drawn.mp4"
        draw_clip(path, True, np.random.default_rng(0))
        return path.read_bytes()


async def receive_video(
    body: AsyncIterator[bytes],
    content_type: str,
    content_length: str | None,
    path: Path,
    limits: Limits,
) -> int:
    """Write the part `video` (or `file`) of a multipart form to a new file; return its bytes.

    Args:
        body: the request's body in pieces.
        content_type: the header.
        content_length: the header; the form is refused at once if this is too large.
        path: the file to write; it must not exist.
        limits: size of the clip, and time for the upload.

    Raises:
        Problem: the request is not such a form (400, 415, 422), the clip is too large (413) or
            its first bytes are not those of a video (415), the upload is too slow (408), or the
            file cannot be written (503).
    """
    max_bytes = limits.max_upload
    boundary = _boundary_of(content_type)
    too_large = Problem(413, f"the clip is larger than the {max_bytes / 2**20:g} MB allowed")
    if _number(content_length) > max_bytes + MAX_FORM_OVERHEAD:
        raise too_large
    received, began = 0, time.monotonic()
    try:
        with path.open("xb") as file:
            form = _Form(boundary, max_bytes, too_large)
            async with asyncio.timeout(limits.upload_timeout):
                while chunk := await _next_chunk(body, limits.stall_timeout):
                    received += len(chunk)
                    seconds = time.monotonic() - began - limits.grace
                    if received < limits.least_rate * seconds:
                        raise TimeoutError
                    form.parse(chunk)
                    if received - form.size > MAX_FORM_OVERHEAD:
                        allowed = f"{MAX_FORM_OVERHEAD // 1024} kB"
                        raise Problem(413, f"the form has more than {allowed} besides the clip")
                    if len(form.pending) >= WRITE_BYTES:
                        await asyncio.to_thread(file.write, form.take_pending())
            form.require_complete()
            await asyncio.to_thread(file.write, form.take_pending())
    except TimeoutError as error:
        raise Problem(408, "the upload was too slow") from error
    except OSError as error:
        retry = {"Retry-After": str(RETRY_AFTER_FULL_DISK)}
        raise Problem(503, "the server cannot store the clip", retry) from error
    return form.size


def _number(header: str | None) -> int:
    """Return the number in a header; 0 if there is none."""
    return int(header) if header and re.fullmatch(r"[0-9]{1,20}", header) else 0


async def _next_chunk(body: AsyncIterator[bytes], stall_timeout: float) -> bytes:
    """Return some bytes; none at the end."""
    async with asyncio.timeout(stall_timeout):
        return await anext(body, b"")


def _boundary_of(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise Problem(415, "send the clip as the part `video` of a multipart/form-data form")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(400, "the form's Content-Type has no boundary")
    return boundary


class _Form:
    """Parses a form piece by piece; `pending` is what has still to be written of its clip."""

    def __init__(self, boundary: bytes, max_bytes: int, too_large: Problem):
        self.size = 0  # of the clip so far
        self.pending = bytearray()
        self._max_bytes = max_bytes
        self._too_large = too_large
        self._head = bytearray()
        self._header = [b"", b""]  # name and value of the current one
        self._disposition = b""
        self._is_video = False
        self._videos = 0
        self._other = b""  # the name of a part that is no clip
        self._ended = False
        with _syntax_errors_as_problem():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_header_name,
                    "on_header_value": self._add_to_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
            )

    def parse(self, chunk: bytes) -> None:
        """Parse the next piece; raises `Problem`."""
        with _syntax_errors_as_problem():
            self._parser.write(chunk)

    def require_complete(self) -> None:
        """Raise a `Problem` unless this was a whole form with one clip."""
        if not self._ended:
            raise Problem(400, "the form ends before its closing boundary")
        if self._videos > 1:
            raise Problem(422, "the form has more than one `video` part")
        if not self._videos and self._other:
            shown = self._other.decode("utf-8", "replace")[:SHOWN_NAME]
            raise Problem(422, f"the form has a part {shown!r}, and no `video` part")
        if not self.size:
            raise Problem(422, "the form has no `video` part, or it is empty")
        if self.size < HEAD_BYTES and not is_video(bytes(self._head)):
            raise Problem(415, NOT_A_VIDEO)

    def take_pending(self) -> bytes:
        """Return what has still to be written, and forget it."""
        pending = bytes(self.pending)
        self.pending.clear()
        return pending

    def _begin_part(self) -> None:
        self._is_video, self._disposition, self._header = False, b"", [b"", b""]

    def _add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _end_headers(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        self._is_video = name in FIELDS
        self._videos += self._is_video
        self._other = self._other or name

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_video:
            return
        missing_head = HEAD_BYTES - self.size
        self.size += end - start
        if self.size > self._max_bytes:
            raise self._too_large
        if missing_head > 0:
            self._head += data[start : min(end, start + missing_head)]
            if len(self._head) == HEAD_BYTES and not is_video(bytes(self._head)):
                raise Problem(415, NOT_A_VIDEO)
        self.pending += data[start:end]

    def _end(self) -> None:
        self._ended = True


@contextlib.contextmanager
def _syntax_errors_as_problem() -> Iterator[None]:
    try:
        yield
    except (FormParserError, ValueError) as error:
        raise Problem(400, "the form is not valid multipart/form-data") from error


def is_video(head: bytes) -> bool:
    """Return whether a file may be a video, by its first bytes; FFmpeg decides for certain.

    Only video containers pass. FFmpeg also opens playlists, which refer to other files and hosts.

    Args:
        head: the first `HEAD_BYTES`, or the whole file if it is shorter.
    """
    iso_boxes = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
    starts = (
        b"\x1aE\xdf\xa3",  # Matroska, WebM
        b"FLV\x01",
        b"0&\xb2u\x8ef\xcf\x11",  # ASF: wmv
        b"\x00\x00\x01\xba",  # MPEG program stream
        b"\x00\x00\x01\xb3",  # MPEG video
        b"OggS",
        b"DHAV",  # of recorders: dav
        b"\x06\x0e\x2b\x34",  # MXF
        b"\x1f\x07\x00",  # DV
        b"DKIF",  # IVF
        b"\x00\x00\x00\x01",  # H.264 and H.265 without a container
    )
    return (
        head[4:8] in iso_boxes
        or head.startswith(starts)
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or _is_transport_stream(head)
    )


def _is_transport_stream(head: bytes) -> bool:
    """Return whether MPEG's packets of 188 bytes follow each other, of 192 with a time before."""
    return any(
        head[first : first + 1] == head[first + size : first + size + 1] == b"\x47"
        for first, size in ((0, 188), (4, 192))
    )
