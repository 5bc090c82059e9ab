"""A decoded frame as it is to be shown: deinterlaced, in BGR, upright."""

from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter


class Converter:
    """Converts the frames of one video; keeps FFmpeg's converter for their size and format."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def picture(
        self, frame: VideoFrame, before: VideoFrame | None, after: VideoFrame | None
    ) -> np.ndarray:
        """Return a frame as `(height, width, 3)` uint8 BGR.

        The colours are those of FFmpeg's own conversion: its matrix and range are the frame's.

        Args:
            frame: as it was decoded.
            before: the frame before it, if there is one; used if `frame` is interlaced.
            after: the frame after it, likewise.

        Raises:
            av.FFmpegError: FFmpeg cannot convert it.
        """
        if frame.interlaced_frame:
            frame = deinterlaced(frame, before, after)
        # Accurate rounding would differ from what ffmpeg itself does by default.
        converted = self._reformatter.reformat(
            frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1
        )
        return upright(converted.to_ndarray(), display_matrix(frame))


def deinterlaced(
    frame: VideoFrame, before: VideoFrame | None, after: VideoFrame | None
) -> VideoFrame:
    """Return an interlaced frame without its combs: FFmpeg's bwdif, one frame for one frame.

    Args:
        frame: interlaced.
        before, after: its neighbours, which the filter looks at; those of another size or format
            are not.

    Raises:
        av.FFmpegError: the filter does not take the format.
    """
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    same = [f if f is not None and _alike(f, frame) else None for f in (before, after)]
    given = [f for f in (same[0], frame, same[1]) if f is not None]
    for each in (*given, None):  # None: the end
        graph.push(each)
    results: list[object] = []
    try:
        while len(results) < len(given):
            results.append(graph.pull())
    except (av.BlockingIOError, av.EOFError):
        pass
    result = results[1 if same[0] is not None else 0]
    assert isinstance(result, VideoFrame)
    return result


def display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """Return the `(2, 2)` matrix that turns a frame as it is to be shown, if it has one."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    return np.frombuffer(bytes(data), np.int32)[:9].reshape(3, 3)[:2, :2] / 2**16


def upright(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Return an image turned and mirrored by a display matrix.

    Args:
        image: `(height, width, 3)`.
        matrix: `(2, 2)`: row n is where axis n of the image points, right and down. Angles are
            rounded to quarter turns; None: as it is.
    """
    if matrix is None:
        return image
    turned = is_turned(matrix)
    right, down = (matrix[1, 0], matrix[0, 1]) if turned else (matrix[0, 0], matrix[1, 1])
    if turned:
        image = image.transpose(1, 0, 2)
    if right < 0:
        image = image[:, ::-1]
    if down < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)


def is_turned(matrix: np.ndarray | None) -> bool:
    """Return whether a display matrix exchanges width and height."""
    if matrix is None:
        return False
    return bool(abs(matrix[0, 1]) + abs(matrix[1, 0]) > abs(matrix[0, 0]) + abs(matrix[1, 1]))


def _alike(frame: VideoFrame, other: VideoFrame) -> bool:
    return (frame.width, frame.height, frame.format.name) == (
        *(other.width, other.height),
        other.format.name,
    )
