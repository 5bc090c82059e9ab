"""CPU time of a clip's features with equal images computed once, over each stream for itself.

    python -m benchmarks.repeated_images --dataset-path DIR --feature-layer block2_pool

Without `--dataset-path`, clips are drawn. The images are decoded before the clock starts; both
ways take turns, and their features in float32 are compared bit by bit. VGG19 has random weights,
which are as fast as trained ones. CPU time counts the work of all threads, and so little of what
else the machine does.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.command import make_parser, write_report
from benchmarks.speed import find_shuffled_clips
from violence_detection.clips.clip import Clip
from violence_detection.clips.frames import read_frames
from violence_detection.clips.streams import stream_images
from violence_detection.features.batches import Batches, Decoded, ViewBatches
from violence_detection.features.cache.feature_cache import ClipFacts, FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.features.network import Network, on_replicas
from violence_detection.features.videos import OpenVideo
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA, build_extractor
from violence_detection.models.vgg19_weights import feature_size
from violence_detection.runtime.devices import find_devices, make_strategy
from violence_detection.runtime.tensorflow_log import quiet_tensorflow

STREAMS = ("difference", "flow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compare the features, and print the figures."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, help="real clips (default: drawn ones)")
    parser.add_argument("--feature-layer", default="block2_pool", help="default: block2_pool")
    parser.add_argument("--frames", type=int, default=16, help="per clip (default: 16)")
    parser.add_argument("--clips", type=int, default=32, help="default: 32")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    flags = parser.parse_args(arguments)
    layer, frames = flags.feature_layer, flags.frames
    network = on_replicas(
        make_strategy(find_devices(1), 1), partial(build_extractor, layer, "random", "float32")
    )
    recipes = [
        Recipe(frames, layer, "random", feature_size(layer), "float32", stream=stream)
        for stream in STREAMS
    ]
    with tempfile.TemporaryDirectory() as name:
        clips = find_shuffled_clips(flags.dataset_path, Path(name))[: flags.clips]
        images = [images_of(clip, frames) for clip in clips]
        kinds = [len({image.tobytes() for view in own for image in view}) for own in images]
        ways = ("apart", "together")
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        found: dict[str, list[np.ndarray]] = {}
        for number in range(flags.rounds + 1):  # the first to warm up
            for way in ways if number % 2 else ways[::-1]:
                with CacheFolder(Path(name) / f"{way} {number}") as folder:
                    caches = [FeatureCache(folder, recipe) for recipe in recipes]
                    spent = extract(way == "together", caches, clips, images, network)
                    rows = [cache.rows_of(checksums(len(clips))).tolist() for cache in caches]
                    found[way] = [
                        cache.rows().read(own) for cache, own in zip(caches, rows, strict=True)
                    ]
                if number:
                    seconds[way].append(spent / len(clips))
    for own, other in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(own, other)
    share = sum(kinds) / (len(clips) * len(STREAMS) * frames)
    ratio = statistics.median(
        b / a for a, b in zip(seconds["apart"], seconds["together"], strict=True)
    )
    print(f"{len(clips)} clips, {layer}, float32, both streams; {share:.3f} of their images differ")
    for way in ways:
        print(f"{way:9} {1 / statistics.median(seconds[way]):.3f} clips per CPU second")
    print(f"CPU time together / apart: {ratio:.3f}; the features are equal to the bit")
    figures = {"seconds_per_clip": seconds, "ratio": ratio, "differing_images": share}
    write_report(figures | {"clips": len(clips), "layer": layer}, flags.json)
    return 0


def checksums(count: int) -> list[bytes]:
    """Return as many keys of the cache."""
    return [number.to_bytes(16, "little") for number in range(count)]


def images_of(clip: Clip, frames: int) -> list[np.ndarray]:
    """Return the images of each stream, `(frames, 224, 224, 3)` uint8."""
    read = read_frames(Path(clip.path), frames)
    return [stream_images(read, stream) for stream in STREAMS]


def extract(
    together: bool,
    caches: Sequence[FeatureCache],
    clips: Sequence[Clip],
    images: Sequence[Sequence[np.ndarray]],
    network: Network,
) -> float:
    """Store the features of clips; return the CPU seconds that it took.

    Args:
        together: as extraction does it; else a batch for each stream, of all images.
        caches: of the streams, empty.
        clips: any.
        images: of each clip, by stream.
        network: computes them.
    """
    batches = Batches(caches, CLIPS_PER_REPLICA, lambda recipe: network)
    apart = [ViewBatches(cache, CLIPS_PER_REPLICA, lambda: network) for cache in caches]
    started = time.process_time()
    for clip, content, own in zip(clips, checksums(len(clips)), images, strict=True):
        path = Path(clip.path)
        decoded = Decoded(
            *(clip, OpenVideo(path, file_stamp(path)), content),
            *(dict(enumerate(own)), ClipFacts()),
        )
        if together:
            for _ in batches.add(decoded):
                pass
        else:
            for view, of_view in zip(apart, own, strict=True):
                view.add(decoded, [of_view])
    batches.finish()
    for view in apart:
        view.finish()
    for cache in caches:
        cache.commit()
    return time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
