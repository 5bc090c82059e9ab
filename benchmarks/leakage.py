"""What the leakage check finds: altered copies of real clips, and its false alarms.

    python -m benchmarks.leakage --dataset-path DIR --feature-layer L --vgg19-weights FILE

Some clips are altered as copies on the web are. Each copy should be reported as a duplicate of its
source; clips of different sources (by groups.csv) should not be reported as duplicates.
"""

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.command import make_parser, print_report
from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips
from violence_detection.settings.constants import CLIP_TIMEOUT

FRAMES = 16

Images = list[np.ndarray]
ALTERATIONS: dict[str, Callable[[Images], Images]] = {
    "encoded again": lambda images: images,
    "a tenth cut off at both ends": lambda images: images[len(images) // 10 : -len(images) // 10],
    "second half": lambda images: images[len(images) // 2 :],
    "brighter": lambda images: [cv2.convertScaleAbs(i, alpha=1.15, beta=15) for i in images],
    "half the size": lambda images: [cv2.resize(i, None, fx=0.5, fy=0.5) for i in images],
    "cropped by a twentieth": lambda images: [cropped(i) for i in images],
    "mirrored": lambda images: [np.ascontiguousarray(i[:, ::-1]) for i in images],
}


def cropped(image: np.ndarray) -> np.ndarray:
    """Return an image without a twentieth at each side."""
    height, width = (side // 20 for side in image.shape[:2])
    return np.ascontiguousarray(image[height:-height, width:-width])


def main() -> None:
    """Alter, compare, print, and write the file that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--dataset-path", type=Path, required=True, help="a dataset with groups.csv"
    )
    parser.add_argument(
        "--feature-layer",
        default="thumbnail",
        help="the features that are compared: a VGG19 layer, as in runs with the rgb stream, or "
        "thumbnail, as in runs without it (default)",
    )
    parser.add_argument("--vgg19-weights", default="imagenet")
    parser.add_argument("--cache-dir", type=Path, help="(default: a temporary one)")
    parser.add_argument("--count", type=int, default=24, help="clips to alter (default: 24)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(flags, Path(folder))
    print_report(report, flags.json)


def measure(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the share of the copies found, by alteration, and the false alarms."""
    # Imported here, since decoder processes import this file, and TensorFlow takes seconds.
    from violence_detection.clips.streams import THUMBNAIL_VALUES
    from violence_detection.features.cache.feature_cache import THUMBNAIL, FeatureCache, Recipe
    from violence_detection.features.cache.folder import CacheFolder
    from violence_detection.features.extraction import extract_features
    from violence_detection.features.leakage import NEAR_DUPLICATE, find_leaks
    from violence_detection.features.network import on_replicas
    from violence_detection.features.survey import survey_features
    from violence_detection.models.vgg19 import build_extractor
    from violence_detection.models.vgg19_weights import feature_size, identify_weights
    from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy

    clips = [replace(c, split="train") for c in find_clips(flags.dataset_path, seed=0)]
    copies = altered_copies(random.Random(0).sample(clips, flags.count), folder)
    layer, weights = flags.feature_layer, flags.vgg19_weights
    precision = choose_precision(True, "CPU").computation
    if layer == THUMBNAIL:
        recipe = Recipe(FRAMES, THUMBNAIL, "", THUMBNAIL_VALUES, "float16")
    else:
        identity = identify_weights(weights, layer)
        recipe = Recipe(FRAMES, layer, identity, feature_size(layer), "float16")

    make_extractor = partial(build_extractor, layer, weights, precision)
    strategy = make_strategy(find_devices(1), 1)
    with CacheFolder(flags.cache_dir or folder / "cache") as cache_folder:
        cache = FeatureCache(cache_folder, recipe)
        found_rows, _ = extract_features(
            [*clips, *copies],
            [cache],
            lambda recipe: on_replicas(strategy, make_extractor),
            1,
            CLIP_TIMEOUT,
        )
        rows = {clip: row for clip, (row,) in found_rows.items()}
        survey = survey_features(cache, list(rows.values()))

    pairs = {(leak.clip, leak.repeated) for leak in find_leaks(rows, survey)}
    found = [copy for copy, source in copies.items() if (source, copy) in pairs]
    tried = Counter(copy.group for copy in copies)
    sources = sorted({clip.group_key for clip in clips})
    alarms: set[Clip] = set()
    for source in sources:  # each against all others
        sides = {
            replace(c, split="train" if c.group_key == source else "test"): rows[c] for c in clips
        }
        alarms |= {leak.clip for leak in find_leaks(sides, survey) if leak.reason == NEAR_DUPLICATE}
    return {
        "altered_clips": flags.count,
        "found": {
            name: round(sum(c.group == name for c in found) / tried[name], 3)
            for name in ALTERATIONS
        },
        "clips": len(clips),
        "sources": len(sources),
        "clips_found_to_repeat_another_source": len(alarms),
    }


def altered_copies(sources: list[Clip], folder: Path) -> dict[Clip, Clip]:
    """Return copies as clips of the test split, one group per alteration, with their sources."""
    copies = {}
    for number, source in enumerate(sources):
        reader = cv2.VideoCapture(str(source.path))
        rate, images = reader.get(cv2.CAP_PROP_FPS), []
        while (read := reader.read())[0]:
            images.append(read[1])
        for name, alter in ALTERATIONS.items():
            path = folder / f"{number:03d} {name}.mp4"
            altered = alter(images)
            height, width = altered[0].shape[:2]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(path), code, rate, (width, height))
            for image in altered:
                writer.write(image)
            writer.release()
            copies[Clip(path.parent, path.name, source.label, "test", name)] = source
    return copies


if __name__ == "__main__":
    main()
