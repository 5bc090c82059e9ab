"""Videos that tests write: frame n has the brightness 4 n, unless it is given."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.frames import damage, marked_as_interlaced
from violence_detection.clips.demo import draw_clip

RATE = 25


def grey(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Return frame `number` as an image."""
    return np.full((size[1], size[0], 3), 4 * number, np.uint8)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Return the numbers of frames that were written as `grey`."""
    return np.round(frames.mean(axis=(1, 2, 3)) / 4).astype(int).tolist()


def write_clip(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: Sequence[float] | None = None,
    fields: str = "",
    damaged: Sequence[int] = (),
    pixel: Fraction | None = None,
) -> Path:
    """Write a video; its container is chosen by the suffix.

    Args:
        path: of the file.
        images: `(height, width, 3)` uint8 RGB each.
        codec: FFmpeg's name of the encoder.
        options: of the encoder.
        times: of the frames in seconds; None: 25 a second.
        fields: "tff" or "bff": frames are marked as interlaced, top or bottom field first.
        damaged: numbers of packets whose data are zeroed.
        pixel: width of a pixel over its height; None: not stated.
    """
    height, width = images[0].shape[:2]
    base = Fraction(1, 1000) if times else Fraction(1, RATE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = base
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = pixel
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            frame.pts = round(times[number] * 1000) if times else number
            frame.time_base = base
            if fields:
                frame = marked_as_interlaced(frame, fields)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if damaged:
        damage(path, damaged)
    return path


def write_doubtful_clip(path: Path, kind: str) -> Path:
    """Write a clip of which little can be said.

    Args:
        path: of the file.
        kind: "one frame", "still", or "damaged": the last two fifths cannot be decoded.
    """
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (12, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    if kind == "one frame":
        return write_clip(path, [picture])
    if kind == "still":
        return write_clip(path, [picture] * 40, options={"crf": "35"})
    moving = [np.roll(picture, 8 * number, axis=1) for number in range(40)]
    return write_clip(path, moving, options={"g": "1"}, damaged=range(24, 40))


def draw_video(path: Path, violence: Sequence[bool], random: np.random.Generator) -> Path:
    """Draw parts of two seconds each, some of them violent, as the demo does."""
    images = []
    for number, is_violent in enumerate(violence):
        part = path.with_name(f"part{number}.mp4")
        draw_clip(part, is_violent, random)
        with av.open(str(part)) as container:
            images += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        part.unlink()
    times = [number / 12 for number in range(len(images))]
    return write_clip(path, images, times=times)
