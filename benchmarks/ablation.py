"""What each part of the recipe gains: added one after the other, measured on held-out clips.

    python -m benchmarks.ablation --dataset-path DIR --seeds 5 --json FILE --markdown FILE …

accepts the training command's flags, too. Every row is a cross-validation by group, repeated for
each seed. Groups of nonviolent clips are removed from the training side until 78 % of it is
violent. Nothing is selected on the held-out clips: the models are those of the last epoch, the
threshold is 0.5. The gain of a step is called real if a paired t-test over seeds and folds is
significant at 5 %, corrected for folds that share training clips (Nadeau and Bengio,
https://doi.org/10.1023/A:1024068626366).

With `--compare heads` the rows are the heads, with the training command's defaults or the given
flags, on all clips. The baselines are a logistic regression and a support vector machine on mean
and deviation over the frames, and three LSTMs of plain Keras on RGB: the method that this package
replaces.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from violence_detection.runtime.tensorflow_log import quiet_tensorflow

quiet_tensorflow()
import keras
import numpy as np
import tensorflow as tf
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks.command import make_parser, write_report
from benchmarks.linked_clips import make_imbalanced
from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips
from violence_detection.evaluation.intervals import CONFIDENCE
from violence_detection.evaluation.metrics import classification_figures
from violence_detection.features.cache.feature_cache import FeatureCache
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.extraction import extract_features
from violence_detection.features.network import on_replicas
from violence_detection.features.recipe import stream_recipes
from violence_detection.models.vgg19 import build_extractor
from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy
from violence_detection.settings.constants import HEADS, STREAMS
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.folds import folds
from violence_detection.training.loop import fit, with_seeds
from violence_detection.training.predictions import violence_probabilities

FOLDS = 5
VIOLENT_SHARE = 0.78  # of the clips that are trained on
ENSEMBLE = 5
RESAMPLES = 1000
SIGNIFICANT = 0.05
FIGURES = ("accuracy", "nonviolent_accuracy", "balanced_accuracy", "roc_auc")

# What each row of the recipe changes, added to the rows before.
PLAIN = {
    "streams": ("rgb",),
    "use_class_weights": False,
    "use_focal_loss": False,
    "label_smoothing": 0.0,
    "schedule": "constant",
    "warmup_epochs": 0,
}
RECIPE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("none", PLAIN),
    ("+ class weights", {"use_class_weights": True}),
    ("+ focal loss", {"use_focal_loss": True}),
    ("+ label smoothing", {"label_smoothing": 0.1}),
    ("+ warm-up, cosine", {"schedule": "cosine", "warmup_epochs": 5}),
    ("+ difference", {"streams": ("rgb", "difference")}),
    ("flow for RGB", {"streams": ("difference", "flow")}),
    ("+ augmentation", {"augment": ("reverse", "mixup")}),
    (f"+ ensemble of {ENSEMBLE}", {"ensemble": ENSEMBLE}),
)

# `(training clips, held-out clips, seed)` to the held-out clips' probabilities.
Predict = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def main() -> None:
    """Measure, print the table, and write it as JSON and Markdown."""
    tf.get_logger().setLevel("ERROR")  # it warns of a new graph for every fold's model
    parser = make_parser(__doc__)
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    parser.add_argument(
        "--compare", choices=("recipe", "heads"), default="recipe", help="what the rows are"
    )
    parser.add_argument("--seeds", type=int, default=5, help="repetitions (default: 5)")
    flags, training_flags = parser.parse_known_args()
    settings = parse_settings([*training_flags, "--streams", ",".join(STREAMS)])
    devices = find_devices(settings.devices.replicas)
    precision = choose_precision(settings.devices.mixed_precision, devices[0].device_type)
    clips, features = all_features(settings, precision.computation)
    rows, share = (RECIPE, VIOLENT_SHARE) if flags.compare == "recipe" else (heads(), None)
    report = ablate(settings, clips, features, range(flags.seeds), precision.policy, rows, share)
    write_report(report, flags.json)
    text = as_markdown(report)
    if flags.markdown:
        flags.markdown.write_text(text)
    print(text)


def all_features(settings: Settings, dtype: str) -> tuple[list[Clip], ClipFeatures]:
    """Return the readable clips and their features in all streams, computed if missing."""
    clips = find_clips(Path(settings.data.dataset_path), settings.devices.seed)
    features = settings.features
    strategy = make_strategy(find_devices(settings.devices.replicas), settings.training.batch_size)

    make_extractor = partial(
        build_extractor,
        features.feature_layer,
        features.vgg19_weights,
        dtype,
        features.feature_pooling,
    )
    with CacheFolder(Path(settings.data.cache_dir)) as folder:
        caches = [FeatureCache(folder, recipe) for recipe in stream_recipes(settings)]
        rows, _ = extract_features(
            clips,
            caches,
            lambda recipe: on_replicas(strategy, make_extractor),
            strategy.num_replicas_in_sync,
            settings.data.clip_timeout,
        )
    clips = [clip for clip in clips if clip in rows]
    stored = [cache.rows() for cache in caches]
    labels = [clip.label for clip in clips]
    return clips, ClipFeatures(
        stored, [rows[clip] for clip in clips], labels, frames=settings.features.frames
    )


def streams_of(features: ClipFeatures, streams: Sequence[str]) -> ClipFeatures:
    """Return the same clips with these streams only."""
    chosen = [STREAMS.index(stream) for stream in streams]
    stored = [features.stored[index] for index in chosen]
    return ClipFeatures(stored, features.rows[:, chosen], features.labels, frames=features.frames)


def ablate(
    settings: Settings,
    clips: Sequence[Clip],
    features: ClipFeatures,
    seeds: Sequence[int],
    policy: str,
    steps: Sequence[tuple[str, dict[str, Any]]],
    violent_share: float | None,
) -> dict[str, Any]:
    """Return the figures of every row, and its gain over the row before; of a head, over `mean`.

    Args:
        settings: of the training, before the first step.
        clips: to cross-validate on.
        features: of the clips, in all streams.
        seeds: one cross-validation each.
        policy: Keras's dtype policy.
        steps: the rows' names and what each changes in the settings of the row before.
        violent_share: of the clips that are trained on; None: as they are.
    """
    rows: list[dict[str, Any]] = []
    for name, streams, predict in baselines(features, settings):
        rows.append(cross_validate(name, clips, seeds, predict, violent_share))
        rows[-1]["streams"] = streams
        print_row(rows[-1])
    changed = settings
    compared: dict[str, Any] | None = None
    for name, change in steps:
        changed = changed.replace(**change)
        changes_head = "head" in change
        chosen = streams_of(features, changed.features.streams)

        def predict(
            train: np.ndarray,
            held_out: np.ndarray,
            seed: int,
            changed: Settings = changed,
            chosen: ClipFeatures = chosen,
        ) -> np.ndarray:
            trainers = (
                fit(member, chosen.select(train), policy)
                for member in with_seeds(changed.replace(seed=seed), changed.training.seeds)
            )
            return np.mean(
                [
                    violence_probabilities(
                        t.classifier, chosen.select(held_out), changed.training.batch_size
                    )
                    for t in trainers
                ],
                axis=0,
            )

        row = cross_validate(name, clips, seeds, predict, violent_share)
        row["streams"] = list(changed.features.streams)
        if compared:
            row["gain"] = paired_gain(compared["fold_roc_auc"], row["fold_roc_auc"])
        rows.append(row)
        if compared is None or not changes_head:
            compared = row  # a head is compared with the first one, a step with the one before
        print_row(row)
    return {
        "clips": len(clips),
        "groups": len({clip.group_key for clip in clips}),
        "folds": FOLDS,
        "seeds": list(seeds),
        "violent_share_in_training": violent_share,
        "epochs": settings.training.epochs,
        "batch_size": settings.training.batch_size,
        "feature_layer": settings.features.feature_layer,
        "rows": rows,
    }


def heads() -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of `--compare heads`: the baseline first, the default last."""
    streams = Settings().features.streams
    names = ("mean", *(head for head in HEADS if head not in ("mean", Settings().model.head)))
    rows = [(head, {"streams": streams, "head": head}) for head in (*names, Settings().model.head)]
    return [*rows, (f"+ ensemble of {ENSEMBLE}", {"ensemble": ENSEMBLE})]


def cross_validate(
    name: str,
    clips: Sequence[Clip],
    seeds: Sequence[int],
    predict: Predict,
    violent_share: float | None,
) -> dict[str, Any]:
    """Return a row: figures pooled over the folds, their mean over the seeds, with intervals."""
    started = time.perf_counter()
    labels = np.array([clip.label for clip in clips])
    by_fold: list[float] = []
    predictions = []
    _, group_of = np.unique([clip.group_key for clip in clips], return_inverse=True)
    for seed in seeds:
        probabilities = np.zeros(len(clips))
        for train, held_out in folds(labels, group_of, FOLDS, seed, "--compare"):
            if violent_share:
                train = make_imbalanced(clips, train, seed, violent_share)
            probabilities[held_out] = predict(train, held_out, seed)
            by_fold.append(float(roc_auc_score(labels[held_out], probabilities[held_out])))
        predictions.append(probabilities)
    figures = mean_figures(labels, predictions, np.ones((1, len(clips))))
    count = group_of.max() + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    resampled = mean_figures(labels, predictions, drawn[:, group_of].astype(float))
    tail = 100 * (1 - CONFIDENCE) / 2
    return {
        "name": name,
        **{figure: float(figures[figure][0]) for figure in FIGURES},
        "intervals": {
            figure: np.nanpercentile(resampled[figure], [tail, 100 - tail]).tolist()
            for figure in FIGURES
        },
        "fold_roc_auc": by_fold,
        "seconds": round(time.perf_counter() - started, 1),
    }


def mean_figures(
    labels: np.ndarray, predictions: Sequence[np.ndarray], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return `(resamples,)` of each figure, the mean over the seeds."""
    of_seeds = [classification_figures(labels, p, 0.5, weights) for p in predictions]
    for figures in of_seeds:
        recalls = figures["nonviolent_accuracy"], figures["violent_accuracy"]
        figures["balanced_accuracy"] = (recalls[0] + recalls[1]) / 2
    return {name: np.mean([figures[name] for figures in of_seeds], axis=0) for name in FIGURES}


def paired_gain(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Return the mean gain in ROC-AUC over seeds and folds, its p-value, and whether it is real."""
    gains = np.array(after) - np.array(before)
    # Folds share most of their training clips: the variance of their mean is larger than 1/n.
    variance = gains.var(ddof=1) * (1 / len(gains) + 1 / (FOLDS - 1))
    t = gains.mean() / np.sqrt(variance) if variance > 0 else 0.0
    p = float(2 * stats.t.sf(abs(t), len(gains) - 1))
    return {"roc_auc": float(gains.mean()), "p": p, "real": p < SIGNIFICANT}


def baselines(features: ClipFeatures, settings: Settings) -> list[tuple[str, list[str], Predict]]:
    """Return the names, streams and functions of what the recipe is compared with."""

    def pooled(streams: Sequence[str]) -> np.ndarray:
        values = read_all(streams_of(features, streams))
        return np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1)

    def on_pooled(make: Callable[[], Any], streams: Sequence[str]) -> Predict:
        values = pooled(streams)

        def predict(train: np.ndarray, held_out: np.ndarray, seed: int) -> np.ndarray:
            model = make_pipeline(StandardScaler(), make())
            model.fit(values[train], features.labels[train])
            scores = model.decision_function(values[held_out])
            return 1 / (1 + np.exp(-scores))

        return predict

    def logistic() -> LogisticRegression:
        return LogisticRegression(C=0.01, max_iter=3000, class_weight="balanced")

    def vector_machine() -> SVC:
        return SVC(class_weight="balanced")

    both, all_streams = ["difference", "flow"], list(STREAMS)
    return [
        ("logistic regression", ["rgb"], on_pooled(logistic, ["rgb"])),
        ("logistic regression", both, on_pooled(logistic, both)),
        ("logistic regression", all_streams, on_pooled(logistic, all_streams)),
        ("support vectors", both, on_pooled(vector_machine, both)),
        ("support vectors", all_streams, on_pooled(vector_machine, all_streams)),
        ("three LSTMs", ["rgb"], three_lstms(streams_of(features, ["rgb"]), settings)),
    ]


def read_all(features: ClipFeatures) -> np.ndarray:
    """Return `(clips, cached frames, features)` float32."""
    return features.batch(np.arange(len(features)))[0].astype(np.float32)


def three_lstms(features: ClipFeatures, settings: Settings) -> Predict:
    """Return the replaced method: 3 x LSTM(128), batch normalization, attention."""
    values = read_all(features)

    def predict(train: np.ndarray, held_out: np.ndarray, seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        inputs = x = keras.Input(values.shape[1:])
        for _ in range(3):
            x = keras.layers.LSTM(128, return_sequences=True)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.Dropout(0.5)(x)
        scores = keras.layers.Softmax(axis=1)(keras.layers.Dense(1)(x))
        x = keras.layers.Flatten()(keras.layers.Dot(axes=1)([scores, x]))
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
        model.compile(keras.optimizers.Adam(settings.training.learning_rate), "binary_crossentropy")
        model.fit(
            values[train],
            features.labels[train],
            batch_size=settings.training.batch_size,
            epochs=settings.training.epochs,
            verbose=0,
        )
        return model.predict(values[held_out], verbose=0)[:, 0]

    return predict


def print_row(row: dict[str, Any]) -> None:
    """Print a row as soon as it is measured."""
    gain = row.get("gain")
    shown = f"  gain {gain['roc_auc']:+.3f} (p {gain['p']:.2f})" if gain else ""
    print(
        f"{row['name']:<22}{'+'.join(row['streams']):<22}AUC {row['roc_auc']:.3f}  "
        f"accuracy {row['accuracy']:.3f}  {row['seconds']:.0f} s{shown}",
        flush=True,
    )


def as_markdown(report: dict[str, Any]) -> str:
    """Return the report's table."""
    lines = []
    for row in report["rows"]:
        gain = row.get("gain")
        cells = []
        for figure in FIGURES:
            low, high = row["intervals"][figure]
            cells.append(f"{row[figure]:.2f} ({low:.2f}–{high:.2f})")
        step = ""
        if gain:
            step = f"{gain['roc_auc']:+.3f}, {'significant' if gain['real'] else 'n.s.'}"
        lines.append([f"{row['name']} ({'+'.join(s[:4] for s in row['streams'])})", *cells, step])
    header = ["", "accuracy", "nonviolent found", "balanced", "ROC-AUC", "gain in AUC"]
    table = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)]
    return "\n".join(table) + "\n"


if __name__ == "__main__":
    main()
