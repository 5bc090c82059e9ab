"""Frames of clips of many kinds, compared with those that the `ffmpeg` command makes of them.

    python -m benchmarks.frames --json FILE

Draws a clip of each kind, reads all of its frames, and prints their mean difference to the frames
of `ffmpeg`, which must be installed. Exit status 1 if a difference is above its limit.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from benchmarks.command import make_parser, write_report
from benchmarks.tables import Table
from violence_detection.clips.conversion import filter_graph, pulled
from violence_detection.clips.video import frames_of, open_video

WIDTH, HEIGHT, RATE, COUNT = 320, 240, 25, 25
LIMIT, HDR_LIMIT = 2.0, 10.0  # levels of 255
DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced"
# What zscale makes of PQ and HLG: diffuse white, 203 cd/m2, becomes white.
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
TO_SDR = "zscale=t=bt709:p=bt709:m=bt709:r=tv:npl=203"


@dataclass(frozen=True)
class Kind:
    """How clips of a kind are encoded, and what `ffmpeg` has to do to show them.

    Args:
        codec: FFmpeg's name of the encoder.
        suffix: of the file.
        pixel_format: of the encoder.
        options: of the encoder.
        size: width and height in pixels.
        fields: "top" or "bottom": interlaced, this field first.
        rotation: degrees, by which it is displayed turned; `mirrored`: from left to right, too.
        matrix, primaries, transfer, full_range: of the colours; None: not stated.
        times: of the frames in seconds; None: `RATE` frames a second.
        damaged: the packets whose data are zeroed.
        filters: of `ffmpeg`, before its conversion to RGB.
        limit: of the mean difference in levels.
    """

    codec: str = "libx264"
    suffix: str = "mp4"
    pixel_format: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (WIDTH, HEIGHT)
    fields: str | None = None
    rotation: int = 0
    mirrored: bool = False
    matrix: Colorspace | None = None
    primaries: ColorPrimaries | None = None
    transfer: ColorTrc | None = None
    full_range: bool = False
    times: Sequence[float] | None = None
    damaged: Sequence[int] = ()
    filters: Sequence[str] = ()
    limit: float = LIMIT


def interlaced(codec: str, suffix: str, first: str = "top", **others: Any) -> Kind:
    """Return an interlaced kind."""
    return Kind(codec, suffix, fields=first, filters=(DEINTERLACE,), **others)


def hdr(transfer: ColorTrc) -> Kind:
    """Return a kind with a high dynamic range."""
    return Kind(
        *("libx265", "mp4", "yuv420p10le"),
        matrix=Colorspace.BT2020,
        primaries=ColorPrimaries.BT2020,
        transfer=transfer,
        filters=(TO_SDR,),
        limit=HDR_LIMIT,
    )


PAUSES = [*(n / 30 for n in range(12)), *(4 + n / 10 for n in range(13))]
KINDS: dict[str, Kind] = {
    "H.264": Kind(),
    "rotated by 90 degrees": Kind(rotation=90),
    "rotated by 180 degrees": Kind(rotation=180),
    "mirrored": Kind(mirrored=True),
    "mirrored and rotated": Kind(mirrored=True, rotation=90),
    "10 bit, H.264": Kind(pixel_format="yuv420p10le"),
    "10 bit, HEVC": Kind("libx265", pixel_format="yuv420p10le"),
    "full range": Kind(full_range=True),
    "full range, MJPEG": Kind("mjpeg", "avi", "yuvj420p"),
    "BT.601": Kind(matrix=Colorspace.SMPTE170M),
    "BT.709": Kind(matrix=Colorspace.ITU709),
    "BT.2020": Kind(matrix=Colorspace.BT2020),
    "4:2:2": Kind(pixel_format="yuv422p"),
    "4:4:4": Kind(pixel_format="yuv444p"),
    "variable frame rate": Kind(times=PAUSES),
    "interlaced, H.264": interlaced("libx264", "ts", options={"flags": "+ildct+ilme"}),
    "interlaced, H.264, bottom first": interlaced(
        "libx264", "mkv", "bottom", options={"flags": "+ildct+ilme"}
    ),
    "interlaced, MPEG-2": interlaced("mpeg2video", "mpg", options={"flags": "+ildct+ilme"}),
    "interlaced, HEVC": interlaced("libx265", "mkv", options={"x265-params": "interlace=tff"}),
    "interlaced, ProRes": interlaced(
        "prores_ks", "mov", pixel_format="yuv422p10le", options={"flags": "+ildct"}
    ),
    "DV": interlaced("dvvideo", "dv", "bottom", size=(720, 576)),
    "AV1": Kind("libsvtav1"),
    "VP9": Kind("libvpx-vp9", "webm"),
    "MPEG-4": Kind("mpeg4", "avi"),
    "damaged, H.264": Kind(damaged=(8,)),
    "damaged, MPEG-4": Kind("mpeg4", "avi", damaged=(8, 9)),
    "PQ": hdr(ColorTrc.SMPTE2084),
    "HLG": hdr(ColorTrc.ARIB_STD_B67),
}


def picture(time: float, size: tuple[int, int]) -> np.ndarray:
    """Return a picture that moves with time, `(height, width, 3)` uint8 RGB."""
    width, height = size
    noise = np.random.default_rng(0).integers(30, 220, (6, 8, 3), np.uint8)
    scene = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    scene[: height // 8, : width // 8] = (230, 20, 20)  # tells mirrored from turned
    centre = round(width * (0.2 + 0.5 * time)), height // 2
    cv2.circle(scene, centre, height // 8, (240, 240, 40), -1)
    return scene


def as_hdr(image: np.ndarray, transfer: ColorTrc) -> np.ndarray:
    """Return a picture in the primaries of BT.2020 with PQ or HLG, `(height, width, 3)` uint16 RGB.

    Its white becomes the diffuse white of ITU-R BT.2408, 203 cd/m2.

    Args:
        image: uint8 RGB, in BT.709.
        transfer: of the result: SMPTE ST 2084, or ARIB STD-B67 for a screen of 1000 cd/m2.
    """
    light = (image / 255) ** 2.4 @ TO_BT2020.T * 203  # cd/m2
    if transfer == ColorTrc.SMPTE2084:
        power = (light / 10_000) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        luma = light @ (0.2627, 0.6780, 0.0593)
        # From the screen's light back to the scene's: the system gamma is 1.2 at 1000 cd/m2.
        scene = light / 1000 * (np.maximum(luma, 1e-6) / 1000)[..., None] ** (1 / 1.2 - 1)
        above = 0.17883277 * np.log(np.maximum(12 * scene, 1) - 0.28466892) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), above)
    return (signal.clip(0, 1) * 65535).round().astype(np.uint16)


def write_clip(path: Path, kind: Kind) -> None:
    """Draw a clip of a kind."""
    base = Fraction(1, 1000) if kind.times else Fraction(1, RATE)
    times = kind.times or [number / RATE for number in range(COUNT)]
    with av.open(str(path), "w") as container:
        options = {"g": "8", **kind.options} if kind.codec.startswith("libx26") else kind.options
        stream = cast(
            VideoStream, container.add_stream(kind.codec, rate=RATE, options=dict(options))
        )
        stream.width, stream.height = kind.size
        stream.pix_fmt = kind.pixel_format
        context = stream.codec_context
        context.time_base = base
        context.color_range = ColorRange.JPEG if kind.full_range else ColorRange.MPEG
        if "yuvj" in kind.pixel_format:
            context.color_range = ColorRange.JPEG
        state_colours(context, kind)
        if kind.rotation or kind.mirrored:
            stream.set_display_rotation(kind.rotation, hflip=kind.mirrored)
        for time in times:
            frame = encoder_frame(kind, time, context.color_range)
            frame.pts, frame.time_base = round(time / base), base
            if kind.fields:
                frame = marked_as_interlaced(frame, {"top": "tff", "bottom": "bff"}[kind.fields])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if kind.damaged:
        damage(path, kind.damaged)


def state_colours(target: Any, kind: Kind) -> None:
    """Set what a kind states of its colours, on an encoder or on a frame."""
    if kind.matrix is not None:
        target.colorspace = kind.matrix
    if kind.primaries is not None:
        target.color_primaries = kind.primaries
    if kind.transfer is not None:
        target.color_trc = kind.transfer


def encoder_frame(kind: Kind, time: float, colour_range: int) -> av.VideoFrame:
    """Return the frame that is encoded for a time in seconds."""
    image = picture(time, kind.size)
    if kind.fields:
        later = picture(time + 0.5 / RATE, kind.size)
        second = 1 if kind.fields == "top" else 0
        image[second::2] = later[second::2]
    if kind.transfer is None:
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
    else:
        frame = av.VideoFrame.from_ndarray(as_hdr(image, kind.transfer), "rgb48le")
    frame = frame.reformat(
        format=kind.pixel_format,
        dst_colorspace=kind.matrix if kind.matrix is not None else Colorspace.ITU601,
        dst_color_range=colour_range,
        interpolation="BICUBIC",
    )
    frame.color_range = colour_range
    state_colours(frame, kind)
    return frame


def marked_as_interlaced(frame: av.VideoFrame, fields: str) -> av.VideoFrame:
    """Return a frame that is marked as interlaced, at the same time.

    Args:
        frame: to be marked.
        fields: "tff" or "bff": top or bottom field first.
    """
    pts, base = frame.pts, frame.time_base
    graph = filter_graph(frame, ("setfield", f"mode={fields}"))
    graph.push(frame)
    marked = pulled(graph)
    marked.pts, marked.time_base = pts, base
    return marked


def damage(path: Path, numbers: Sequence[int]) -> None:
    """Overwrite the data of some packets of a file with zeros."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        damaged = [(packets[number].pos, bytes(packets[number])) for number in numbers]
    content = bytearray(path.read_bytes())
    for position, data in damaged:
        at = content.index(data, position or 0)
        content[at : at + len(data)] = bytes(len(data))
    path.write_bytes(content)


def own_frames(path: Path) -> list[np.ndarray]:
    """Return all frames of a clip as this package reads them, RGB."""
    video = open_video(path)
    frames = [frame.retrieve() for frame in frames_of(video, video.info.frames_per_second)]
    return [frame for frame in frames if frame is not None]


def ffmpeg_frames(path: Path, kind: Kind, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return all frames of a clip as `ffmpeg` makes them.

    Args:
        path: of the clip.
        kind: of the clip.
        shape: of a frame, `(height, width, 3)`.

    Raises:
        ValueError: they are of another size.
    """
    filters = ["-vf", ",".join(kind.filters)] if kind.filters else []
    command = ["ffmpeg", "-v", "error", "-i", str(path), *filters, "-fps_mode", "passthrough"]
    done = subprocess.run(
        [*command, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True
    )
    values = np.frombuffer(done.stdout, np.uint8)
    if len(values) % np.prod(shape):
        raise ValueError(f"{path}: ffmpeg's frames are not of {shape[1]}x{shape[0]} pixels")
    return list(values.reshape(-1, *shape))


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Return how the frames of a kind of clips differ from those of `ffmpeg`.

    Args:
        name: of the kind.
        folder: for the clip.
    """
    kind = KINDS[name]
    path = folder / f"clip.{kind.suffix}"
    write_clip(path, kind)
    own = own_frames(path)
    theirs = ffmpeg_frames(path, kind, own[0].shape)
    same = min(len(own), len(theirs))
    pairs = zip(own[:same], theirs[:same], strict=True)
    differences = [float(np.abs(one.astype(int) - other).mean()) for one, other in pairs]
    return {
        "kind": name,
        "frames": len(own),
        "frames_of_ffmpeg": len(theirs),
        "mean_difference": round(float(np.mean(differences)), 2),
        "largest_of_a_frame": round(max(differences), 2),
        "limit": kind.limit,
        "met": len(own) == len(theirs) and float(np.mean(differences)) <= kind.limit,
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the comparison as a table."""
    header = ["", "frames", "ffmpeg's", "difference", "worst frame", "limit", "met"]
    return Table(
        "Mean difference to ffmpeg's frames, levels of 255",
        header,
        [
            [
                *(row["kind"], str(row["frames"]), str(row["frames_of_ffmpeg"])),
                *(f"{row['mean_difference']:.2f}", f"{row['largest_of_a_frame']:.2f}"),
                *(f"{row['limit']:g}", "yes" if row["met"] else "no"),
            ]
            for row in rows
        ],
    )


def main() -> int:
    """Compare, print; return the exit status."""
    flags = make_parser(__doc__).parse_args()
    if shutil.which("ffmpeg") is None:
        print("error: the ffmpeg command is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        rows = [compare(name, Path(folder)) for name in KINDS]
    print(as_table(rows).as_text())
    write_report({"clips": rows}, flags.json)
    return int(not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
