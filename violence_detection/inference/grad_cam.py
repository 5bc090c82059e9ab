"""Grad-CAM heat maps: where in a clip's frames the detector finds evidence of violence.

Selvaraju et al., https://arxiv.org/abs/1610.02391, equations 1 and 2. With the maps A^k of a
convolution's channels k and the classifier's logit y, the heat map is

    relu(sum_k a_k A^k),  a_k = the mean of dy/dA^k over the positions of the map.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import cv2
import keras
import numpy as np
import tensorflow as tf

from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.inference.detector import Detector
from violence_detection.models.classifier import Member, members_of
from violence_detection.models.pooling import pooled
from violence_detection.models.video_networks import MAPS
from violence_detection.settings.constants import FRAME_SIZE, PIXELS, VGG19, VGG19_LAYERS

LAST_CONVOLUTION = "block5_conv4"  # its maps serve for feature layers that have none themselves


class GradCam:
    """Computes heat maps for a detector's predictions; the networks are built on first use."""

    def __init__(self, detector: Detector):
        self.detector = detector
        self._known_maps: dict[Recipe, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {}

    def heat_maps(
        self, features: np.ndarray, images: np.ndarray, frames: Sequence[int]
    ) -> np.ndarray:
        """Return how strongly each position of some frames contributes to the violent class.

        Args:
            features: `(all frames, features_per_frame)` of one clip, as it was predicted from.
            images: `(streams, all frames, 224, 224, 3)` uint8, from which `features` were
                computed.
            frames: indices of the frames to explain. The graph is traced once per number of them.

        Returns:
            `(frames, streams, 224, 224)` float32, 0 or above.
        """
        chosen, streams = list(frames), self.detector.streams
        heat = np.zeros((len(chosen), len(streams), FRAME_SIZE, FRAME_SIZE), np.float32)
        if self._pixel_members:
            heat += self._maps_of_pixels(features, chosen)[:, np.newaxis]
        if not self._feature_members:
            return heat
        gradients = self._logit_gradients(tf.constant(features[np.newaxis], tf.float32)).numpy()[0]
        for recipe, indices in self.detector.by_network.items():
            if recipe.backbone == PIXELS:
                continue
            # A frame's features are those of its streams' images, one after the other.
            seen = self.detector.streams_of(indices)
            slopes = np.stack([gradients[chosen, self.detector.parts[i]] for i in indices], axis=1)
            shown = images[seen][:, chosen].swapaxes(0, 1)
            maps = self._image_maps(recipe)(
                tf.constant(shown.reshape(-1, *images.shape[2:])),
                tf.constant(slopes.reshape(len(chosen) * len(indices), -1)),
            ).numpy()
            resized = [cv2.resize(one, (FRAME_SIZE, FRAME_SIZE)) for one in maps]
            heat[:, seen] += np.reshape(resized, (len(chosen), len(seen), FRAME_SIZE, FRAME_SIZE))
        return heat

    def _maps_of_pixels(self, features: np.ndarray, frames: Sequence[int]) -> np.ndarray:
        """Return the heat maps of networks from pixels, `(frames, 224, 224)`: of all streams."""
        total = np.zeros((len(frames), FRAME_SIZE, FRAME_SIZE), np.float32)
        for member, map_of_clip in zip(self._pixel_members, self._maps_of_clip, strict=True):
            values = features[np.newaxis, :, member.part].astype(np.uint8)
            maps = map_of_clip(tf.constant(values)).numpy()
            of_frames = maps[np.asarray(frames) * len(maps) // len(features)]
            resized = [cv2.resize(one, (FRAME_SIZE, FRAME_SIZE)) for one in of_frames]
            total += member.weight * np.stack(resized)
        return total

    @cached_property
    def _maps_of_clip(self) -> list[Callable[[tf.Tensor], tf.Tensor]]:
        """Of each network from pixels: `(1, frames, values)` to `(steps, height, width)`."""
        return [_map_of_clip(member.model) for member in self._pixel_members]

    @cached_property
    def _pixel_members(self) -> list[Member]:
        """The members of the ensemble that are networks from pixels, or the classifier alone."""
        return [m for m in members_of(self.detector.classifier) if _is_from_pixels(m.model)]

    @cached_property
    def _feature_members(self) -> list[Member]:
        """Those that start from a backbone's features."""
        return [m for m in members_of(self.detector.classifier) if not _is_from_pixels(m.model)]

    @cached_property
    def _logit(self) -> keras.Model:
        """From features to the logit; for an ensemble, the mean of its members' logits."""
        features = keras.Input(self.detector.classifier.input.shape[1:], dtype="float32")
        logits = [
            keras.Model(member.model.input, member.model.get_layer("logit").output)(
                features[:, :, member.part.start : member.part.stop]
            )
            * member.weight
            for member in self._feature_members
        ]
        return keras.Model(features, sum(logits[1:], logits[0]))

    @cached_property
    def _logit_gradients(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """From `(clips, frames, features_per_frame)` to the logit's gradients, the same shape."""
        logit_model = self._logit

        @tf.function
        def logit_gradients(features: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(features)
                logit = logit_model(features, training=False)
            return tape.gradient(logit, features)

        return logit_gradients

    def _explained_layer(self, recipe: Recipe) -> tuple[keras.Model, list[keras.Layer]]:
        """Return a model up to the maps that are explained, and the layers above them."""
        layer = recipe.layer
        if recipe.backbone != VGG19:
            to_maps = self.detector.make_extractor(recipe, with_pooling=False)
            if len(to_maps.output.shape) != 4:
                raise UserError(
                    f"{recipe.backbone} to {layer}: there is no map to explain a prediction "
                    "by; train with another --feature-layer"
                )
            return to_maps, []
        explained = layer if layer.startswith("block") else LAST_CONVOLUTION
        network = self.detector.make_extractor(recipe)
        first, last = VGG19_LAYERS.index(explained) + 1, VGG19_LAYERS.index(layer)
        layers_above = [network.get_layer(name) for name in VGG19_LAYERS[first : last + 1]]
        return keras.Model(network.input, network.get_layer(explained).output), layers_above

    def _image_maps(self, recipe: Recipe) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """From images and the gradients of their features to `(images, height, width)` float32."""
        if recipe not in self._known_maps:
            self._known_maps[recipe] = self._make_image_maps(recipe)
        return self._known_maps[recipe]

    def _make_image_maps(self, recipe: Recipe) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        pooling = recipe.pooling
        to_activations, layers_above = self._explained_layer(recipe)

        @tf.function
        def image_maps(images: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
            activations = tf.cast(to_activations(images, training=False), tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(activations)
                features = tf.cast(activations, self.detector.computation)
                for layer_above in layers_above:
                    features = layer_above(features)
                features = tf.cast(features, tf.float32)
                if len(features.shape) == 4:
                    features = pooled(features, pooling)
                # Its gradient is that of the logit, by the chain rule.
                product = tf.reduce_sum(features * gradients)
            slopes = tape.gradient(product, activations)
            weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
            return tf.nn.relu(tf.reduce_sum(weights * activations, axis=3))

        return image_maps


def _is_from_pixels(model: keras.Model) -> bool:
    return any(layer.name == MAPS for layer in model.layers)


def _map_of_clip(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    network = keras.Model(model.input, [model.get_layer(name).output for name in (MAPS, "logit")])

    @tf.function
    def map_of_clip(features: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            maps, logit = network(features, training=False)
        weights = tf.reduce_mean(tape.gradient(logit, maps), axis=(1, 2, 3), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(tf.cast(weights * maps, tf.float32), axis=4))[0]

    return map_of_clip
