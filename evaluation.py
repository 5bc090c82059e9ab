"""How good a trained classifier is: scikit-learn's figures on a split."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn import metrics

from clips import Clip
from config import CLASS_NAMES
from input_pipeline import ClipFeatures, evaluation_batches, read_errors, steps_per_epoch

THRESHOLD = 0.5  # a clip of at least this probability is called violent


def violence_probabilities(model: keras.Model, clips: ClipFeatures, batch_size: int) -> np.ndarray:
    """Return `(clips,)` float32 probabilities of violence, in the clips' order."""
    batches = evaluation_batches(clips, batch_size).map(lambda features, *_: features)
    steps = steps_per_epoch(len(clips), batch_size)
    with read_errors([clips]):
        probabilities = model.predict(batches, steps=steps, verbose=0)
    return probabilities[: len(clips), 0].astype(np.float32)


def classification_figures(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Return accuracy, precision, recall, F1, ROC-AUC, PR-AUC, per-class accuracy and confusion.

    Precision, recall and F1 are those of the violent class; the rows of the confusion matrix are
    the true classes, its columns the predicted ones, nonviolent first.
    """
    predicted = (probabilities >= THRESHOLD).astype(int)
    confusion = metrics.confusion_matrix(labels, predicted, labels=(0, 1))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, average="binary", zero_division=0
    )
    both = len(np.unique(labels)) == 2  # else there is nothing to rank
    return {
        "clips": len(labels),
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "roc_auc": float(metrics.roc_auc_score(labels, probabilities)) if both else None,
        "pr_auc": float(metrics.average_precision_score(labels, probabilities)) if both else None,
        "class_accuracy": {
            name: float(confusion[label, label] / max(1, confusion[label].sum()))
            for label, name in enumerate(CLASS_NAMES)
        },
        "confusion_matrix": confusion.tolist(),
    }


def figures_table(figures: dict[str, Any]) -> str:
    """Return the figures as lines for the screen."""
    names = ("accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc")
    lines = [
        f"  {name:<22}{'n/a' if figures[name] is None else format(figures[name], '.3f')}"
        for name in names
    ]
    lines += [
        f"  {name + ' accuracy':<22}{value:.3f}"
        for name, value in figures["class_accuracy"].items()
    ]
    lines.append(f"  {'':<22}{'called ' + CLASS_NAMES[0]:>18}{'called ' + CLASS_NAMES[1]:>18}")
    lines += [
        f"  {'really ' + name:<22}{row[0]:>18}{row[1]:>18}"
        for name, row in zip(CLASS_NAMES, figures["confusion_matrix"], strict=True)
    ]
    return "\n".join(lines)


def write_predictions(clips: Sequence[Clip], probabilities: np.ndarray, path: Path) -> None:
    """Write `clip,label,probability`, a row per clip."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["clip", "label", "probability"])
        rows.writerows(
            [clip.name, CLASS_NAMES[clip.label], f"{probability:.6f}"]
            for clip, probability in zip(clips, probabilities, strict=True)
        )
