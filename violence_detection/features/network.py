"""VGG19 on batches of clips: padded to one shape and split over the replicas."""

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.models.extractor import build_extractor
from violence_detection.models.onnx_backbone import onnx_backbone
from violence_detection.settings.constants import ONNX

# From `(clips, frames, 224, 224, 3)` uint8 to `(clips, frames, features)` float32.
Network = Callable[[np.ndarray], np.ndarray]


def padded_features(
    network: Network, images: np.ndarray, batch_clips: int, dtype: str
) -> np.ndarray:
    """Run the network over at most `batch_clips` clips, padded so that its input shape is fixed.

    Args:
        network: from `(batch_clips, frames, 224, 224, 3)` uint8 to `(…, frames, features)` float32.
        images: `(clips, frames, 224, 224, 3)` uint8.
        batch_clips: clips per batch.
        dtype: of the result.

    Returns:
        `(clips, frames, features)` in `dtype`; infinite where values overflow.
    """
    padding = np.zeros((batch_clips - len(images), *images.shape[1:]), np.uint8)
    features = network(np.concatenate([images, padding]))[: len(images)]
    with np.errstate(over="ignore"):  # reported by the caller, with the clip's name
        return features.astype(dtype)


def make_network(
    strategy: tf.distribute.Strategy, recipe: Recipe, weights: str, computation: str
) -> Network:
    """Return a function that computes the features of a recipe, on all devices.

    It maps `(clips, frames, 224, 224, 3)` uint8 to `(clips, frames, features)` float32.

    Args:
        strategy: the replicas; ONNX Runtime finds its devices itself.
        recipe: backbone, layer and pooling.
        weights: "imagenet", "random" or a file's path.
        computation: dtype of the arithmetic.
    """
    if recipe.backbone.endswith(ONNX):
        return partial(onnx_backbone(weights, recipe.layer), pooling=recipe.pooling)
    make_extractor = partial(
        build_extractor, recipe.backbone, recipe.layer, weights, computation, recipe.pooling
    )
    return on_replicas(strategy, make_extractor)


def on_replicas(strategy: tf.distribute.Strategy, make_model: Callable[[], keras.Model]) -> Network:
    """Return a function that runs an extractor over clips, split over the replicas.

    It maps `(clips, frames, height, width, 3)` uint8 to `(clips, frames, features)` float32; the
    number of clips times frames must be a multiple of the number of replicas.

    Args:
        strategy: the replicas.
        make_model: called in the strategy's scope; returns a model from `(frames, height, width,
            3)` to `(frames, features)`.
    """
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = make_model()

    @tf.function
    def forward(frames: tf.Tensor) -> tf.Tensor:
        return strategy.run(lambda frames: model(frames, training=False), args=(frames,))

    def extract(clips: np.ndarray) -> np.ndarray:
        frames = clips.reshape(-1, *clips.shape[2:])
        parts = np.split(frames, replicas)
        if replicas == 1:
            features = forward(tf.constant(parts[0])).numpy()
        else:
            shared = strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )
            local = strategy.experimental_local_results(forward(shared))
            features = np.concatenate([part.numpy() for part in local])
        return features.reshape(*clips.shape[:2], -1)

    return extract
