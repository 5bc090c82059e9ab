"""Which dropout and L2 penalty serve best: grouped cross-validation on cached features.

    python -m benchmarks.regularization --dataset-path DIR --json FILE …

takes the training command's flags; the features must be in the cache already. The test split is
left out: what is chosen here must not have seen it. Beside the grid, a logistic regression on the
clips' mean features and on their mean change from frame to frame says how much each tells.
"""

import dataclasses
import itertools
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.command import make_parser, write_report
from clips import find_clips
from config import Settings, parse_settings
from evaluation import violence_probabilities
from feature_cache import FeatureCache, Recipe
from input_pipeline import ClipFeatures, sample_features, steps_per_epoch, training_batches
from model_architecture import feature_size, identify_weights
from training import class_factors, make_trainer

FOLDS = 5
DROPOUTS = (0.2, 0.5, 0.7)
PENALTIES = (0.0, 1e-4, 1e-3)


def main() -> None:
    """Print the table and write it as JSON."""
    own, flags = make_parser(__doc__).parse_known_args()
    settings = parse_settings(flags)
    clips, groups = cached_clips(settings)
    features = clips.stored.read(clips.rows.tolist()).astype(np.float32)
    labels = clips.labels
    rows = [
        logistic_row("logistic regression, mean features", features.mean(axis=1), labels, groups),
        logistic_row(
            "logistic regression, mean change",
            np.abs(np.diff(features, axis=1)).mean(axis=1),
            labels,
            groups,
        ),
    ]
    for row in rows:
        print_row(row)
    for dropout, l2 in itertools.product(DROPOUTS, PENALTIES):
        chosen = dataclasses.replace(settings, dropout=dropout, l2=l2)
        started = time.perf_counter()
        probabilities = cross_validated(chosen, clips, groups)
        row = {
            "name": f"attention-LSTM, dropout {dropout}, l2 {l2:g}",
            **figures(labels, probabilities),
            "seconds": round(time.perf_counter() - started, 1),
        }
        rows.append(row)
        print_row(row)
    report = {
        "clips": len(labels),
        "groups": len(set(groups)),
        "folds": FOLDS,
        "epochs": settings.epochs,
        "feature_layer": settings.feature_layer,
        "rows": rows,
    }
    write_report(report, own.json)


def cached_clips(settings: Settings) -> tuple[ClipFeatures, np.ndarray]:
    """Return the features and the group of all clips but the test's."""
    clips = [c for c in find_clips(settings.dataset_path, settings.seed) if c.split != "test"]
    layer = settings.feature_layer
    weights = identify_weights(settings.vgg19_weights, layer)
    recipe = Recipe(settings.frames, layer, weights, feature_size(layer), settings.feature_dtype)
    cache = FeatureCache(settings.cache_dir, recipe)
    contents = cache.known_contents([clip.path for clip in clips])
    rows = [None if content is None else cache.row_of(content) for content in contents]
    found = [row for row in rows if row is not None]
    if len(found) < len(clips):
        raise SystemExit("error: not all features are in the cache: run the training command first")
    labels = [clip.label for clip in clips]
    return ClipFeatures(cache.rows(), found, labels), np.array([c.group or c.name for c in clips])


def folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training and the held-out clips of each fold; a group is on one side."""
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))


def logistic_row(
    name: str, values: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """Return the figures of a logistic regression on `(clips, values)`."""
    probabilities = np.zeros(len(labels))
    for train, held_out in folds(labels, groups, seed=0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=3000))
        model.fit(values[train], labels[train])
        probabilities[held_out] = model.predict_proba(values[held_out])[:, 1]
    return {"name": name} | figures(labels, probabilities)


def cross_validated(settings: Settings, clips: ClipFeatures, groups: np.ndarray) -> np.ndarray:
    """Return each clip's probability by the model of the last epoch that has not seen it."""
    probabilities = np.zeros(len(clips))
    for train, held_out in folds(clips.labels, groups, seed=0):
        keras.utils.set_random_seed(settings.seed)
        keras.backend.clear_session()
        factors = class_factors(clips.labels[train].tolist(), settings)
        chosen = ClipFeatures(clips.stored, clips.rows[train], clips.labels[train], factors)
        steps = steps_per_epoch(len(chosen), settings.batch_size)
        sample = sample_features(chosen, settings.batch_size, settings.seed, limit=len(chosen))
        trainer = make_trainer(settings, sample, steps)
        trainer.fit(
            training_batches(chosen, settings.batch_size, settings.seed, 0, settings.epochs),
            steps_per_epoch=steps,
            epochs=settings.epochs,
            shuffle=False,
            verbose=0,
        )
        probabilities[held_out] = violence_probabilities(
            trainer.classifier,
            ClipFeatures(clips.stored, clips.rows[held_out], clips.labels[held_out]),
            settings.batch_size,
        )
    return probabilities


def figures(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Return ROC-AUC and accuracy over all held-out clips together."""
    return {
        "roc_auc": round(float(roc_auc_score(labels, probabilities)), 4),
        "accuracy": round(float(accuracy_score(labels, probabilities >= 0.5)), 4),
    }


def print_row(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    print(f"{row['name']:<44}AUC {row['roc_auc']:.3f}  accuracy {row['accuracy']:.3f}", flush=True)


if __name__ == "__main__":
    main()
