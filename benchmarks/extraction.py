"""Clips per second of extraction: clip by clip, ours, and the forward pass alone."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.decoding import seek_frames
from benchmarks.timing import side_by_side
from clips import Clip
from feature_cache import FeatureCache, Recipe
from feature_extraction import CLIPS_PER_REPLICA, extract_features, on_replicas
from frames import read_frames
from model_architecture import feature_size, load_vgg19_weights, vgg19

ROUNDS = 3

Network = Callable[[np.ndarray], np.ndarray]


def make_network(strategy: tf.distribute.Strategy, layer: str, dtype: str) -> Network:
    """Return the extractor on all replicas; random weights, which take as long as trained ones."""

    def make_extractor() -> keras.Model:
        model = vgg19(layer, dtype)
        load_vgg19_weights(model, "random", layer)
        return model

    return on_replicas(strategy, make_extractor)


def measure_extraction(
    clips: Sequence[Clip],
    strategy: tf.distribute.Strategy,
    layer: str,
    frames: int,
    precisions: dict[str, str],
) -> dict[str, Any]:
    """Return clips per second of each way and precision.

    Args:
        clips: as many as whole batches hold, so that the limit is of the same work.
        precisions: names and dtypes, "float32" among them.
    """
    replicas = strategy.num_replicas_in_sync
    batch_clips = replicas * CLIPS_PER_REPLICA
    if len(clips) % batch_clips:
        raise ValueError(f"{len(clips)} clips are no whole batches of {batch_clips}")
    decoded = np.stack([read_frames(clip.path, frames) for clip in clips])

    plain_model = vgg19(layer)
    load_vgg19_weights(plain_model, "random", layer)
    networks = {name: make_network(strategy, layer, dtype) for name, dtype in precisions.items()}

    def plain() -> None:
        for clip in clips:
            plain_model.predict(seek_frames(clip.path, frames), verbose=0)

    def limit(network: Network) -> None:
        for batch in np.split(decoded, len(clips) // batch_clips):
            network(batch)

    def ours(network: Network) -> None:
        recipe = Recipe(frames, layer, "random", feature_size(layer), "float16")
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache(Path(folder), recipe)
            extract_features(clips, cache, lambda: network, replicas)
            cache.close()

    ways: dict[str, Callable[[], object]] = {"plain": plain}
    for name, network in networks.items():
        network(decoded[:batch_clips])  # traced and compiled before the clock starts
        ways[f"{name} ours"] = partial(ours, network)
        ways[f"{name} limit"] = partial(limit, network)
    plain_model.predict(decoded[0], verbose=0)
    timings = side_by_side(ways, ROUNDS)
    report: dict[str, Any] = {
        "clips": len(clips),
        "layer": layer,
        "replicas": replicas,
        "plain_clips_per_second": len(clips) / timings.median("plain"),
    }
    for name, dtype in precisions.items():
        report[name] = {
            "dtype": dtype,
            "clips_per_second": len(clips) / timings.median(f"{name} ours"),
            "limit_clips_per_second": len(clips) / timings.median(f"{name} limit"),
            "ours_over_limit": timings.speedup(f"{name} ours", f"{name} limit"),
            "ours_over_plain": timings.speedup(f"{name} ours", "plain"),
        }
    return report
