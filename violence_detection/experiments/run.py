"""Experiments instead of a run: cross-validation, a range test, a search, a grid.

Only a plain cross-validation, which chooses nothing, uses the test split.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, TextIO

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.splits import fingerprint
from violence_detection.errors import UserError
from violence_detection.experiments.cross_validation import roc_auc, run_cross_validation
from violence_detection.experiments.grid import read_grid, try_grid
from violence_detection.experiments.range_test import find_rate
from violence_detection.experiments.search import Score, trials_table, tune, write_config
from violence_detection.runtime.logs import native_messages_to
from violence_detection.runtime.machine import Machine
from violence_detection.runtime.progress import running_clock
from violence_detection.settings.checks import check_settings
from violence_detection.settings.schema import Settings
from violence_detection.settings.setting import flag
from violence_detection.settings.values import format_value
from violence_detection.storage.files import write_csv
from violence_detection.training.batches import ClipFeatures, read_errors
from violence_detection.training.folds import folds, sources_of
from violence_detection.training.loop import fit, with_seeds
from violence_detection.training.predictions import violence_probabilities
from violence_detection.training.splits import Splits

log = logging.getLogger(__name__)

FOLDS = 5  # of a search or grid without --cross-validate
SEARCH_FILE, TRIALS, BEST_CONFIG = "search.sqlite", "trials.csv", "best_config.json"


def run_experiment(
    settings: Settings,
    splits: Splits,
    clips: Sequence[Clip],
    machine: Machine,
    folder: Path,
) -> None:
    """Run the requested experiment; log its results and write them into `folder`.

    Args:
        settings: the experiment, and the settings of its classifiers.
        splits: of `clips`.
        clips: all usable clips, in the order of their features.
        machine: its strategy and precision.
        folder: the checkpoint directory.

    Raises:
        UserError: the experiment cannot be made with these settings and clips, or training
            diverged with all settings tried.
        RunError: a file cannot be read or written.
    """
    experiment, features = settings.experiment, splits.all_clips
    count = experiment.cross_validate or FOLDS
    if not (experiment.find_lr or experiment.tune or experiment.grid):
        run_cross_validation(settings, splits, clips, count, machine, folder)
        return
    with (
        machine.strategy.scope(),
        read_errors([features]),
        native_messages_to(machine.log_file) as screen,
    ):
        _search(settings, features, clips, count, machine.precision.policy, folder, screen)


def _search(
    settings: Settings,
    features: ClipFeatures,
    clips: Sequence[Clip],
    count: int,
    policy: str,
    folder: Path,
    screen: TextIO,
) -> None:
    if settings.experiment.find_lr:
        training = np.array([i for i, clip in enumerate(clips) if clip.split == "train"])
        find_rate(settings, features.select(training), policy, folder, screen)
        return
    known = np.array([i for i, clip in enumerate(clips) if clip.split != "test"])
    chosen = [clips[i] for i in known]
    score = score_by_folds(features.select(known), chosen, count, policy, screen)
    if settings.experiment.tune:
        storage = folder / SEARCH_FILE
        best = tune(settings, score, settings.experiment.tune, storage, clips=fingerprint(chosen))
        trials = trials_table(storage)
        write_csv(folder / TRIALS, list(trials[0]), [list(trial.values()) for trial in trials])
        log.info("trials: %s", folder / TRIALS)
    else:
        best = try_grid(settings, _combinations(settings), score, chosen, folder)
    write_config(best, folder / BEST_CONFIG)
    log.info(
        "best settings: %s\nTo train with these settings: --config %s",
        " ".join(f"{flag(name)} {format_value(value)}" for name, value in best.items()),
        quote(str(folder / BEST_CONFIG)),
    )


def score_by_folds(
    features: ClipFeatures,
    clips: Sequence[Clip],
    count: int,
    policy: str,
    screen: TextIO | None = None,
) -> Score:
    """Return a function that scores settings by the ROC-AUC of a cross-validation.

    In each fold one classifier is trained, on all other folds, and the last epoch's weights
    predict: for choosing, that is enough. After each fold it reports the ROC-AUC over the clips
    held out so far.

    Args:
        features: of `clips`, in their order.
        clips: that are scored on.
        count: number of folds.
        policy: Keras dtype policy.
        screen: shows for how long each fold has been worked on, see `running_clock`.
    """
    labels = np.array([clip.label for clip in clips])

    def score(settings: Settings, report: Callable[[int, float], None]) -> float:
        check_settings(settings)
        predicted = np.zeros(len(clips), bool)
        all_probabilities = np.zeros(len(clips), np.float32)

        seed, asked_by = settings.devices.seed, f"--cross-validate {count}"
        divided = folds(labels, sources_of(features), count, seed, asked_by)
        for fold, (train, held_out) in enumerate(divided):
            members = with_seeds(settings, settings.training.seeds)
            doing = f"fold {fold + 1} of {count}"
            with running_clock(doing, settings.monitoring.quiet, screen):
                for member in members:
                    trainer = fit(member, features.select(train), policy)
                    all_probabilities[held_out] += violence_probabilities(
                        trainer.classifier, features.select(held_out), settings.training.batch_size
                    ) / len(members)
            predicted[held_out] = True
            report(fold, roc_auc(labels[predicted], all_probabilities[predicted]))
        return roc_auc(labels, all_probabilities)

    return score


def check_experiment(settings: Settings, clips: Sequence[Clip]) -> None:
    """Check an experiment before features are computed.

    Raises:
        UserError: the settings of a grid contradict each other, or there are too few groups.
    """
    for values in _combinations(settings):
        changed = settings.replace(**values)
        check_settings(changed)
        if "flip" in set(changed.training.augment) - set(settings.training.augment):
            raise UserError(
                f"--grid {settings.experiment.grid}: flip in a grid also needs --augment flip"
            )
    if not settings.experiment.find_lr:
        searched = settings.experiment.tune or settings.experiment.grid
        chosen = [clip for clip in clips if not searched or clip.split != "test"]
        labels = np.array([clip.label for clip in chosen])
        sources = np.unique([clip.group_key for clip in chosen], return_inverse=True)[1]
        count = settings.experiment.cross_validate or FOLDS
        folds(labels, sources, count, settings.devices.seed, f"--cross-validate {count}")


def _combinations(settings: Settings) -> list[dict[str, Any]]:
    return read_grid(settings.experiment.grid) if settings.experiment.grid else []
