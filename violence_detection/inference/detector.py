"""A trained detector: from a run's checkpoint directory to verdicts on clips, frames or features.

What a clip is judged by is what it was judged by in the run's own test: the same frames, streams,
VGG19 weights and number format, the same classifier, temperature and threshold.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from violence_detection.clips.decoders import DecoderProcesses
from violence_detection.clips.frames import Times, UnreadableClip, even_positions
from violence_detection.errors import UserError
from violence_detection.evaluation.calibration import calibrate
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.extraction import (
    CLIPS_PER_REPLICA,
    decode_ahead,
    on_replicas,
    padded_features,
)
from violence_detection.models.classifier import (
    build_extractor,
    identify_weights,
    with_attention,
)
from violence_detection.runs.files import CONFIG, DETECTOR
from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.storage.files import file_checksum, read_json
from violence_detection.storage.object_store import AnyPath, announced, local_copy

CLASSIFIER_BATCH = 16  # clips: the classifier, too, is given one shape always
CLIP_TIMEOUT = 120.0  # seconds, as in training


class ClassifierOutput(NamedTuple):
    """What the detector says of clips."""

    probabilities: np.ndarray  # (clips,) float64, calibrated; nan for features that are not finite
    attention: np.ndarray  # (clips, frames) float32: each frame's weight, of a clip they sum to 1


@dataclass(frozen=True)
class Prediction:
    """What the detector says of one file; where it cannot be judged, why."""

    path: AnyPath
    probability: float | None = None  # of violence, calibrated
    violent: bool | None = None  # whether the probability reaches the threshold
    attention: tuple[float, ...] | None = None  # each frame's weight; they sum to 1
    times: Times = None  # when each frame is shown, seconds from the start
    error: str | None = None  # why there is none of these


@dataclass(frozen=True)
class DecodedClip:
    """What VGG19 is shown of a clip."""

    path: AnyPath
    images: np.ndarray  # (streams, frames, 224, 224, 3) uint8
    times: Times
    pictures: np.ndarray | None = None  # (frames, 224, 224, 3) uint8 RGB, if they were asked for
    aspect_ratio: float | None = None  # width over height; None: not asked for, or not known


@dataclass(frozen=True)
class PredictedClip:
    """A prediction, and what it was made from; a file that cannot be judged has neither."""

    prediction: Prediction
    clip: DecodedClip | None = None
    features: np.ndarray | None = None  # (frames, values), in the recipes' dtype


@dataclass(frozen=True)
class Detector:
    """A trained model with all that it takes to judge a clip; made by `load_detector`."""

    checkpoint_dir: Path
    model_path: Path
    model_checksum: str  # hexadecimal
    classifier: keras.Model  # (clips, frames, values) float32 to (clips, 1), as it was saved
    recipes: tuple[Recipe, ...]  # one per stream
    frames: int  # that the classifier is given of a clip
    temperature: float
    threshold: float  # of the calibrated probability; from it on a clip is called violent
    chosen_for: str
    vgg19_weights: str  # "imagenet", "random" or a file's path
    computation: str  # dtype of VGG19's arithmetic
    devices: tuple[tf.config.LogicalDevice, ...]
    strategy: tf.distribute.Strategy  # over these devices

    @property
    def name(self) -> str:
        """The model's file name, and the beginning of its checksum."""
        return f"{self.model_path.name} {self.model_checksum[:8]}"

    @property
    def untrained_vgg19(self) -> bool:
        """Whether the features are those of random weights, which detect nothing but the demo's."""
        return self.vgg19_weights == "random"

    @property
    def streams(self) -> tuple[str, ...]:
        """What VGG19 is shown, in the order of the features."""
        return tuple(recipe.stream for recipe in self.recipes)

    @property
    def cached_frames(self) -> int:
        """How many frames of a clip are read: streams are computed between neighbours of these."""
        return self.recipes[0].frames

    @property
    def frame_indices(self) -> np.ndarray:
        """`(frames,)` int32: which of the frames that are read the classifier is given."""
        return even_positions(self.cached_frames, self.frames)

    @property
    def features_per_frame(self) -> int:
        """How many features a frame has, of all streams together."""
        return sum(recipe.features for recipe in self.recipes)

    @property
    def clips_per_batch(self) -> int:
        """How many clips of one stream VGG19 is given at once, padded."""
        return self.strategy.num_replicas_in_sync * CLIPS_PER_REPLICA

    @property
    def images_per_batch(self) -> int:
        """How many images VGG19 is given at once, padded."""
        return self.clips_per_batch * self.frames

    def make_vgg19(self) -> keras.Model:
        """Return VGG19 up to the feature layer, `(n, 224, 224, 3)` uint8 to `(n, features)`.

        Raises:
            RunError: the weights cannot be downloaded.
        """
        return build_extractor(self.recipes[0].layer, self.vgg19_weights, self.computation)

    @cached_property
    def network(self) -> Callable[[np.ndarray], np.ndarray]:
        """VGG19 on all devices, from `(clips_per_batch, frames, 224, 224, 3)`; made when needed."""
        return on_replicas(self.strategy, self.make_vgg19)

    @cached_property
    def _with_attention(self) -> keras.Model:
        return with_attention(self.classifier)

    def predict_features(self, features: np.ndarray) -> ClassifierOutput:
        """Return what the classifier says of `(clips, frames, values)` features of any float type.

        To be called from one thread at a time.
        """
        judged = [
            self._judge_batch(features[first : first + CLASSIFIER_BATCH])
            for first in range(0, len(features), CLASSIFIER_BATCH)
        ]
        if not judged:
            return ClassifierOutput(np.zeros(0), np.zeros((0, self.frames), np.float32))
        probabilities, attention = zip(*judged, strict=True)
        return ClassifierOutput(np.concatenate(probabilities), np.concatenate(attention))

    def _judge_batch(self, features: np.ndarray) -> ClassifierOutput:
        batch = np.zeros((CLASSIFIER_BATCH, self.frames, self.features_per_frame), np.float32)
        finite = np.isfinite(features).all(axis=(1, 2))
        batch[: len(features)][finite] = features[finite]
        judged = self._with_attention.predict_on_batch(batch)
        probabilities = calibrate(judged["violence"][: len(features), 0], self.temperature)
        probabilities[~finite] = np.nan
        return ClassifierOutput(
            probabilities, judged["attention"][: len(features)].astype(np.float32)
        )

    def clip_features(self, images: np.ndarray) -> np.ndarray:
        """Return `(clips, frames, values)` features, rounded as in the feature cache.

        To be called from one thread at a time.

        Args:
            images: `(clips, streams, frames, 224, 224, 3)` uint8: what each stream, in the order
                of `streams`, shows of the frames that the classifier is given.
        """
        clips, streams = images.shape[:2]
        features = self.image_features(images.reshape(-1, *images.shape[3:]))
        by_frame = features.reshape(clips, streams, self.frames, -1).swapaxes(1, 2)
        return by_frame.reshape(clips, self.frames, self.features_per_frame)

    def image_features(self, images: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """Return `(images, features)` of `(images, 224, 224, 3)` uint8 of any streams.

        Rounded as in the feature cache. To be called from one thread at a time.

        Args:
            batch_size: how many VGG19 is given, padded; the replicas must divide it. None: as many
                as of clips.
        """
        recipe, batch_size = self.recipes[0], batch_size or self.images_per_batch
        features = np.zeros((len(images), recipe.features), recipe.dtype)
        for first in range(0, len(images), batch_size):
            batch = images[first : first + batch_size]
            # As clips of one frame each: the network is given the same images.
            of_clips = padded_features(self.network, batch[:, None], batch_size, recipe.dtype)
            features[first : first + batch_size] = of_clips[:, 0]
        return features

    def predict_images(self, images: np.ndarray) -> ClassifierOutput:
        """Return what the detector says of what `clip_features` takes."""
        return self.predict_features(self.clip_features(images))

    def read_clip(
        self, decoders: DecoderProcesses, path: AnyPath, with_pictures: bool = False
    ) -> DecodedClip | Prediction:
        """Return what VGG19 is shown of a clip; a verdict that says so if it cannot be read.

        May be called from several threads.

        Args:
            decoders: for `cached_frames` frames and as many views as there are streams; one more
                with pictures.
            with_pictures: also what a human is shown.
        """
        streams = [*self.streams, *(["rgb"] if with_pictures else [])]
        aspect_ratio = None
        try:
            with local_copy(path) as copy:
                images, times = decoders.read_timed_images(copy, [(n, False) for n in streams])
                if with_pictures:
                    with contextlib.suppress(UnreadableClip):
                        aspect_ratio = decoders.aspect_ratio(copy)
        except UnreadableClip as error:
            return Prediction(path, error=str(error))
        except OSError as error:
            return Prediction(path, error=error.strerror or str(error))
        shown, count = self.frame_indices, len(self.streams)
        images, times = images[:, shown], times and tuple(times[place] for place in shown)
        if not with_pictures:
            return DecodedClip(path, images, times)
        return DecodedClip(path, images[:count], times, images[count], aspect_ratio)

    def predict_decoded(self, clips: Sequence[DecodedClip]) -> list[Prediction]:
        """Return the verdicts on clips that were read, in one pass of VGG19 over all of them."""
        return [examined.prediction for examined in self._examine(clips)]

    def _examine(self, clips: Sequence[DecodedClip]) -> list[PredictedClip]:
        if not clips:
            return []
        features = self.clip_features(np.stack([clip.images for clip in clips]))
        judged = zip(*self.predict_features(features), strict=True)
        return [
            PredictedClip(self._verdict(clip, *of_clip), clip, values)
            for clip, of_clip, values in zip(clips, judged, features, strict=True)
        ]

    def _verdict(self, clip: DecodedClip, probability: float, attention: np.ndarray) -> Prediction:
        if not np.isfinite(probability):
            return Prediction(
                clip.path, error=f"its features are too large for {self.recipes[0].dtype}"
            )
        return Prediction(
            clip.path,
            float(probability),
            bool(probability >= self.threshold),
            tuple(attention.tolist()),
            clip.times,
        )

    def predict_clips(
        self,
        paths: Iterable[AnyPath],
        clip_timeout: float = CLIP_TIMEOUT,
        clock: StageClock | None = None,
    ) -> Generator[Prediction, None, None]:
        """Yield the verdict on each clip, as `predict_with_inputs` does."""
        with contextlib.closing(
            self.predict_with_inputs(paths, clip_timeout, clock)
        ) as examined_clips:
            for examined in examined_clips:
                yield examined.prediction

    def predict_with_inputs(
        self,
        paths: Iterable[AnyPath],
        clip_timeout: float = CLIP_TIMEOUT,
        clock: StageClock | None = None,
        with_pictures: bool = False,
    ) -> Generator[PredictedClip, None, None]:
        """Yield what is found on each clip, in their order; one that cannot be judged says why.

        Clips are decoded in processes ahead of the network, and judged several at once. Memory
        holds a few batches of them, however many there are.

        Args:
            clip_timeout: seconds that reading a clip may take.
            clock: counts the time that is spent waiting for frames, and in the networks.
            with_pictures: also what a human is shown of the clips.
        """
        ahead = decode_ahead(
            announced(paths, lambda path: path),
            partial(self.read_clip, with_pictures=with_pictures),
            self.cached_frames,
            len(self.streams) + with_pictures,
            2 * self.clips_per_batch,
            clip_timeout,
            clock or StageClock(),
        )
        pending: list[DecodedClip | Prediction] = []
        readable = 0  # of those
        with contextlib.closing(ahead):
            for decoded in ahead:
                pending.append(decoded)
                readable += isinstance(decoded, DecodedClip)
                if readable in (0, self.clips_per_batch):
                    yield from self._in_order(pending)
                    pending.clear()
                    readable = 0
            yield from self._in_order(pending)

    def _in_order(self, pending: Sequence[DecodedClip | Prediction]) -> Iterator[PredictedClip]:
        examined = iter(self._examine([c for c in pending if isinstance(c, DecodedClip)]))
        for item in pending:
            yield PredictedClip(item) if isinstance(item, Prediction) else next(examined)


def load_detector(
    checkpoint_dir: Path,
    vgg19_weights: str | None = None,
    *,
    mixed_precision: bool | None = None,
    replicas: int | None = None,
) -> Detector:
    """Return the detector of a finished run.

    Args:
        checkpoint_dir: what the run has written.
        vgg19_weights: "imagenet", "random" or a file's path; None: as in the run.
        mixed_precision: VGG19 in float16 on a GPU, in bfloat16 on a CPU that has it. None: as in
            the run, so that the answers are the same; where this device does not compute so,
            float32, the next best.
        replicas: how many GPUs; without a GPU, into how many parts the CPU is split. None: all
            GPUs, or 1. Before TensorFlow has computed anything only.

    Raises:
        UserError: it is no folder of a finished run; its model is not the one that was tested;
            the VGG19 weights are not there or not those that it was trained on.
    """
    folder = checkpoint_dir.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--checkpoint-dir {checkpoint_dir}: no such folder")
    if not (folder / DETECTOR).is_file():
        state = "the run has not finished" if (folder / CONFIG).exists() else "it holds no run"
        raise UserError(
            f"--checkpoint-dir {checkpoint_dir}: there is no {DETECTOR} in it: {state}. Finish "
            "the training command, or name the folder of one that has"
        )
    saved, config = read_json(folder / DETECTOR), read_json(folder / CONFIG)
    model_path = folder / saved["model"]
    if not model_path.is_file():
        raise UserError(f"{model_path} is not there: restore it, or train again with --fresh")
    if file_checksum(model_path).hex() != saved["model_checksum"]:
        raise UserError(
            f"{model_path} is not the model that was tested (its checksum is not that of "
            f"{DETECTOR}): restore it, or train again with --fresh"
        )
    recipes = tuple(Recipe(**recipe) for recipe in saved["features"])
    weights = vgg19_weights or config["settings"]["vgg19_weights"]
    _require_same_weights(weights, recipes[0])
    devices = find_devices(replicas)
    strategy = make_strategy(devices, len(devices) * CLIPS_PER_REPLICA)
    fast = choose_precision(True, devices[0].device_type).computation
    mixed = config["precision"] == fast if mixed_precision is None else mixed_precision
    return Detector(
        checkpoint_dir=folder,
        model_path=model_path,
        model_checksum=saved["model_checksum"],
        classifier=keras.models.load_model(model_path, safe_mode=True),
        recipes=recipes,
        frames=saved["frames"],
        temperature=saved["temperature"],
        threshold=saved["threshold"],
        chosen_for=saved["chosen_for"],
        vgg19_weights=weights,
        computation=fast if mixed else "float32",
        devices=tuple(devices),
        strategy=strategy,
    )


def _require_same_weights(weights: str, recipe: Recipe) -> None:
    if weights not in ("imagenet", "random") and not Path(weights).is_file():
        raise UserError(
            f"--vgg19-weights {weights}: no such file (imagenet, random, or the path of an .h5 "
            "file: that which the detector was trained with)"
        )
    found = identify_weights(weights, recipe.layer)
    if found != recipe.weights:
        raise UserError(
            f"--vgg19-weights {weights} is {found}, but the detector was trained on "
            f"{recipe.weights}: name those weights"
        )
