"""Clips per second of extraction: clip by clip, this package, and the forward pass alone."""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.decoding import seek_frames
from benchmarks.timing import Workload, side_by_side
from violence_detection.clips.clip import Clip
from violence_detection.clips.decoders import decoder_count
from violence_detection.clips.frames import read_frames
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.extraction import extract_features
from violence_detection.features.network import on_replicas
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA, build_extractor
from violence_detection.models.vgg19_weights import feature_size
from violence_detection.runtime.devices import Precision, make_strategy
from violence_detection.settings.constants import CLIP_TIMEOUT

ROUNDS = 2
OURS_SECONDS, LIMIT_SECONDS = 36.0, 12.0  # per round; at least two batches
PLAIN_CLIPS = 2  # of medium file size: each takes seconds

Network = Callable[[np.ndarray], np.ndarray]


def measure_extraction(
    clips: Sequence[Clip],
    devices: list[tf.config.LogicalDevice],
    layer: str,
    frames: int,
    precision: Precision,
) -> dict[str, Any]:
    """Return clips per second of the plain method, of ours, and of its limits.

    Where the network and the decoders share the CPU, overlapping them saves no work: the shared
    limit is then the rate of one after the other, each on all cores.

    Args:
        clips: to choose from; as many are extracted as fill full batches for `OURS_SECONDS`.
        devices: of the network, one replica each.
        layer: of VGG19.
        frames: per clip.
        precision: of the network.
    """
    replicas = len(devices)
    batch_clips = replicas * CLIPS_PER_REPLICA
    network = on_replicas(
        make_strategy(devices, replicas), partial(make_extractor, layer, precision.computation)
    )
    batch = np.stack([read_frames(Path(clip.path), frames) for clip in clips[:batch_clips]])
    seconds = seconds_of_batch(network, batch)
    limit_batches = max(2, round(LIMIT_SECONDS / seconds))
    batches = min(max(2, round(OURS_SECONDS / seconds)), len(clips) // batch_clips)
    if not batches:
        raise SystemExit(f"error: {len(clips)} clips are too few: a batch needs {batch_clips}")
    chosen = clips[: batches * batch_clips]
    medium = medium_clips(chosen)
    plain_model = make_extractor(layer, "float32")
    plain_model.predict(batch[0], verbose=0)

    def plain() -> None:
        for clip in medium:
            plain_model.predict(seek_frames(Path(clip.path), frames), verbose=0)

    def limit() -> None:
        for _ in range(limit_batches):
            network(batch)

    def ours() -> None:
        recipe = Recipe(frames, layer, "random", feature_size(layer), "float16")
        with tempfile.TemporaryDirectory() as name, CacheFolder(Path(name)) as folder:
            caches = [FeatureCache(folder, recipe)]
            extract_features(chosen, caches, lambda recipe: network, replicas, CLIP_TIMEOUT)

    def decode() -> None:
        with ThreadPoolExecutor(decoder_count()) as decoders:
            for _ in decoders.map(lambda clip: read_frames(clip.path, frames), chosen):
                pass

    workloads = {
        "plain": Workload([plain], len(medium)),
        "ours": Workload([ours], len(chosen)),
        "limit": Workload([limit], limit_batches * batch_clips),
        "decoding": Workload([decode], len(chosen)),
    }
    rates = side_by_side(workloads, ROUNDS)
    network_rate, decoding_rate = rates.median("limit"), rates.median("decoding")
    if devices[0].device_type == "CPU":
        shared_limit = 1 / (1 / network_rate + 1 / decoding_rate)
    else:
        shared_limit = min(network_rate, decoding_rate)
    return {
        "dtype": precision.computation,
        "devices": replicas,
        "clips": len(chosen),
        "clips_per_second": {name: rates.median(name) for name in workloads},
        "shared_limit_clips_per_second": shared_limit,
        "slower": "network" if network_rate < decoding_rate else "decoding",
        "ours_over_plain": rates.ratio("ours", "plain"),
        "ours_over_limit": rates.ratio("ours", "limit"),
        "ours_over_shared_limit": rates.median("ours") / shared_limit,
    }


def seconds_of_batch(network: Network, batch: np.ndarray) -> float:
    """Return the seconds of a forward pass, after one that traces and compiles."""
    network(batch)
    started = time.perf_counter()
    network(batch)
    return time.perf_counter() - started


def medium_clips(clips: Sequence[Clip]) -> Sequence[Clip]:
    """Return `PLAIN_CLIPS` clips of medium file size."""
    by_size = sorted(clips, key=lambda clip: Path(clip.path).stat().st_size)
    return by_size[len(clips) // 2 :][:PLAIN_CLIPS]


def make_extractor(layer: str, dtype: str) -> keras.Model:
    """Return VGG19 with random weights, which are as fast as trained ones."""
    return build_extractor(layer, "random", dtype)
