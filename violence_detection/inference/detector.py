"""A trained detector: from a run's checkpoint directory to predictions on clips, frames, features.

A clip is processed exactly as in the run's own test: the same frames, streams, VGG19 weights and
number format, the same classifier, temperature and threshold.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from violence_detection.clips.cancellation import Cancellation
from violence_detection.clips.clip import Footage, Segment, VideoSegment
from violence_detection.clips.decode_ahead import decode_ahead
from violence_detection.clips.decoders import DecoderProcesses
from violence_detection.clips.frames import ClipInfo, Times, choose_frames, even_positions
from violence_detection.clips.streams import stream_images
from violence_detection.clips.video import UnreadableClip
from violence_detection.evaluation.calibration import calibrate
from violence_detection.inference.feature_networks import FeatureNetworks
from violence_detection.models.classifier import with_attention
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA
from violence_detection.runs.saved_detector import SavedDetector, find_detector
from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.settings.constants import CLIP_TIMEOUT, LONG_CLIP, PIXELS
from violence_detection.storage.remote_paths import AnyPath, local_copy, prefetched

CLASSIFIER_BATCH = 16  # clips; smaller batches are padded, so that the graph is traced once


class ClassifierOutput(NamedTuple):
    """The classifier's output for some clips."""

    probabilities: np.ndarray  # (clips,) float64, calibrated; nan for features that are not finite
    attention: np.ndarray  # (clips, frames) float32: the frames' weights, which sum to 1 per clip


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file or segment; without one, `error` gives the reason."""

    path: AnyPath
    probability: float | None = None  # of violence, calibrated
    violent: bool | None = None  # whether the probability reaches the threshold
    attention: tuple[float, ...] | None = None  # the frames' weights, which sum to 1
    times: Times = None  # of the frames, in seconds from the start
    error: str | None = None
    warnings: tuple[str, ...] = ()  # why it is unreliable; mostly none
    info: ClipInfo | None = None  # what the clip is like, if it could be read
    segment: Segment | None = None  # of the video; None: all of it

    @property
    def name(self) -> str:
        """The path of the video, and the segment."""
        return f"{self.path}{self.segment or ''}"


@dataclass(frozen=True)
class DecodedClip:
    """The input of VGG19 for one clip."""

    path: AnyPath
    images: np.ndarray  # (streams, frames, 224, 224, 3) uint8
    times: Times
    info: ClipInfo
    pictures: np.ndarray | None = None  # (frames, 224, 224, 3) uint8 RGB, if asked for
    segment: Segment | None = None  # of the video; None: all of it


@dataclass(frozen=True)
class PredictedClip:
    """A prediction with its inputs; an unreadable file has none."""

    prediction: Prediction
    clip: DecodedClip | None = None
    features: np.ndarray | None = None  # (frames, features_per_frame), in the recipes' dtype


@dataclass(frozen=True)
class Detector(FeatureNetworks):
    """A saved detector with everything needed to predict clips; made by `load_detector`.

    Its methods run on one thread at a time, `read_clip` excepted.
    """

    classifier: keras.Model  # (clips, frames, features) float32 to (clips, 1), as it was saved

    def is_too_long(self, seconds: float) -> bool:
        """Return whether a clip is too long for one answer: far longer than training clips."""
        return self.clip_seconds is not None and seconds > LONG_CLIP * self.clip_seconds

    @property
    def name(self) -> str:
        """The model's file name and the first digits of its checksum."""
        return f"{self.model_path.name} {self.model_checksum[:8]}"

    @property
    def cached_frames(self) -> int:
        """How many frames of a clip are read; streams are computed between neighbouring ones."""
        return self.recipes[0].frames

    @property
    def frame_indices(self) -> np.ndarray:
        """`(frames,)` int32: which of the frames that are read the classifier takes."""
        return even_positions(self.cached_frames, self.frames)

    @property
    def classifier_batch(self) -> int:
        """The classifier's batch size in clips; smaller batches are padded.

        A network from pixels takes as long for a clip as a backbone does.
        """
        from_pixels = any(recipe.backbone == PIXELS for recipe in self.recipes)
        return self.clips_per_batch if from_pixels else CLASSIFIER_BATCH

    @cached_property
    def _classifier_with_attention(self) -> keras.Model:
        return with_attention(self.classifier)

    def predict_features(self, features: np.ndarray) -> ClassifierOutput:
        """Return the classifier's output for features.

        Args:
            features: `(clips, frames, features_per_frame)` of any float type.
        """
        outputs = [
            self._predict_batch(features[first : first + self.classifier_batch])
            for first in range(0, len(features), self.classifier_batch)
        ]
        if not outputs:
            return ClassifierOutput(np.zeros(0), np.zeros((0, self.frames), np.float32))
        probabilities, attention = zip(*outputs, strict=True)
        return ClassifierOutput(np.concatenate(probabilities), np.concatenate(attention))

    def _predict_batch(self, features: np.ndarray) -> ClassifierOutput:
        clips = len(features)
        shape = (self.classifier_batch, self.frames, self.features_per_frame)
        batch = np.zeros(shape, self.classifier.input.dtype)
        finite = np.isfinite(features).all(axis=(1, 2))
        batch[:clips][finite] = features[finite]
        output = self._classifier_with_attention.predict_on_batch(batch)
        probabilities = calibrate(output["violence"][:clips, 0], self.temperature)
        probabilities[~finite] = np.nan
        return ClassifierOutput(probabilities, output["attention"][:clips].astype(np.float32))

    def predict_images(self, images: np.ndarray) -> ClassifierOutput:
        """Return the classifier's output for images, as `clip_features` takes them."""
        return self.predict_features(self.clip_features(images))

    def read_clip(
        self,
        decoders: DecoderProcesses,
        path: AnyPath,
        with_pictures: bool = False,
        segment: Segment | None = None,
        cancellation: Cancellation | None = None,
    ) -> DecodedClip | Prediction:
        """Read a clip; may be called from several threads.

        Args:
            decoders: for `cached_frames` frames and a view per stream, plus one with pictures.
            with_pictures: also return the frames as a person would see them.
            segment: of the video; None: all of it.
            cancellation: ends it; None: nobody does.

        Returns:
            The clip; if it cannot be read, a `Prediction` with the reason.
        """
        streams = [*self.streams, *(["rgb"] if with_pictures else [])]
        try:
            with local_copy(path) as copy:
                images, info = decoders.read_clip(
                    copy, [(name, False) for name in streams], segment, cancellation
                )
        except UnreadableClip as error:
            return Prediction(path, error=str(error), segment=segment)
        except OSError as error:
            return Prediction(path, error=error.strerror or str(error), segment=segment)
        images = images[:, self.frame_indices]
        times = info.times and tuple(info.times[index] for index in self.frame_indices)
        pictures = images[-1] if with_pictures else None
        return DecodedClip(path, images[: len(self.streams)], times, info, pictures, segment)

    def decoded(self, pictures: np.ndarray) -> DecodedClip:
        """Return a clip whose frames are in memory, prepared as `read_clip` does.

        Args:
            pictures: `(n, height, width, 3)` uint8 RGB, at least one, evenly spaced over the clip.
        """
        frames, info = choose_frames(pictures, self.cached_frames)
        images = np.stack([stream_images(frames, stream) for stream in self.streams])
        return DecodedClip(Path(), images[:, self.frame_indices], None, info)

    def predict_decoded(self, clips: Sequence[DecodedClip]) -> list[Prediction]:
        """Return the predictions for clips that were read, computed in one batch."""
        return [predicted.prediction for predicted in self._predict_decoded(clips)]

    def _predict_decoded(self, clips: Sequence[DecodedClip]) -> list[PredictedClip]:
        if not clips:
            return []
        features = self.clip_features(np.stack([clip.images for clip in clips]))
        output = self.predict_features(features)
        return [
            PredictedClip(self._prediction(clip, probability, attention), clip, of_clip)
            for clip, probability, attention, of_clip in zip(clips, *output, features, strict=True)
        ]

    def _prediction(
        self, clip: DecodedClip, probability: float, attention: np.ndarray
    ) -> Prediction:
        if not np.isfinite(probability):
            reason = f"its features are too large for {self.feature_dtype}"
            return Prediction(clip.path, error=reason, segment=clip.segment)
        return Prediction(
            clip.path,
            float(probability),
            bool(probability >= self.threshold),
            tuple(attention.tolist()),
            clip.times,
            warnings=self._warnings(clip.info),
            info=clip.info,
            segment=clip.segment,
        )

    def _warnings(self, info: ClipInfo) -> tuple[str, ...]:
        """Return why a prediction for a whole clip is unreliable."""
        warnings = info.warnings()
        if self.is_too_long(info.seconds):
            warnings.append(
                f"{self.frames} frames stand for {info.seconds:.0f} s, but training clips last "
                f"{self.clip_seconds:g} s"
            )
        return tuple(warnings)

    def predict_clips(
        self,
        paths: Iterable[Footage],
        clip_timeout: float = CLIP_TIMEOUT,
        clock: StageClock | None = None,
    ) -> Generator[Prediction, None, None]:
        """Yield a prediction for each clip, as `predict_with_inputs` does."""
        with contextlib.closing(self.predict_with_inputs(paths, clip_timeout, clock)) as clips:
            for predicted in clips:
                yield predicted.prediction

    def predict_with_inputs(
        self,
        paths: Iterable[Footage],
        clip_timeout: float = CLIP_TIMEOUT,
        clock: StageClock | None = None,
        with_pictures: bool = False,
    ) -> Generator[PredictedClip, None, None]:
        """Yield a prediction for each clip with its inputs, in the order of the paths.

        Clips are decoded in processes ahead of the network, and predicted in batches. Memory
        holds a few batches, however many clips there are.

        Args:
            paths: files and segments, taken as they are needed; may be endless.
            clip_timeout: seconds that reading a clip may take.
            clock: measures the time spent waiting for frames, and in the networks.
            with_pictures: also keep the frames as a person would see them.
        """

        def read(decoders: DecoderProcesses, item: Footage) -> DecodedClip | Prediction:
            path, segment = _video_and_segment(item)
            return self.read_clip(decoders, path, with_pictures, segment)

        ahead = decode_ahead(
            prefetched(paths, lambda item: _video_and_segment(item)[0]),
            read,
            self.cached_frames,
            len(self.streams) + with_pictures,
            2 * self.clips_per_batch,
            clip_timeout,
            clock or StageClock(),
        )
        pending: list[DecodedClip | Prediction] = []
        readable = 0  # of the pending
        with contextlib.closing(ahead):
            for decoded in ahead:
                pending.append(decoded)
                readable += isinstance(decoded, DecodedClip)
                if readable in (0, self.clips_per_batch):
                    yield from self._predict_pending(pending)
                    pending.clear()
                    readable = 0
            yield from self._predict_pending(pending)

    def _predict_pending(
        self, pending: Sequence[DecodedClip | Prediction]
    ) -> Iterator[PredictedClip]:
        readable = [clip for clip in pending if isinstance(clip, DecodedClip)]
        predicted = iter(self._predict_decoded(readable))
        for clip in pending:
            yield PredictedClip(clip) if isinstance(clip, Prediction) else next(predicted)


def _video_and_segment(item: Footage) -> tuple[AnyPath, Segment | None]:
    return (item.path, item.segment) if isinstance(item, VideoSegment) else (item, None)


def load_detector(
    checkpoint_dir: Path,
    vgg19_weights: str | None = None,
    *,
    mixed_precision: bool | None = None,
    replicas: int | None = None,
) -> Detector:
    """Return the detector of a finished run.

    Args:
        checkpoint_dir: the run's folder.
        vgg19_weights: "imagenet", "random" or a file's path; None: those of the run.
        mixed_precision: compute VGG19 in float16 on a GPU, in bfloat16 on a CPU that supports it.
            None: in the run's number format, for the same predictions; in float32 if this device
            does not support that.
        replicas: how many GPUs to use; without a GPU, into how many parts to split the CPU. None:
            all GPUs, or 1. Only takes effect before TensorFlow has computed anything.

    Raises:
        UserError: the folder has no finished run; its model is missing or not the one that was
            tested; the VGG19 weights are missing or not those of the run.
    """
    saved = find_detector(checkpoint_dir, vgg19_weights)
    return open_detector(saved, mixed_precision=mixed_precision, replicas=replicas)


def open_detector(
    saved: SavedDetector, *, mixed_precision: bool | None = None, replicas: int | None = None
) -> Detector:
    """Return a detector that was found; the other arguments are those of `load_detector`."""
    devices = find_devices(replicas)
    strategy = make_strategy(devices, len(devices) * CLIPS_PER_REPLICA)
    fast = choose_precision(True, devices[0].device_type).computation
    mixed = saved.computation == fast if mixed_precision is None else mixed_precision
    opened = replace(saved, computation=fast if mixed else "float32")
    return Detector(
        **vars(opened),
        classifier=keras.models.load_model(saved.model_path, safe_mode=True),
        devices=tuple(devices),
        strategy=strategy,
    )
