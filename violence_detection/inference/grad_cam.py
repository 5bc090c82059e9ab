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
from violence_detection.inference.detector import Detector
from violence_detection.models.pooling import pooled
from violence_detection.models.video_networks import MAPS
from violence_detection.settings.constants import FRAME_SIZE, PIXELS, VGG19, VGG19_LAYERS

LAST_CONVOLUTION = "block5_conv4"  # its maps serve for feature layers that have none themselves


class GradCam:
    """Computes heat maps for a detector's predictions; the networks are built on first use."""

    def __init__(self, detector: Detector):
        self.detector = detector

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
        streams = len(self.detector.streams)
        if self.detector.backbone == PIXELS:
            return self._maps_of_pixels(features, list(frames), streams)
        gradients = self._logit_gradients(tf.constant(features[np.newaxis], tf.float32)).numpy()[0]
        # A frame's features are those of its streams' images, one after the other.
        by_image = gradients.reshape(len(features), streams, -1)[list(frames)]
        shown = images[:, list(frames)].swapaxes(0, 1)
        maps = self._image_maps(
            tf.constant(shown.reshape(-1, *images.shape[2:])),
            tf.constant(by_image.reshape(len(frames) * streams, -1)),
        ).numpy()
        resized = [cv2.resize(one, (FRAME_SIZE, FRAME_SIZE)) for one in maps]
        return np.reshape(resized, (len(frames), streams, FRAME_SIZE, FRAME_SIZE))

    def _maps_of_pixels(
        self, features: np.ndarray, frames: Sequence[int], streams: int
    ) -> np.ndarray:
        """Return the heat maps of a network from pixels: of all streams together."""
        maps = self._map_of_clip(tf.constant(features[np.newaxis])).numpy()
        of_frames = maps[np.asarray(frames) * len(maps) // len(features)]
        resized = [cv2.resize(one, (FRAME_SIZE, FRAME_SIZE)) for one in of_frames]
        return np.repeat(np.stack(resized)[:, np.newaxis], streams, axis=1)

    @cached_property
    def _map_of_clip(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """From `(1, frames, values)` to `(steps, height, width)`, the mean over the members."""
        networks = [
            keras.Model(member.input, [member.get_layer(name).output for name in (MAPS, "logit")])
            for member in self._members
        ]

        @tf.function
        def map_of_clip(features: tf.Tensor) -> tf.Tensor:
            heat = []
            for network in networks:
                with tf.GradientTape() as tape:
                    maps, logit = network(features, training=False)
                weights = tf.reduce_mean(tape.gradient(logit, maps), axis=(1, 2, 3), keepdims=True)
                heat.append(tf.nn.relu(tf.reduce_sum(tf.cast(weights * maps, tf.float32), axis=4)))
            return tf.reduce_mean(tf.stack(heat), axis=0)[0]

        return map_of_clip

    @property
    def _members(self) -> list[keras.Model]:
        """The members of an ensemble, or the classifier alone."""
        classifier = self.detector.classifier
        return [layer for layer in classifier.layers if isinstance(layer, keras.Model)] or [
            classifier
        ]

    @cached_property
    def _logit(self) -> keras.Model:
        """The classifier up to its logit; for an ensemble, the mean of its members' logits."""
        features = keras.Input(self.detector.classifier.input.shape[1:], dtype="float32")
        logits = [
            keras.Model(member.input, member.get_layer("logit").output)(features)
            for member in self._members
        ]
        return keras.Model(features, sum(logits[1:], logits[0]) / len(logits))

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

    def _explained_layer(self) -> tuple[keras.Model, list[keras.Layer]]:
        """Return a model up to the maps that are explained, and the layers above them."""
        layer = self.detector.recipes[0].layer
        if self.detector.backbone != VGG19:
            to_maps = self.detector.make_extractor(with_pooling=False)
            if len(to_maps.output.shape) != 4:
                raise UserError(
                    f"{self.detector.backbone} to {layer}: there is no map to explain a prediction "
                    "by; train with another --feature-layer"
                )
            return to_maps, []
        explained = layer if layer.startswith("block") else LAST_CONVOLUTION
        network = self.detector.make_extractor()
        first, last = VGG19_LAYERS.index(explained) + 1, VGG19_LAYERS.index(layer)
        layers_above = [network.get_layer(name) for name in VGG19_LAYERS[first : last + 1]]
        return keras.Model(network.input, network.get_layer(explained).output), layers_above

    @cached_property
    def _image_maps(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """From images and the gradients of their features to `(images, height, width)` float32."""
        pooling = self.detector.recipes[0].pooling
        to_activations, layers_above = self._explained_layer()

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
