"""Augmentation of cached features, in tf.data: other frames, speeds and directions of a clip,
mixtures of two clips, noise. Every random number is a function of the seed that is passed in.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from violence_detection.clips.frames import even_positions
from violence_detection.settings.constants import FEATURE_AUGMENTATIONS

SHORTEST_PART = 0.5  # of a clip's length, stretched over all frames by speed
DROPPED = 0.1  # share of frames dropped
REVERSED = 0.5  # share of clips reversed
MIXED = 0.5  # share of clips mixed, by mixup and cutmix together
MIXUP_ALPHA = 0.2  # of Beta(alpha, alpha); Zhang et al.: 0.1 to 0.4 works best
NOISE_SIZE = 0.1  # in standard deviations of each value
NOISE_POOL, NOISE_PART = 2**17, 64  # normal numbers drawn per batch; handed out in parts


def augment(
    features: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    seed: tf.Tensor,
    frames: int,
    kinds: Sequence[str],
    part: tuple[int, np.ndarray] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return a batch augmented by each of `kinds`; without any, its evenly spaced frames.

    The random numbers of one kind do not depend on which other kinds are used.

    mixup: Zhang et al., https://arxiv.org/abs/1710.09412. cutmix, here of frames along time:
    Yun et al., https://arxiv.org/abs/1905.04899.

    Args:
        features: `(clips, cached, values)`, float16 or float32, of static shape.
        labels: `(clips, 1)` float32.
        weights: `(clips,)` float32; clips of weight 0 are padding and are never mixed.
        seed: `(2,)` int32 or int64.
        frames: number of frames per clip in the result.
        kinds: names from `FEATURE_AUGMENTATIONS`, in any order; flip is applied where features
            are read.
        part: for a part of a batch: the size of the batch and the indices of these clips in it,
            so that the result equals that of the whole batch. Not with any of
            `OF_WHOLE_BATCHES`.

    Returns:
        Features `(clips, frames, values)`, labels and weights, in the dtypes of the arguments.
    """
    clips, cached, values = features.shape
    names = (*FEATURE_AUGMENTATIONS, "pairs")
    seeds = dict(zip(names, tf.unstack(tf.random.split(seed, len(names))), strict=True))
    whole, indices = part or (clips, None)
    positions = _positions(whole, cached, frames, kinds, seeds)
    if indices is not None:
        positions = tf.gather(positions, indices)
    rows = cached * tf.range(clips)[:, None] + positions
    stored = tf.reshape(features, [clips * cached, values])
    if "mixup" in kinds or "cutmix" in kinds:
        partner, cut, blended = _pairs(weights > 0, frames, kinds, seeds)
        partner_rows = tf.gather(rows, partner)
        features = tf.gather(stored, tf.where(cut, partner_rows, rows))
        if "mixup" in kinds:
            features = _between(features, tf.gather(stored, partner_rows), blended)
        share = blended + tf.reduce_mean(tf.cast(cut, tf.float32), axis=1)
        labels = _between(labels, tf.gather(labels, partner), share)
        weights = _between(weights, tf.gather(weights, partner), share)
    else:
        features = tf.gather(stored, rows)
    if "noise" in kinds:
        features += _noise(features, weights > 0, seeds["noise"])
    return features, labels, weights


def _positions(
    clips: int, cached: int, frames: int, kinds: Sequence[str], seeds: dict[str, tf.Tensor]
) -> tf.Tensor:
    """Return `(clips, frames)` int32: the index of the cached frame used for each frame."""
    positions = tf.tile(even_positions(cached, frames)[None], [clips, 1])
    if "speed" in kinds:
        random = tf.random.stateless_uniform([2, clips, 1], seeds["speed"])
        length = cached * (SHORTEST_PART + (1 - SHORTEST_PART) * random[0])
        middles = (tf.range(frames, dtype=tf.float32) + 0.5) / frames
        positions = tf.cast((cached - length) * random[1] + length * middles, tf.int32)
    if "jitter" in kinds:
        reach = max(1, cached // (2 * frames))
        positions += tf.random.stateless_uniform(
            [clips, frames], seeds["jitter"], -reach, reach + 1, tf.int32
        )
        positions = tf.sort(tf.clip_by_value(positions, 0, cached - 1))
    if "drop" in kinds:
        lost = tf.random.stateless_uniform([clips, frames], seeds["drop"]) < DROPPED
        # Each dropped frame repeats the last one kept before it, or else the first frame.
        kept = tf.where(lost, 0, tf.range(frames))
        last = tf.reduce_max(tf.linalg.band_part(tf.tile(kept[:, None], [1, frames, 1]), -1, 0), 2)
        positions = tf.gather(positions, last, batch_dims=1)
    if "reverse" in kinds:
        reverse = tf.random.stateless_uniform([clips, 1], seeds["reverse"]) < REVERSED
        positions = tf.where(reverse, positions[:, ::-1], positions)
    return positions


def _pairs(
    real: tf.Tensor, frames: int, kinds: Sequence[str], seeds: dict[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return how clips are mixed.

    Returns:
        The partner of each clip, `(clips,)` int32; cutmix: which frames are the partner's,
        `(clips, frames)` bool; mixup: the partner's share in every frame, `(clips,)` float32.
        A mixed clip has one or the other, any other clip neither.
    """
    clips = real.shape[0]
    order_seed, mixed_seed, cut_seed = tf.unstack(tf.random.split(seeds["pairs"], 3))
    partner = tf.random.experimental.stateless_shuffle(tf.range(clips), order_seed)
    mixed = tf.random.stateless_uniform([clips], mixed_seed) < MIXED
    mixed &= real & tf.gather(real, partner)
    both = "mixup" in kinds and "cutmix" in kinds
    cut_share = 0.5 if both else float("cutmix" in kinds)
    cut = tf.random.stateless_uniform([clips], cut_seed) < cut_share

    random = tf.random.stateless_uniform([2, clips, 1], seeds["cutmix"])
    length = 1 + tf.floor(random[0] * (frames - 1))
    first = tf.floor(random[1] * (frames - length + 1))
    index = tf.range(frames, dtype=tf.float32)
    in_run = (index >= first) & (index < first + length) & (mixed & cut)[:, None]

    gammas = tf.random.stateless_gamma([2, clips], seeds["mixup"], MIXUP_ALPHA)
    blended = tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1])
    return partner, in_run, tf.where(mixed & ~cut, blended, 0.0)


def _between(own: tf.Tensor, partners: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Return the weighted mean of each pair; `share`, `(clips,)` float32, is the partner's."""
    share = tf.reshape(share, [-1] + [1] * (len(own.shape) - 1))
    return tf.cast(1 - share, own.dtype) * own + tf.cast(share, own.dtype) * partners


def _noise(features: tf.Tensor, real: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return Gaussian noise: `NOISE_SIZE` times each value's deviation over the real clips."""
    clips, frames, values = features.shape
    shares = tf.repeat(tf.cast(real, tf.float32), frames)[None]
    shares = tf.math.divide_no_nan(shares, tf.reduce_sum(shares))
    rows = tf.cast(tf.reshape(features, [clips * frames, values]), tf.float32)
    # As matrix products: `tf.nn.weighted_moments` takes ten times as long.
    variance = shares @ tf.square(rows - shares @ rows)

    # Drawing a normal number per value would take several times as long as everything else.
    pool_seed, index_seed = tf.unstack(tf.random.split(seed, 2))
    part = math.gcd(values, NOISE_PART)
    pool = tf.random.stateless_normal([NOISE_POOL // part, part], pool_seed, dtype=features.dtype)
    indices = tf.random.stateless_uniform(
        [clips, frames, values // part], index_seed, 0, NOISE_POOL // part, tf.int32
    )
    normal = tf.reshape(tf.gather(pool, indices), features.shape)
    return normal * tf.cast(NOISE_SIZE * tf.sqrt(variance), features.dtype)
