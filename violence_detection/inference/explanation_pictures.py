"""Why the detector says so: the frames that weighed most, and where in them.

Grad-CAM, Selvaraju et al., https://arxiv.org/abs/1610.02391: each channel of a layer's map counts
by the mean gradient of the answer with respect to it; what speaks against the answer is left out.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import cv2
import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import ops

from violence_detection.errors import failing_as
from violence_detection.inference.detector import DecodedClip, Detector, PredictedClip, Prediction
from violence_detection.inference.formats import MOST, most_attended
from violence_detection.settings.constants import CLASS_NAMES, FRAME_SIZE, VGG19_LAYERS
from violence_detection.storage.files import replace_file

LAST_CONVOLUTION = "block5_conv4"  # whose map is taken where the feature itself has none
WIDTH, COLUMNS = 1200, 8  # pixels of a drawing, and how many pictures of a strip are in a row
HEAD, CAPTION, BAR, GAP = 36, 22, 10, 4  # pixels
PAPER, INK, FAINT, ORANGE = 255, (31, 35, 40), (223, 227, 232), (213, 94, 0)  # RGB
HEAT = 0.6  # of a picture's colour, where the map is highest
COLOURS = matplotlib.colormaps["inferno"]
TINY = 1e-12  # where nothing speaks for violence, a map is 0 all over
JPEG_QUALITY = 88
NAME_BYTES = 200  # of a file; of a longer name, the beginning and a hash are taken


class GradCam:
    """Tells where in a frame it is that speaks for violence."""

    def __init__(self, detector: Detector):
        self.detector = detector

    @cached_property
    def _logit(self) -> keras.Model:
        """The classifier up to its logit; of an ensemble, the mean of its members' logits."""
        classifier = self.detector.classifier
        members = [layer for layer in classifier.layers if isinstance(layer, keras.Model)]
        features = keras.Input(classifier.input.shape[1:], dtype="float32")
        logits = [
            keras.Model(member.input, member.get_layer("logit").output)(features)
            for member in members or [classifier]
        ]
        return keras.Model(features, sum(logits[1:], logits[0]) / len(logits))

    @cached_property
    def _gradients(self) -> Callable[[tf.Tensor], tf.Tensor]:
        logit = self._logit

        @tf.function
        def gradients(features: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(features)
                answer = logit(features, training=False)
            return tape.gradient(answer, features)

        return gradients

    @cached_property
    def _maps(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """From images and the gradients of their features to maps, `(images, h, w)` float32."""
        layer = self.detector.recipes[0].layer
        seen = layer if layer.startswith("block") else LAST_CONVOLUTION
        network = self.detector.make_vgg19()
        to_map = keras.Model(network.input, network.get_layer(seen).output)
        above = [
            network.get_layer(name)
            for name in VGG19_LAYERS[VGG19_LAYERS.index(seen) + 1 : VGG19_LAYERS.index(layer) + 1]
        ]

        @tf.function
        def maps(images: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
            activations = tf.cast(to_map(images, training=False), tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(activations)
                features = tf.cast(activations, self.detector.computation)
                for part in above:
                    features = part(features)
                features = tf.cast(features, tf.float32)
                if len(features.shape) == 4:
                    features = ops.mean(features, axis=(1, 2))
                # How the logit answers to the map, by way of these features.
                answer = tf.reduce_sum(features * gradients)
            of_map = tape.gradient(answer, activations)
            counts = tf.reduce_mean(of_map, axis=(1, 2), keepdims=True)
            return tf.nn.relu(tf.reduce_sum(counts * activations, axis=3))

        return maps

    def of_frames(
        self, features: np.ndarray, images: np.ndarray, frames: Sequence[int]
    ) -> np.ndarray:
        """Return `(frames, streams, 224, 224)` float32, 0 or above: how much each place counts.

        Args:
            features: `(all frames, values)` of a clip, as it was judged by.
            images: `(streams, all frames, 224, 224, 3)` uint8, what they are features of.
            frames: which of them are looked at; of always the same number of frames, the graph is
                made once.
        """
        streams = len(self.detector.streams)
        gradients = self._gradients(tf.constant(features[np.newaxis], tf.float32)).numpy()[0]
        # One stream's features after the other's: each part belongs to an image of its own.
        by_stream = gradients.reshape(len(features), streams, -1)[list(frames)]
        shown = images[:, list(frames)].swapaxes(0, 1)
        maps = self._maps(
            tf.constant(shown.reshape(-1, *images.shape[2:])),
            tf.constant(by_stream.reshape(len(frames) * streams, -1)),
        ).numpy()
        large = [cv2.resize(one, (FRAME_SIZE, FRAME_SIZE)) for one in maps]
        return np.reshape(large, (len(frames), streams, FRAME_SIZE, FRAME_SIZE))


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a picture with a heat map over it, `(height, width, 3)` uint8.

    Args:
        picture: `(height, width, 3)` uint8 RGB.
        heat: `(height, width)`, from 0, where the picture shows as it is, to 1.
    """
    share = HEAT * heat[:, :, np.newaxis]
    coloured = 255 * COLOURS(heat)[:, :, :3]
    return np.round((1 - share) * picture + share * coloured).astype(np.uint8)


def draw_explanation(
    detector: Detector,
    verdict: Prediction,
    clip: DecodedClip,
    frames: Sequence[int],
    heat: np.ndarray,
) -> np.ndarray:
    """Return a clip's frames with their attention, and heat maps of some, as one uint8 picture.

    Args:
        clip: read with its pictures.
        frames: the numbers, from 0, of those with heat maps.
        heat: `(frames, streams, 224, 224)`, 0 or above; of a stream, all are drawn on one scale.
    """
    assert clip.pictures is not None
    assert verdict.attention is not None
    ratio, heaviest = clip.aspect_ratio or 1.0, max(verdict.attention)
    small = WIDTH // COLUMNS
    strip = [
        _tile(
            picture,
            ratio,
            small,
            f"{time_of(verdict, frame)}  {100 * weight:.1f} %",
            bar=weight / heaviest,
        )
        for frame, (picture, weight) in enumerate(
            zip(clip.pictures, verdict.attention, strict=True)
        )
    ]
    strip += [np.full_like(strip[0], PAPER)] * (-len(strip) % COLUMNS)
    rows = [np.hstack(strip[first : first + COLUMNS]) for first in range(0, len(strip), COLUMNS)]
    streams = detector.streams
    large = WIDTH // (1 + len(streams))
    highest = np.maximum(heat.max(axis=(0, 2, 3)), TINY)
    for frame, of_streams in zip(frames, heat, strict=True):
        picture = clip.pictures[frame]
        tiles = [_tile(picture, ratio, large, f"frame {frame + 1}, {time_of(verdict, frame)}")]
        tiles += [
            _tile(overlay(picture, of_one / top), ratio, large, f"where its {stream} says violent")
            for stream, of_one, top in zip(streams, of_streams, highest, strict=True)
        ]
        rows.append(np.hstack(tiles))
    head = np.full((HEAD, WIDTH, 3), PAPER, np.uint8)
    said = f"{CLASS_NAMES[bool(verdict.violent)]}: probability {verdict.probability:.3f}"
    _write(head, f"{said}, threshold {detector.threshold:.3f}", 0.7)
    width = max(row.shape[1] for row in rows)
    return np.vstack([_as_wide(part, width) for part in (head, *rows)])


def time_of(verdict: Prediction, frame: int) -> str:
    """Return when a frame is shown, in words; its number where that is not known."""
    return f"{verdict.times[frame]:.2f} s" if verdict.times else f"frame {frame + 1}"


def _tile(
    picture: np.ndarray, ratio: float, side: int, caption: str, bar: float | None = None
) -> np.ndarray:
    """Return a picture of a clip's own shape, a caption below it, and between them a bar."""
    inside = side - 2 * GAP
    width = max(1, round(inside * min(1.0, ratio)))
    height = max(1, round(inside * min(1.0, 1 / ratio)))
    tile = np.full((height + GAP + BAR + CAPTION, side, 3), PAPER, np.uint8)
    left = (side - width) // 2
    tile[GAP : GAP + height, left : left + width] = cv2.resize(
        picture, (width, height), interpolation=cv2.INTER_AREA
    )
    if bar is not None:
        below = slice(GAP + height + 2, GAP + height + BAR)
        tile[below, left : left + width] = FAINT
        tile[below, left : left + round(bar * width)] = ORANGE
    _write(tile[GAP + height + BAR :], caption, 0.4, left)
    return tile


def _write(band: np.ndarray, text: str, size: float, left: int = GAP) -> None:
    line = np.ascontiguousarray(band)
    place = left, len(band) - GAP
    cv2.putText(line, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
    band[:] = line


def _as_wide(part: np.ndarray, width: int) -> np.ndarray:
    missing = width - part.shape[1]
    return np.pad(part, ((0, 0), (0, missing), (0, 0)), constant_values=PAPER)


class ExplanationWriter:
    """Pictures in a folder, one for each clip that was judged.

    Args:
        folder: made if it is not there.
        paths: all clips that there will be pictures of: below `folder` they lie as these do below
            the folder that they have in common.
    """

    def __init__(self, detector: Detector, folder: Path, paths: Sequence[Path]):
        self.detector = detector
        self.folder = folder
        self._common = os.path.commonpath([path.absolute().parent for path in paths])
        self._maps = GradCam(detector)

    def path_of(self, clip: Path) -> Path:
        """Return where a clip's picture is."""
        below = Path(os.path.relpath(clip.absolute(), self._common))
        name = os.fsencode(below.name)
        if len(name) > NAME_BYTES:
            name = name[:NAME_BYTES] + hashlib.blake2b(name, digest_size=4).hexdigest().encode()
        return self.folder / below.with_name(os.fsdecode(name) + ".jpg")

    def write(self, examined: PredictedClip) -> Path:
        """Explain a clip that was judged, read with its pictures; return the picture's path.

        Raises:
            RunError: it cannot be written.
        """
        verdict, clip, features = examined.prediction, examined.clip, examined.features
        assert clip is not None
        assert features is not None
        frames = most_attended(verdict) or list(range(min(MOST, len(features))))
        heat = self._maps.of_frames(features, clip.images, frames)
        picture = draw_explanation(self.detector, verdict, clip, frames, heat)
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1]
        path = self.path_of(Path(clip.path))
        with failing_as(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda partial: partial.write_bytes(encoded.tobytes()))
        return path
