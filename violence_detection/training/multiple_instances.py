"""Multiple-instance learning: from the probabilities of a video's windows to its own, and a loss.

Sultani et al., 2018, https://arxiv.org/abs/1801.04264, with the mean of the most violent windows
in place of the most violent one, and the training's loss in place of a ranking of pairs.
"""

from dataclasses import dataclass

import tensorflow as tf


def top_count(windows: int, share: float) -> int:
    """Return how many windows the mean is taken of: a share of them, at least one."""
    return max(1, round(share * windows))


@dataclass(frozen=True)
class Bags:
    """How a batch of videos becomes one of windows, and back.

    Args:
        windows: of each video; 1: clips, which are left as they are.
        top_share: share of the windows whose mean is the video's probability.
        sparsity: weight of the sum of a violent video's probabilities.
        smoothness: weight of the squared differences between its successive windows.
    """

    windows: int = 1
    top_share: float = 1.0
    sparsity: float = 0.0
    smoothness: float = 0.0

    def as_windows(self, features: tf.Tensor) -> tf.Tensor:
        """Return `(videos, windows x frames, values)` as `(videos x windows, frames, values)`."""
        if self.windows == 1:
            return features
        _, frames, values = features.shape
        return tf.reshape(features, [-1, frames // self.windows, values])

    def pooled(self, probabilities: tf.Tensor) -> tf.Tensor:
        """Return `(videos, 1)` probabilities of `(videos x windows, 1)` float32 ones."""
        if self.windows == 1:
            return probabilities
        count = top_count(self.windows, self.top_share)
        top = tf.math.top_k(tf.reshape(probabilities, [-1, self.windows]), count).values
        return tf.reduce_mean(top, axis=1, keepdims=True)

    def penalties(self, probabilities: tf.Tensor, labels: tf.Tensor) -> tf.Tensor | float:
        """Return `(videos,)`: how little sparse and smooth those of violent videos are.

        Args:
            probabilities: `(videos x windows, 1)` float32.
            labels: `(videos, 1)` float32.
        """
        if self.windows == 1:
            return 0.0
        by_video = tf.reshape(probabilities, [-1, self.windows])
        steps = by_video[:, 1:] - by_video[:, :-1]
        penalty = self.sparsity * tf.reduce_sum(by_video, axis=1)
        penalty += self.smoothness * tf.reduce_sum(tf.square(steps), axis=1)
        return penalty * labels[:, 0]
