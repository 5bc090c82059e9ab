"""The speed of predict.py compared with extraction in training, on the same clips.

    python -m benchmarks.predicting --checkpoint-dir ./checkpoints --json FILE

Both decode every clip and run VGG19 on it; prediction also classifies it, and extraction stores its
features. The clips are those of the run's test split.
"""

import csv
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, print_report
from benchmarks.timing import Rates, Workload, in_own_process, side_by_side
from violence_detection.runtime.tensorflow_log import quiet_tensorflow


def main() -> None:
    """Measure, print, and write the file that is asked for."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoints"), metavar="DIR")
    parser.add_argument("--vgg19-weights", metavar="NAME|FILE", help="as for predict.py")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--clips", type=int, help="of the test split, at most (default: all)")
    flags = parser.parse_args()
    measured = flags.checkpoint_dir, flags.vgg19_weights, flags.clips, flags.rounds
    print_report(in_own_process(measure, *measured), flags.json)


def measure(
    checkpoint_dir: Path, vgg19_weights: str | None, clips: int | None, rounds: int
) -> dict[str, Any]:
    """Return clips per second of both, by round, and by how much probabilities differ."""
    from benchmarks.machine import describe_machine
    from violence_detection.clips.clip import Clip
    from violence_detection.features.cache.feature_cache import FeatureCache
    from violence_detection.features.cache.folder import CacheFolder
    from violence_detection.features.extraction import extract_features
    from violence_detection.inference.detector import load_detector
    from violence_detection.runs.files import CONFIG, PREDICTIONS
    from violence_detection.settings.constants import CLASS_NAMES, CLIP_TIMEOUT
    from violence_detection.storage.files import read_json

    detector = load_detector(checkpoint_dir, vgg19_weights)
    dataset = Path(read_json(checkpoint_dir / CONFIG)["settings"]["dataset_path"])
    with (checkpoint_dir / PREDICTIONS).open(newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))[:clips]
    tested = [Clip(dataset, r["clip"], CLASS_NAMES.index(r["label"]), "test") for r in rows]
    differences = []

    def predict() -> None:
        for row, prediction in zip(
            rows, detector.predict_clips([c.path for c in tested]), strict=True
        ):
            if prediction.probability is None:
                raise SystemExit(f"{row['clip']}: {prediction.error}")
            differences.append(abs(prediction.probability - float(row["probability"])))

    def extract() -> None:
        with tempfile.TemporaryDirectory() as name, CacheFolder(Path(name)) as folder:
            caches = [FeatureCache(folder, recipe) for recipe in detector.recipes]
            extract_features(
                tested,
                caches,
                lambda recipe: detector.networks[recipe.network],
                len(detector.devices),
                clip_timeout=CLIP_TIMEOUT,
            )

    for warm_up in (predict, extract):
        warm_up()
    workloads = {
        "predict": Workload([predict], len(tested)),
        "extraction": Workload([extract], len(tested)),
    }
    rates = side_by_side(workloads, rounds)
    return {
        "machine": describe_machine(list(detector.devices)),
        "detector": f"{detector.recipes[0].layer}, {', '.join(detector.streams)}, "
        f"{detector.computation}",
        "clips": len(tested),
        "clips_per_second": {name: round(rates.median(name), 3) for name in workloads},
        "predict_over_extraction": round(rates.ratio("predict", "extraction"), 3),
        "ratio_by_round": ratios(rates),
        "largest_difference_to_the_runs_own_test": max(differences),
    }


def ratios(rates: Rates) -> list[float]:
    """Return prediction's rate over extraction's, by round."""
    return [
        round(predicted / extracted, 3)
        for predicted, extracted in zip(
            rates.per_second["predict"], rates.per_second["extraction"], strict=True
        )
    ]


if __name__ == "__main__":
    main()
