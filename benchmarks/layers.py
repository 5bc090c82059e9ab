"""Which layer, pooling and streams to train on: a linear classifier on each, folds by source.

    python -m benchmarks.layers --dataset-path DIR --cache-dir DIR --vgg19-weights FILE --json FILE

VGG19 runs once per image for all layers and poolings. The features are those that the training
command caches, and are found by it. The classifier is a support vector machine on each feature's
mean over the frames and its mean change from frame to frame, of logarithms: seconds, where
a detector takes minutes. It tells what is worth training on; what a detector then gives is what
`benchmarks.accuracy` measures. With `--costs`, what a clip costs in CPU time is measured, too: its
images in each stream, and VGG19 up to each layer.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.svm import SVC

from benchmarks.command import make_parser, write_report
from benchmarks.runs import numbers
from benchmarks.tables import Table
from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.frames import read_clip
from violence_detection.clips.streams import stream_images
from violence_detection.features.cache.feature_cache import ClipFacts, FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.models.pooling import pooled
from violence_detection.models.vgg19 import build_extractor
from violence_detection.models.vgg19_weights import feature_size, identify_weights
from violence_detection.settings.constants import POOLINGS, STREAMS, VGG19_LAYERS
from violence_detection.settings.values import names_out_of
from violence_detection.storage.files import file_checksum
from violence_detection.storage.remote_paths import AnyPath

LAYERS = ("block3_pool", "block4_pool", "block5_pool", "fc1", "fc2")
COMBINATIONS = (*((name,) for name in STREAMS), ("difference", "flow"), STREAMS)
FOLDS = 5
ROUNDS = 3  # of timing, after one to warm up
COST = 1.0  # of the support vector machine, for every table: nothing is chosen on what is tested


class View(NamedTuple):
    """What becomes of an image in VGG19."""

    layer: str
    pooling: str  # "mean" for layers without maps


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the features that are missing; print how well each tells the classes apart."""
    parser = make_parser(__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--vgg19-weights", required=True)

    def add_names(flag: str, allowed: Sequence[str], **options: Any) -> None:
        parser.add_argument(flag, type=names_out_of(allowed), **options)

    add_names("--layers", VGG19_LAYERS, default=LAYERS, help="separated by commas")
    add_names("--poolings", POOLINGS, default=("mean",), help="default: mean")
    add_names("--streams", STREAMS, nargs="+", default=COMBINATIONS, help="combinations")
    parser.add_argument("--frames", type=int, default=16, help="per clip (default: 16)")
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3], help="default: 1,2,3")
    parser.add_argument("--costs", action="store_true", help="measure the CPU time of a clip, too")
    options = parser.parse_args(arguments)
    clips = find_clips(options.dataset_path, seed=0)
    views = views_of(options.layers, options.poolings)
    streams = [name for name in STREAMS if any(name in names for names in options.streams)]
    recipes = recipes_of(views, streams, options.frames, options.vgg19_weights)
    seeds = options.seeds
    report: dict[str, Any] = {"dataset": options.dataset_path.name, "seeds": seeds, "rows": []}
    with stored_features(clips, recipes, options.cache_dir, options.vgg19_weights) as features:
        for view, names in product(views, options.streams):
            described = [describe(features[view, stream]) for stream in names]
            figures = separability(np.concatenate(described, axis=1), clips, seeds)
            report["rows"].append({**view._asdict(), "streams": list(names), **figures})
            write_report(report, options.json)
    print(table(report).as_text())
    if options.costs:
        layers = list(dict.fromkeys(view.layer for view in views))
        report["cpu_seconds"] = costs(clips[0].path, options.frames, streams, layers)
        write_report(report, options.json)
        cells = [[name, f"{seconds:.3f}"] for name, seconds in report["cpu_seconds"].items()]
        print(Table("CPU seconds per clip and stream", ["", "s"], cells).as_text())
    return 0


def views_of(layers: Sequence[str], poolings: Sequence[str]) -> list[View]:
    """Return each layer with each pooling, dense layers once; in VGG19's order."""
    pooled_views = [
        View(layer, pooling if layer.startswith("block") else "mean")
        for layer, pooling in product(sorted(layers, key=VGG19_LAYERS.index), poolings)
    ]
    return list(dict.fromkeys(pooled_views))


def recipes_of(
    views: Sequence[View], streams: Sequence[str], frames: int, weights: str
) -> dict[tuple[View, str], Recipe]:
    """Return the training command's recipe for each view of each stream."""
    identities = {layer: identify_weights(weights, layer) for layer in {v.layer for v in views}}
    return {
        (view, stream): Recipe(
            frames=frames,
            layer=view.layer,
            weights=identities[view.layer],
            features=feature_size(view.layer, view.pooling),
            dtype="float16",
            stream=stream,
            pooling=view.pooling,
        )
        for view, stream in product(views, streams)
    }


@contextmanager
def stored_features(
    clips: Sequence[Clip],
    recipes: dict[tuple[View, str], Recipe],
    cache_dir: Path,
    weights: str,
) -> Iterator[dict[tuple[View, str], np.ndarray]]:
    """Yield `(clips, frames, features)` by view and stream; compute and store what is missing."""
    with CacheFolder(cache_dir) as folder:
        caches = {key: FeatureCache(folder, recipe) for key, recipe in recipes.items()}
        contents = []
        network = None
        known = folder.known_contents(clip.path for clip in clips)
        try:
            for number, (clip, content) in enumerate(zip(clips, known, strict=True), start=1):
                path = Path(clip.path)
                contents.append(content or file_checksum(path))
                missing = [key for key, c in caches.items() if c.row_of(contents[-1]) is None]
                if missing:
                    network = network or network_of(sorted({view for view, _ in recipes}), weights)
                    compute(path, contents[-1], missing, caches, network)
                    print(f"clip {number} of {len(clips)}", file=sys.stderr)
                folder.remember_file(path, file_stamp(path), contents[-1])
        finally:
            for cache in caches.values():
                cache.commit()  # also if it is interrupted
        yield {
            key: np.asarray(cache.rows().read(cache.rows_of(contents).tolist()))
            for key, cache in caches.items()
        }


class Network(NamedTuple):
    """VGG19 with several outputs."""

    views: list[View]
    model: keras.Model  # from (frames, 224, 224, 3) uint8 to an output per view


def network_of(views: list[View], weights: str) -> Network:
    """Return VGG19 up to the deepest of the views' layers, with all of them as outputs."""
    deepest = max((view.layer for view in views), key=VGG19_LAYERS.index)
    whole = build_extractor(deepest, weights)
    outputs = []
    for view in views:
        x = whole.get_layer(view.layer).output
        outputs.append(pooled(x, view.pooling) if len(x.shape) == 4 else x)
    return Network(views, keras.Model(whole.input, [ops.cast(x, "float32") for x in outputs]))


def compute(
    path: Path,
    content: bytes,
    missing: Sequence[tuple[View, str]],
    caches: dict[tuple[View, str], FeatureCache],
    network: Network,
) -> None:
    """Store the features of a clip that caches lack."""
    frames, info = read_clip(path, next(iter(caches.values())).recipe.frames)
    for stream in dict.fromkeys(stream for _, stream in missing):
        outputs = network.model.predict_on_batch(stream_images(frames, stream))
        for view, values in zip(network.views, outputs, strict=True):
            cache = caches[view, stream]
            if (view, stream) in missing:
                facts = [ClipFacts(info.seconds, info.share)]
                cache.store([content], values[np.newaxis].astype(np.float16), facts)


def costs(
    path: AnyPath, frames: int, streams: Sequence[str], layers: Sequence[str]
) -> dict[str, float]:
    """Return the CPU seconds of a clip's images by stream, and of VGG19 in float32 by layer.

    The least of several rounds, in which all take turns.

    Args:
        path: of a clip on a disk.
        frames: per clip.
        streams: to draw.
        layers: up to which VGG19 runs, with random weights: they do not change its speed.
    """
    images, _ = read_clip(Path(path), frames)
    networks = {layer: build_extractor(layer, "random") for layer in layers}
    work: dict[str, Callable[[], Any]] = {
        **{name: partial(stream_images, images, name) for name in streams if name != "rgb"},
        **{name: partial(net.predict_on_batch, images) for name, net in networks.items()},
    }
    rounds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):
        for name, run in work.items():
            started = time.process_time()
            run()
            rounds[name].append(time.process_time() - started)
    return {name: min(seconds[1:]) for name, seconds in rounds.items()}


def describe(features: np.ndarray) -> np.ndarray:
    """Return `(clips, 2 * features)`: mean, and mean absolute change, of log(1 + x)."""
    logarithms = np.log1p(np.maximum(features.astype(np.float32), 0))
    change = np.abs(np.diff(logarithms, axis=1)).mean(axis=1)
    return np.concatenate([logarithms.mean(axis=1), change], axis=1)


def separability(
    described: np.ndarray, clips: Sequence[Clip], seeds: Sequence[int]
) -> dict[str, float]:
    """Return ROC-AUC and accuracy of held-out folds by source, the means over the seeds.

    Args:
        described: `(clips, values)` float32.
        clips: with labels and groups.
        seeds: of the folds.
    """
    labels = np.array([clip.label for clip in clips])
    groups = [clip.group_key for clip in clips]
    areas, accuracies = [], []
    for seed in seeds:
        scores = np.zeros(len(clips))
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        for known, held_out in folds.split(described, labels, groups):
            mean, deviation = described[known].mean(axis=0), described[known].std(axis=0)
            scaled = (described - mean) / np.maximum(deviation, 1e-3) / np.sqrt(described.shape[1])
            kernel = scaled @ scaled[known].T
            machine = SVC(kernel="precomputed", C=COST).fit(kernel[known], labels[known])
            scores[held_out] = machine.decision_function(kernel[held_out])
        areas.append(roc_auc_score(labels, scores))
        accuracies.append(((scores > 0) == labels).mean())
    return {"roc_auc": float(np.mean(areas)), "accuracy": float(np.mean(accuracies))}


def table(report: dict[str, Any]) -> Table:
    """Return a row for each view, a column for each combination of streams."""
    combinations = list(dict.fromkeys(",".join(row["streams"]) for row in report["rows"]))
    by_view: dict[str, dict[str, str]] = {}
    for row in report["rows"]:
        name = row["layer"] + (f", {row['pooling']}" if row["layer"].startswith("block") else "")
        cell = f"{row['roc_auc']:.3f}/{row['accuracy']:.2f}"
        by_view.setdefault(name, {})[",".join(row["streams"])] = cell
    short = [name.replace("difference", "diff").replace(",", "+") for name in combinations]
    rows = [[name, *(cells[c] for c in combinations)] for name, cells in by_view.items()]
    title = f"{report['dataset']}: ROC-AUC/accuracy of a linear classifier, folds by source"
    return Table(title, ["", *short], rows)


if __name__ == "__main__":
    sys.exit(main())
