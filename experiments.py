"""What is asked for instead of a run: cross-validation, a range test, a search, a grid.

None of them looks at the test split to choose by; only a plain cross-validation, which chooses
nothing, uses all clips.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from clips import Clip, fingerprint
from config import Settings, as_json, check_settings, flag
from cross_validation import (
    JSON,
    PLOT,
    THRESHOLD,
    as_table,
    cross_validate,
    summarize,
    write_summary,
)
from durable_files import write_csv
from evaluation import groups_of
from fitting import STANDARDIZE_ON, make_order
from input_pipeline import ClipFeatures, sample_features, steps_per_epoch, training_batches
from run_log import log
from search import (
    Score,
    plot_range_test,
    propose_rate,
    range_test,
    read_grid,
    trials_table,
    tune,
    write_config,
)
from training import class_factors, make_trainer

FOLDS = 5  # of a search, if --cross-validate does not say
RANGE_STEPS = 300  # of a range test
SEARCH_FILE, TRIALS, BEST_CONFIG = "search.sqlite", "trials.csv", "best_config.json"
RANGE_TEST, RANGE_PLOT = "learning_rate.csv", "learning_rate.png"
GRID = "grid.csv"


def run_experiment(
    settings: Settings,
    features: ClipFeatures,
    clips: Sequence[Clip],
    policy: str,
    folder: Path,
) -> None:
    """Make the experiment that `settings` ask for; what it finds is said, and written in `folder`.

    Args:
        features: of `clips`, in their order.
        policy: Keras dtype policy.
    """
    known = np.array([place for place, clip in enumerate(clips) if clip.split != "test"])
    training = np.array([place for place, clip in enumerate(clips) if clip.split == "train"])
    if settings.find_lr:
        _find_rate(settings, features.of(training), policy, folder)
        return
    if not settings.tune and not settings.grid:
        _cross_validate(settings, features, clips, policy, folder)
        return
    chosen = [clips[place] for place in known]
    score = scored_by_folds(features.of(known), chosen, settings.cross_validate or FOLDS, policy)
    if settings.tune:
        storage = folder / SEARCH_FILE
        best = tune(settings, score, settings.tune, storage, clips=fingerprint(chosen))
        trials = trials_table(storage)
        write_csv(folder / TRIALS, list(trials[0]), [list(trial.values()) for trial in trials])
        log.info("all trials: %s", folder / TRIALS)
    else:
        best = _try_grid(settings, score, folder)
    write_config(best, folder / BEST_CONFIG)
    log.info(
        "best: %s\ntrain with them: --config %s",
        " ".join(f"{flag(name)} {value}" for name, value in best.items()),
        folder / BEST_CONFIG,
    )


def scored_by_folds(
    features: ClipFeatures, clips: Sequence[Clip], count: int, policy: str
) -> Score:
    """Return what scores settings by their ROC-AUC over all held-out clips of a cross-validation.

    After each fold it reports the AUC over the clips that were held out so far.
    """
    labels = np.array([clip.label for clip in clips])

    def score(settings: Settings, report: Callable[[int, float], None]) -> float:
        check_settings(settings)
        judged = np.zeros(len(clips), bool)
        all_probabilities = np.zeros(len(clips), np.float32)

        def after_fold(fold: int, held_out: np.ndarray, probabilities: np.ndarray) -> None:
            judged[held_out] = True
            all_probabilities[held_out] = probabilities
            report(fold, _area(labels[judged], all_probabilities[judged]))

        probabilities, _ = cross_validate(settings, features, clips, count, policy, after_fold)
        return _area(labels, probabilities)

    return score


def _area(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the ROC-AUC; nan if training has blown up."""
    if not np.isfinite(probabilities).all():
        return math.nan
    return float(roc_auc_score(labels, probabilities))


def _cross_validate(
    settings: Settings, features: ClipFeatures, clips: Sequence[Clip], policy: str, folder: Path
) -> None:
    labels = np.array([clip.label for clip in clips])
    count = settings.cross_validate or FOLDS

    def say(fold: int, held_out: np.ndarray, probabilities: np.ndarray) -> None:
        right = (probabilities >= THRESHOLD) == labels[held_out]
        log.info(
            "fold %d of %d: %d clips held out, accuracy %.3f, ROC-AUC %.3f",
            fold + 1,
            count,
            len(held_out),
            right.mean(),
            roc_auc_score(labels[held_out], probabilities),
        )

    probabilities, fold_of = cross_validate(settings, features, clips, count, policy, say)
    summary = summarize(clips, probabilities, fold_of, settings.seed)
    write_summary(as_json(settings), clips, probabilities, fold_of, summary, folder)
    log.info(
        "%d folds, %d clips, %d groups; threshold %.1f, the models of the last epoch\n%s",
        count,
        len(clips),
        len(set(groups_of(clips))),
        THRESHOLD,
        as_table(summary),
    )
    log.info("written: %s and %s", folder / JSON, folder / PLOT)


def _find_rate(settings: Settings, features: ClipFeatures, policy: str, folder: Path) -> None:
    order = make_order(dataclasses.replace(settings, hard_mining=False, curriculum=False), features)
    chosen = features.of(slice(None), class_factors(order.class_counts(), settings))
    batch = settings.batch_size * settings.gradient_accumulation
    steps = steps_per_epoch(len(chosen), batch)
    epochs = -(-RANGE_STEPS // steps)
    sample = sample_features(chosen, settings.batch_size, settings.seed, STANDARDIZE_ON)
    trainer = make_trainer(settings, sample, steps, policy=policy)
    batches = training_batches(chosen, order, batch, 0, epochs, settings.augment)
    rates, losses = range_test(trainer, batches, RANGE_STEPS)
    rows = [(f"{rate:.6g}", f"{loss:.6g}") for rate, loss in zip(rates, losses, strict=True)]
    write_csv(folder / RANGE_TEST, ("learning_rate", "loss"), rows)
    plot_range_test(rates, losses, None, folder / RANGE_PLOT)  # also where no rate is found
    proposed = propose_rate(rates, losses)
    plot_range_test(rates, losses, proposed, folder / RANGE_PLOT)
    log.info(
        "%d steps from rate %.1e to %.1e: %s\nproposed: --learning-rate %.2g",
        len(rates),
        rates[0],
        rates[-1],
        folder / RANGE_PLOT,
        proposed,
    )


def _try_grid(settings: Settings, score: Score, folder: Path) -> dict[str, object]:
    combinations = read_grid(settings.grid) if settings.grid else []
    rows: list[tuple[object, ...]] = []
    names = list(combinations[0])
    for number, values in enumerate(combinations, start=1):
        area = score(dataclasses.replace(settings, **values), lambda fold, so_far: None)
        rows.append((*values.values(), f"{area:.6f}"))
        write_csv(folder / GRID, (*names, "roc_auc"), rows)  # as far as it has come
        log.info("%d of %d: %s  ROC-AUC %.4f", number, len(combinations), values, area)
    log.info("the grid: %s", folder / GRID)
    best = max(range(len(rows)), key=lambda place: float(str(rows[place][-1])))
    return combinations[best]
