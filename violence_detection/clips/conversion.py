"""A decoded frame as it is to be shown: deinterlaced, cropped, in SDR and RGB, upright."""

from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter

HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ and HLG
# Relative colorimetric: diffuse white, 203 cd/m2 by ITU-R BT.2408, becomes SDR's white.
TO_SDR = "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:out_range=pc:flags=bicubic"


class Crop(NamedTuple):
    """How many pixels a container hides at each edge of its pictures, before they are turned."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


class Converter:
    """Converts the frames of one video; keeps FFmpeg's converters for their size and format.

    Args:
        crop: what is hidden of each frame.
    """

    def __init__(self, crop: Crop = Crop()) -> None:  # noqa: B008 (immutable)
        self._crop = crop
        self._reformatter = VideoReformatter()
        self._to_sdr: tuple[object, av.filter.Graph] | None = None  # for frames of a kind

    def picture(
        self, frame: VideoFrame, before: VideoFrame | None, after: VideoFrame | None
    ) -> np.ndarray:
        """Return a frame as `(height, width, 3)` uint8 RGB.

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
        matrix = display_matrix(frame)
        if frame.color_trc in HDR:
            frame = self._in_sdr(frame)
        # Accurate rounding would differ from what ffmpeg itself does by default.
        converted = self._reformatter.reformat(
            frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
        )
        return upright(self._cropped(pixels(converted)), matrix)

    def _in_sdr(self, frame: VideoFrame) -> VideoFrame:
        """Return an HDR frame in 8 bits of BT.709, as FFmpeg's scaler maps it."""
        kind = (frame.width, frame.height, frame.format.name, frame.color_trc)
        if self._to_sdr is None or self._to_sdr[0] != kind:
            self._to_sdr = kind, filter_graph(frame, ("scale", TO_SDR), ("format", "rgb24"))
        graph = self._to_sdr[1]
        graph.push(frame)
        return pulled(graph)

    def _cropped(self, image: np.ndarray) -> np.ndarray:
        top, bottom, left, right = self._crop
        height, width = image.shape[:2]
        if top + bottom >= height or left + right >= width:
            return image  # nothing would be left: not believed
        return image[top : height - bottom, left : width - right]


def pixels(frame: VideoFrame) -> np.ndarray:
    """Return the pixels of a frame in RGB, `(height, width, 3)` uint8; its memory, not a copy."""
    plane: Any = frame.planes[0]
    shape, strides = (frame.height, frame.width, 3), (plane.line_size, 3, 1)
    return np.ndarray(shape, np.uint8, plane, strides=strides)


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
    graph = filter_graph(frame, ("bwdif", "mode=send_frame:deint=interlaced"))
    same = [f if f is not None and _alike(f, frame) else None for f in (before, after)]
    given = [f for f in (same[0], frame, same[1]) if f is not None]
    for each in (*given, None):  # None: the end
        graph.push(each)
    results: list[VideoFrame] = []
    try:
        while len(results) < len(given):
            results.append(pulled(graph))
    except (av.BlockingIOError, av.EOFError):
        pass
    return results[1 if same[0] is not None else 0]


def filter_graph(frame: VideoFrame, *filters: tuple[str, str]) -> av.filter.Graph:
    """Return a chain of FFmpeg's filters for frames like `frame`.

    Args:
        frame: decides size, format and colours of what goes in.
        *filters: name and arguments of each.
    """
    graph = av.filter.Graph()
    last = graph.add(
        "buffer",
        f"width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:"
        "time_base=1/1000:"  # of no account: each frame is given and taken by itself
        f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
    )
    for name, arguments in (*filters, ("buffersink", "")):
        added = graph.add(name, arguments) if arguments else graph.add(name)
        last.link_to(added)
        last = added
    graph.configure()
    return graph


def pulled(graph: av.filter.Graph) -> VideoFrame:
    """Return the next frame that comes out of a graph.

    Raises:
        av.BlockingIOError: it takes more frames to go in.
        av.EOFError: there are no more.
    """
    frame = graph.pull()
    assert isinstance(frame, VideoFrame)
    return frame


def display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """Return the `(2, 2)` matrix that turns a frame as it is to be shown, if it has one."""
    side_data = frame.side_data
    data: Any = side_data.get("DISPLAYMATRIX") if len(side_data) else None
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
