"""Pictures that explain a prediction: each frame's attention, and heat maps of the top frames."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from violence_detection.clips.pictures import as_jpeg, shrink
from violence_detection.errors import failing_as
from violence_detection.inference.detector import DecodedClip, Detector, PredictedClip, Prediction
from violence_detection.inference.formats import TOP_FRAMES, top_frames
from violence_detection.inference.grad_cam import GradCam
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import write_bytes

WIDTH, COLUMNS = 1200, 8  # pixels of a picture, and frames in a row of its strip
HEADER, CAPTION, BAR, GAP = 36, 22, 10, 4  # pixels
PAPER, INK, FAINT, ORANGE = 255, (31, 35, 40), (223, 227, 232), (213, 94, 0)  # RGB
OPACITY = 0.6  # of a heat map over a frame, where it is highest
COLOURS = matplotlib.colormaps["inferno"]
TINY = 1e-12  # keeps a map that is 0 everywhere from a division by 0
JPEG_QUALITY = 88
NAME_BYTES = 200  # longer file names are cut, with a hash of the whole name at the end


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a picture with a heat map over it, `(height, width, 3)` uint8.

    Args:
        picture: `(height, width, 3)` uint8 RGB.
        heat: `(height, width)`, from 0, where the picture shows unchanged, to 1.
    """
    opacity = OPACITY * heat[:, :, np.newaxis]
    coloured = 255 * COLOURS(heat)[:, :, :3]
    return np.round((1 - opacity) * picture + opacity * coloured).astype(np.uint8)


def draw_explanation(
    prediction: Prediction,
    clip: DecodedClip,
    frames: Sequence[int],
    heat: np.ndarray,
    streams: Sequence[str],
    threshold: float,
) -> np.ndarray:
    """Return a picture of a clip's frames with their attention, and heat maps of some frames.

    Args:
        prediction: for the clip, with a probability and the frames' attention.
        clip: read with its pictures.
        frames: indices of the frames with heat maps.
        heat: `(frames, streams, 224, 224)`, 0 or above; drawn on one scale per stream.
        streams: their names.
        threshold: of the probability.

    Returns:
        `(height, width, 3)` uint8 RGB.
    """
    assert prediction.probability is not None
    header = np.full((HEADER, WIDTH, 3), PAPER, np.uint8)
    name = CLASS_NAMES[bool(prediction.violent)]
    text = f"{name}: probability {prediction.probability:.3f}, threshold {threshold:.3f}"
    _write(header, text, 0.7)
    rows = [
        header,
        *_attention_rows(prediction, clip),
        *_heat_rows(prediction, clip, frames, heat, streams),
    ]
    width = max(row.shape[1] for row in rows)
    return np.vstack([_pad_to(row, width) for row in rows])


def _attention_rows(prediction: Prediction, clip: DecodedClip) -> list[np.ndarray]:
    assert clip.pictures is not None
    assert prediction.attention is not None
    highest = max(prediction.attention)
    tiles = []
    for frame, (picture, weight) in enumerate(
        zip(clip.pictures, prediction.attention, strict=True)
    ):
        time = f"{prediction.times[frame]:.2f} s" if prediction.times else f"frame {frame + 1}"
        caption = f"{time}  {100 * weight:.1f}%"
        tiles.append(
            _tile(picture, clip.info.aspect_ratio, WIDTH // COLUMNS, caption, bar=weight / highest)
        )
    tiles += [np.full_like(tiles[0], PAPER)] * (-len(tiles) % COLUMNS)
    return [np.hstack(tiles[first : first + COLUMNS]) for first in range(0, len(tiles), COLUMNS)]


def _heat_rows(
    prediction: Prediction,
    clip: DecodedClip,
    frames: Sequence[int],
    heat: np.ndarray,
    streams: Sequence[str],
) -> list[np.ndarray]:
    assert clip.pictures is not None
    size = WIDTH // (1 + len(streams))
    highest = np.maximum(heat.max(axis=(0, 2, 3)), TINY)
    rows = []
    for frame, frame_heat in zip(frames, heat, strict=True):
        picture = clip.pictures[frame]
        time = f", {prediction.times[frame]:.2f} s" if prediction.times else ""
        tiles = [_tile(picture, clip.info.aspect_ratio, size, f"frame {frame + 1}{time}")]
        for stream, stream_heat, top in zip(streams, frame_heat, highest, strict=True):
            heated = overlay(picture, stream_heat / top)
            caption = f"evidence of violence: {stream}"
            tiles.append(_tile(heated, clip.info.aspect_ratio, size, caption))
        rows.append(np.hstack(tiles))
    return rows


def _tile(
    picture: np.ndarray, ratio: float | None, size: int, caption: str, bar: float | None = None
) -> np.ndarray:
    """Return a picture in the clip's own aspect ratio, a bar of a share of its width, a caption."""
    small = shrink(picture, ratio or 1.0, size - 2 * GAP)
    height, width = small.shape[:2]
    tile = np.full((height + GAP + BAR + CAPTION, size, 3), PAPER, np.uint8)
    left = (size - width) // 2
    tile[GAP : GAP + height, left : left + width] = small
    if bar is not None:
        rows = slice(GAP + height + 2, GAP + height + BAR)
        tile[rows, left : left + width] = FAINT
        tile[rows, left : left + round(bar * width)] = ORANGE
    _write(tile[GAP + height + BAR :], caption, 0.4, left)
    return tile


def _write(band: np.ndarray, text: str, scale: float, left: int = GAP) -> None:
    line = np.ascontiguousarray(band)
    origin = left, len(band) - GAP
    cv2.putText(line, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)
    band[:] = line


def _pad_to(row: np.ndarray, width: int) -> np.ndarray:
    return np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=PAPER)


class ExplanationWriter:
    """Writes the pictures of predicted clips to a folder.

    Args:
        detector: that made the predictions.
        folder: created with the first picture.
        paths: of all clips to explain. Below `folder` the pictures are arranged as the clips are
            below the deepest folder that contains all of them.
    """

    def __init__(self, detector: Detector, folder: Path, paths: Sequence[Path]):
        self.detector = detector
        self.folder = folder
        self._common = os.path.commonpath([path.absolute().parent for path in paths])
        self._grad_cam = GradCam(detector)

    def path_of(self, clip: Path) -> Path:
        """Return the path of a clip's picture."""
        below = Path(os.path.relpath(clip.absolute(), self._common))
        name = os.fsencode(below.name)
        if len(name) > NAME_BYTES:
            name = name[:NAME_BYTES] + hashlib.blake2b(name, digest_size=4).hexdigest().encode()
        return self.folder / below.with_name(os.fsdecode(name) + ".jpg")

    def write(self, predicted: PredictedClip) -> Path:
        """Explain a clip that was read with its pictures; return the picture's path.

        Raises:
            RunError: the picture cannot be written.
        """
        prediction, clip, features = predicted.prediction, predicted.clip, predicted.features
        assert clip is not None
        assert features is not None
        frames = top_frames(prediction) or list(range(min(TOP_FRAMES, len(features))))
        heat = self._grad_cam.heat_maps(features, clip.images, frames)
        detector = self.detector
        picture = draw_explanation(
            prediction, clip, frames, heat, detector.streams, detector.threshold
        )
        path = self.path_of(Path(clip.path))
        with failing_as(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, as_jpeg(picture, JPEG_QUALITY))
        return path
