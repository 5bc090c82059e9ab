"""The networks that compute a saved detector's features, on all devices."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.network import Network, make_network, padded_features
from violence_detection.models.extractor import build_extractor, takes_clips
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA
from violence_detection.runs.saved_detector import SavedDetector
from violence_detection.settings.constants import ONNX


@dataclass(frozen=True)
class FeatureNetworks(SavedDetector):
    """A saved detector with what computes its features from images."""

    devices: tuple[tf.config.LogicalDevice, ...]
    strategy: tf.distribute.Strategy  # over these devices

    @property
    def untrained_backbones(self) -> list[str]:
        """The names of backbones with random weights, whose features only suit the demo."""
        names = {recipe.network: recipe.backbone for recipe in self.recipes}
        return [names[key] for key, weights in self.weights.items() if weights == "random"]

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that are computed from a clip's frames, each once."""
        return tuple(dict.fromkeys(recipe.stream for recipe in self.recipes))

    def streams_of(self, indices: Sequence[int]) -> list[int]:
        """Return where in `streams` are those that some of the recipes see."""
        return [self.streams.index(self.recipes[index].stream) for index in indices]

    @property
    def features_per_frame(self) -> int:
        """How many features a frame has, of all streams together."""
        return sum(recipe.features for recipe in self.recipes)

    @property
    def clips_per_batch(self) -> int:
        """VGG19's batch size in clips of one stream; smaller batches are padded."""
        return self.strategy.num_replicas_in_sync * CLIPS_PER_REPLICA

    @property
    def images_per_batch(self) -> int:
        """VGG19's batch size in images; smaller batches are padded."""
        return self.clips_per_batch * self.frames

    @property
    def backbone(self) -> str:
        """The networks that compute the features, with commas: of `BACKBONES`, or `PIXELS`."""
        return ",".join(recipe.backbone for recipe in self.by_network)

    @cached_property
    def by_network(self) -> dict[Recipe, list[int]]:
        """Which of the recipes each network computes: by its first recipe, their indices."""
        first = {recipe.network: recipe for recipe in reversed(self.recipes)}
        indices: dict[Recipe, list[int]] = {}
        for index, recipe in enumerate(self.recipes):
            indices.setdefault(first[recipe.network], []).append(index)
        return indices

    @cached_property
    def parts(self) -> list[slice]:
        """Where the features of each recipe are among those of a frame."""
        ends = np.cumsum([0, *(recipe.features for recipe in self.recipes)]).tolist()
        return [slice(first, last) for first, last in itertools.pairwise(ends)]

    def make_extractor(self, recipe: Recipe, with_pooling: bool = True) -> keras.Model:
        """Return a backbone up to its feature layer, `(n, 224, 224, 3)` uint8 to `(n, features)`.

        Args:
            recipe: of features that it computes.
            with_pooling: else the result is `(n, height, width, channels)` if the layer has maps.

        Raises:
            UserError: it is a file that Keras cannot take apart.
            RunError: the weights cannot be downloaded.
        """
        if recipe.backbone.endswith(ONNX):
            raise UserError(
                f"{recipe.backbone}: a backbone in an ONNX file cannot be explained, nor be joined "
                "with the classifier: leave --explain and --end-to-end out"
            )
        return build_extractor(
            *(recipe.backbone, recipe.layer, self.weights[recipe.network], self.computation),
            recipe.pooling if with_pooling else None,
        )

    @cached_property
    def networks(self) -> dict[tuple[str, str, str], Network]:
        """The backbones on all devices, by the `network` of their recipes."""
        return {
            recipe.network: make_network(
                self.strategy, recipe, self.weights[recipe.network], self.computation
            )
            for recipe in self.by_network
        }

    @property
    def takes_clips(self) -> bool:
        """Whether a backbone sees the frames of a clip together, instead of one by one."""
        return any(map(self._takes_clips, self.by_network))

    def _takes_clips(self, recipe: Recipe) -> bool:
        return takes_clips(recipe.backbone, recipe.layer, self.weights[recipe.network])

    def clip_features(self, images: np.ndarray) -> np.ndarray:
        """Return the features of clips, rounded as in the feature cache.

        Args:
            images: `(clips, streams, frames, 224, 224, 3)` uint8, the streams in the order of
                `streams`.

        Returns:
            `(clips, frames, features_per_frame)` in the dtype of features.
        """
        clips = len(images)
        features = np.zeros((clips, self.frames, self.features_per_frame), self.feature_dtype)
        for recipe, indices in self.by_network.items():
            shown = images[:, self.streams_of(indices)]
            computed = self._features_of(recipe, shown)
            for index, of_stream in zip(indices, computed.swapaxes(0, 1), strict=True):
                features[..., self.parts[index]] = of_stream
        return features

    @property
    def feature_dtype(self) -> np.dtype:
        """The number format of a clip's features, those of all recipes together."""
        return np.result_type(*(recipe.dtype for recipe in self.recipes))

    def _features_of(self, recipe: Recipe, images: np.ndarray) -> np.ndarray:
        """Return what a network makes of clips, `(clips, streams, frames, features)`."""
        if not self._takes_clips(recipe):
            features = self._image_features(recipe, images.reshape(-1, *images.shape[3:]))
            return features.reshape(*images.shape[:3], -1)
        features = self.networks[recipe.network](images.reshape(-1, *images.shape[2:]))
        with np.errstate(over="ignore"):  # an overflow is reported with the clip's name
            return features.reshape(*images.shape[:3], -1).astype(recipe.dtype)

    def frame_features(self, images: np.ndarray, frames_at_once: int | None = None) -> np.ndarray:
        """Return the features of frames in all streams, rounded as in the feature cache.

        Args:
            images: `(frames, streams, 224, 224, 3)` uint8, the streams in the order of `streams`.
            frames_at_once: of a batch of each network; a multiple of the number of replicas. None:
                `images_per_batch` images.

        Returns:
            `(frames, features_per_frame)` in the dtype of features.
        """
        features = np.zeros((len(images), self.features_per_frame), self.feature_dtype)
        for recipe, indices in self.by_network.items():
            shown = images[:, self.streams_of(indices)]
            at_once = frames_at_once and frames_at_once * len(indices)
            flat = shown.reshape(-1, *shown.shape[2:])
            computed = self._image_features(recipe, flat, at_once)
            computed = computed.reshape(len(images), len(indices), -1)
            for number, index in enumerate(indices):
                features[:, self.parts[index]] = computed[:, number]
        return features

    def _image_features(
        self, recipe: Recipe, images: np.ndarray, batch_size: int | None = None
    ) -> np.ndarray:
        """Return a network's features of `(images, 224, 224, 3)`, in the dtype of its recipe."""
        batch_size = batch_size or self.images_per_batch
        features = np.zeros((len(images), recipe.features), recipe.dtype)
        for first in range(0, len(images), batch_size):
            # To the network these are clips of one frame each.
            clips = images[first : first + batch_size, np.newaxis]
            network = self.networks[recipe.network]
            computed = padded_features(network, clips, batch_size, recipe.dtype)
            features[first : first + batch_size] = computed[:, 0]
        return features
