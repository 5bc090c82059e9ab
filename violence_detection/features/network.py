"""VGG19 on batches of clips: padded to one shape, and shared by all replicas."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf


def padded_features(
    network: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_clips: int, dtype: str
) -> np.ndarray:
    """Run the network over at most `batch_clips` clips, padded: it is given one shape always.

    Args:
        images: `(clips, frames, 224, 224, 3)` uint8.

    Returns:
        `(clips, frames, features)` in `dtype`; infinite where that cannot hold them.
    """
    padding = np.zeros((batch_clips - len(images), *images.shape[1:]), np.uint8)
    features = network(np.concatenate([images, padding]))[: len(images)]
    with np.errstate(over="ignore"):  # told by who asked, with the clip's name
        return features.astype(dtype)


def on_replicas(
    strategy: tf.distribute.Strategy, make_model: Callable[[], keras.Model]
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs an extractor over clips, its batch shared by all replicas.

    It maps `(clips, frames, height, width, 3)` uint8 to `(clips, frames, features)` float32; the
    replicas must divide the clips.
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
