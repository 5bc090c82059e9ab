"""What is asked for instead of a run: cross-validation, a range test, a search, a grid.

None of them looks at the test split to choose by; only a plain cross-validation, which chooses
nothing, uses all clips.
"""

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from violence_detection.clips.clip import Clip
from violence_detection.clips.splits import fingerprint
from violence_detection.errors import UserError
from violence_detection.experiments.cross_validation import (
    JSON,
    PLOT,
    THRESHOLD,
    as_table,
    cross_validate,
    folds,
    summarize,
    write_summary,
)
from violence_detection.experiments.grid import read_grid
from violence_detection.experiments.range_test import plot_range_test, propose_rate, range_test
from violence_detection.experiments.search import Score, trials_table, tune, write_config
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.machine import Machine
from violence_detection.settings.checks import check_settings
from violence_detection.settings.schema import CHANGES_ON_RESUME, Settings
from violence_detection.settings.setting import flag
from violence_detection.storage.files import read_json, write_csv, write_json
from violence_detection.training.batches import (
    ClipFeatures,
    read_errors,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.loop import STANDARDIZE_ON, make_order
from violence_detection.training.losses import class_factors
from violence_detection.training.trainer import make_trainer

log = logging.getLogger(__name__)

FOLDS = 5  # of a search, if --cross-validate does not say
RANGE_STEPS = 300  # of a range test
SEARCH_FILE, TRIALS, BEST_CONFIG = "search.sqlite", "trials.csv", "best_config.json"
RANGE_TEST, RANGE_PLOT = "learning_rate.csv", "learning_rate.png"
GRID, GRID_STATE = "grid.csv", "grid.json"


def run_experiment(
    settings: Settings,
    features: ClipFeatures,
    clips: Sequence[Clip],
    machine: Machine,
    folder: Path,
) -> None:
    """Make the experiment that `settings` ask for; what it finds is said, and written in `folder`.

    Args:
        features: of `clips`, in their order.
        machine: what it is computed on.
        folder: the checkpoint directory.
    """
    with machine.strategy.scope(), read_errors([features]):
        _run(settings, features, clips, machine.precision.policy, folder)


def _run(
    settings: Settings, features: ClipFeatures, clips: Sequence[Clip], policy: str, folder: Path
) -> None:
    known = np.array([place for place, clip in enumerate(clips) if clip.split != "test"])
    training = np.array([place for place, clip in enumerate(clips) if clip.split == "train"])
    if settings.experiment.find_lr:
        _find_rate(settings, features.of(training), policy, folder)
        return
    if not settings.experiment.tune and not settings.experiment.grid:
        _cross_validate(settings, features, clips, policy, folder)
        return
    chosen = [clips[place] for place in known]
    score = scored_by_folds(
        features.of(known), chosen, settings.experiment.cross_validate or FOLDS, policy
    )
    if settings.experiment.tune:
        storage = folder / SEARCH_FILE
        best = tune(settings, score, settings.experiment.tune, storage, clips=fingerprint(chosen))
        trials = trials_table(storage)
        write_csv(folder / TRIALS, list(trials[0]), [list(trial.values()) for trial in trials])
        log.info("all trials: %s", folder / TRIALS)
    else:
        best = _try_grid(settings, score, chosen, folder)
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
    count = settings.experiment.cross_validate or FOLDS

    def say(fold: int, held_out: np.ndarray, probabilities: np.ndarray) -> None:
        right = (probabilities >= THRESHOLD) == labels[held_out]
        log.info(
            "fold %d of %d: %d clips held out, accuracy %.3f, ROC-AUC %.3f",
            fold + 1,
            count,
            len(held_out),
            right.mean(),
            _area(labels[held_out], probabilities),
        )

    probabilities, fold_of = cross_validate(settings, features, clips, count, policy, say)
    summary = summarize(clips, probabilities, fold_of, settings.devices.seed)
    write_summary(settings.as_json(), clips, probabilities, fold_of, summary, folder)
    log.info(
        "%d folds, %d clips, %d groups; threshold %.1f, the models of the last epoch\n%s",
        count,
        len(clips),
        len({clip.group_key for clip in clips}),
        THRESHOLD,
        as_table(summary),
    )
    log.info("written: %s and %s", folder / JSON, folder / PLOT)


def _find_rate(settings: Settings, features: ClipFeatures, policy: str, folder: Path) -> None:
    plain = settings.replace(hard_mining=False, curriculum=False)
    order = make_order(plain.training, plain.devices.seed, features)
    chosen = features.of(slice(None), class_factors(order.class_counts(), settings.loss))
    batch = settings.training.batch_size * settings.training.gradient_accumulation
    steps = steps_per_epoch(len(chosen), batch)
    epochs = -(-RANGE_STEPS // steps)
    sample = sample_features(
        chosen, settings.training.batch_size, settings.devices.seed, STANDARDIZE_ON
    )
    trainer = make_trainer(settings, sample, steps, policy=policy)
    batches = training_batches(chosen, order, batch, 0, epochs, settings.training.augment)
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


def check_experiment(settings: Settings, clips: Sequence[Clip]) -> None:
    """Raise `UserError` for what cannot be done, before any features are computed for it."""
    for values in _combinations(settings):
        changed = settings.replace(**values)
        check_settings(changed)
        if "flip" in set(changed.training.augment) - set(settings.training.augment):
            raise UserError(
                f"--grid {settings.experiment.grid}: for flip in it, give --augment flip, too"
            )
    if not settings.experiment.find_lr:
        searched = settings.experiment.tune or settings.experiment.grid
        chosen = [clip for clip in clips if not searched or clip.split != "test"]
        folds(chosen, settings.experiment.cross_validate or FOLDS, settings.devices.seed)


def _combinations(settings: Settings) -> list[dict[str, Any]]:
    return read_grid(settings.experiment.grid) if settings.experiment.grid else []


def _try_grid(
    settings: Settings, score: Score, clips: Sequence[Clip], folder: Path
) -> dict[str, Any]:
    combinations = _combinations(settings)
    free = {*combinations[0], *CHANGES_ON_RESUME}
    fixed = {name: value for name, value in settings.as_json().items() if name not in free}
    identity = {"settings": fixed, "clips": fingerprint(clips)}
    state = folder / GRID_STATE
    done = read_json(state) if state.exists() else {}
    scores = done["scores"] if done.get("identity") == identity else {}
    for number, values in enumerate(combinations, start=1):
        raise_if_interrupted()
        name = json.dumps(values)
        if name not in scores:
            changed = settings.replace(**values)
            area = score(changed, lambda fold, so_far: None)
            scores[name] = None if math.isnan(area) else area
            write_json(state, {"identity": identity, "scores": scores})
        log.info("%d of %d: %s  ROC-AUC %s", number, len(combinations), values, scores[name])
    areas = [scores[json.dumps(values)] for values in combinations]
    rows = [
        (*values.values(), "" if area is None else f"{area:.6f}")
        for values, area in zip(combinations, areas, strict=True)
    ]
    write_csv(folder / GRID, (*combinations[0], "roc_auc"), rows)
    log.info("the grid: %s", folder / GRID)
    if all(area is None for area in areas):
        raise UserError(
            f"--grid {settings.experiment.grid}: training blew up with every combination"
        )
    best = max(range(len(areas)), key=lambda place: -1 if areas[place] is None else areas[place])
    return combinations[best]
