"""Bayesian search for good settings; trials are stored in an SQLite file."""

import contextlib
import json
import logging
import math
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
)
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from violence_detection.errors import UserError, failing_as
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import HEADS
from violence_detection.settings.schema import CHANGES_ON_RESUME, Settings
from violence_detection.settings.setting import flag
from violence_detection.settings.values import format_value
from violence_detection.storage.files import write_bytes

log = logging.getLogger(__name__)

Space = Mapping[str, FloatDistribution | CategoricalDistribution]
SPACE: Space = {
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "units": CategoricalDistribution((32, 64, 128, 192, 256)),
    "projection": CategoricalDistribution((32, 64, 128, 192, 256)),
    "dropout": FloatDistribution(0.0, 0.8),
    "l2": FloatDistribution(1e-6, 1e-2, log=True),
    "focal_gamma": FloatDistribution(0.0, 4.0),
    "label_smoothing": FloatDistribution(0.0, 0.3),
    "head": CategoricalDistribution(HEADS),
}
OF_FEATURES = ("units", "projection", "head")  # settings that a network from pixels has not
STUDY = "search"  # its name in the file
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

Score = Callable[[Settings, Callable[[int, float], None]], float]


def space_of(settings: Settings) -> Space:
    """Return what is searched: the settings that matter for the model."""
    left_out = OF_FEATURES if settings.model.from_pixels else ()
    return {name: values for name, values in SPACE.items() if name not in left_out}


def tune(
    settings: Settings,
    score: Score,
    trials: int,
    storage: Path,
    space: Space | None = None,
    clips: str = "",
) -> dict[str, Any]:
    """Search for the settings with the highest score; return the best trial's values by name.

    Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011); a trial whose reported value
    is below the median of earlier trials at the same step is pruned. The first trial uses the given
    settings: a number outside its range is clipped to the range, a value that is not among the
    choices is sampled. Finished trials are in `storage`, and an interrupted search resumes with the
    same trials; only one process may use the file.

    Args:
        settings: the fixed settings and the starting point.
        score: scores settings; higher is better. nan, for training that diverged, counts as
            pruned. An exception ends the search; the next call repeats the trial.
        trials: total number of finished or pruned trials, including those of earlier calls.
        storage: an SQLite file; created if missing.
        space: the distributions to search, by the setting's name; None: those of the model.
        clips: fingerprint of the clips that are scored on.

    Raises:
        UserError: the file belongs to another search or is not a search, or training diverged in
            all trials.
        RunError: the file cannot be written.
    """
    space = space or space_of(settings)
    with _database(storage) as database:
        study = optuna.create_study(
            storage=database, study_name=STUDY, direction="maximize", load_if_exists=True
        )
        _require_same(study, _identity(settings, space, clips), storage)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a killed process
            study.tell(trial.number, state=TrialState.FAIL)
        if not study.get_trials(states=(*FINISHED, TrialState.WAITING)):
            study.enqueue_trial(_starting_values(settings, space))
        while (done := len(study.get_trials(deepcopy=False, states=FINISHED))) < trials:
            raise_if_interrupted()
            # A seed per trial: a resumed search makes the same trials.
            seed = int(np.random.SeedSequence([settings.devices.seed, done]).generate_state(1)[0])
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            _make_trial(study, settings, score, space, f"{done + 1} of {trials}")
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            raise UserError(
                f"no finite score in {count_of(done, 'trial')}, {storage}: training diverged. "
                "Change the settings, with another --checkpoint-dir"
            )
        return {name: study.best_trial.params[name] for name in space}


def _make_trial(
    study: optuna.Study,
    settings: Settings,
    score: Score,
    space: Space,
    position: str,
) -> None:
    trial = study.ask(dict(space))

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    # Any other exception leaves the trial unfinished, as a killed process does.
    try:
        value = score(settings.replace(**trial.params), report)
    except optuna.TrialPruned:
        value = math.nan
    if math.isnan(value):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)
    log.info(
        "trial %d (%s)  %s  %s",
        trial.number,
        position,
        "pruned" if math.isnan(value) else f"score {value:.4f}",
        " ".join(f"{name} {format_value(chosen)}" for name, chosen in trial.params.items()),
    )


def _starting_values(settings: Settings, space: Space) -> dict[str, Any]:
    """Return the values of the settings, clipped to the space; without those not in it."""
    own, values = settings.by_name(), {}
    for name, distribution in space.items():
        value = own[name]
        if isinstance(distribution, CategoricalDistribution):
            if value in distribution.choices:
                values[name] = value
        elif value is not None:
            values[name] = min(max(value, distribution.low), distribution.high)
    outside = [
        f"{flag(name)} {format_value(own[name])}" for name in space if values.get(name) != own[name]
    ]
    if outside:
        log.warning(
            "outside the search space: %s; the first trial uses other values",
            ", ".join(outside),
        )
    return values


def _identity(settings: Settings, space: Space, clips: str) -> dict[str, Any]:
    """Return what must be unchanged for a search to resume, as read back from JSON."""
    free = {*space, *CHANGES_ON_RESUME, "tune"}  # tune: the number of trials
    fixed = {flag(name): value for name, value in settings.as_json().items() if name not in free}
    searched = {name: distribution_to_json(space[name]) for name in sorted(space)}
    identity = fixed | {"another search space": searched, "other clips": clips}
    return json.loads(json.dumps(identity))


def _require_same(study: optuna.Study, identity: dict[str, Any], storage: Path) -> None:
    before = study.user_attrs.get("identity")
    if before is None:
        study.set_user_attr("identity", identity)
        return
    different = [
        f"{name} {before.get(name)} (now {value})" if name.startswith("--") else name
        for name, value in identity.items()
        if before.get(name) != value
    ]
    if different:
        raise UserError(
            f"{storage} holds a search with {', '.join(different)}: use the same settings to "
            "resume it, or another --checkpoint-dir"
        )


def trials_table(storage: Path) -> list[dict[str, Any]]:
    """Return each trial's number, state, score and values by name; None for a missing value.

    The score of a pruned trial is the last one it reported.

    Args:
        storage: the SQLite file of a search.

    Raises:
        UserError: the file does not exist or is not a search.
    """
    if not storage.is_file():
        raise UserError(f"{storage}: no such file; run a search (--tune) first")
    with _database(storage) as database:
        try:
            trials = optuna.load_study(study_name=STUDY, storage=database).get_trials()
        except KeyError as error:
            raise UserError(f"{storage} does not hold a search") from error
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [
        {"number": trial.number, "state": trial.state.name.lower(), "score": trial.value}
        | {name: trial.params.get(name) for name in names}
        for trial in trials
    ]


@contextlib.contextmanager
def _database(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open the file of a search; silences Optuna's own log.

    Raises:
        UserError: the file was not written by Optuna, or by another version.
        RunError: the file cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    foreign = f"{path} is damaged or not a search: move it away or use another --checkpoint-dir"
    try:
        try:
            # By a function: a path may contain characters that are special in a URL.
            connect = {"creator": lambda: sqlite3.connect(path, timeout=30)}
            database = optuna.storages.RDBStorage("sqlite://", connect)
        except RuntimeError as error:  # another version of Optuna
            raise UserError(foreign) from error
        try:
            yield database
        finally:
            database.remove_session()
            database.engine.dispose()
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        if isinstance(cause, DatabaseError) and not isinstance(cause, OperationalError):
            raise UserError(foreign) from error
        with failing_as(path):
            raise RuntimeError(str(cause)) from error


def write_config(values: dict[str, Any], path: Path) -> None:
    """Write settings by name as plain JSON for `--config`.

    Raises:
        RunError: the file cannot be written.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, default=os.fspath)
    # A file name that is not UTF-8 is written with JSON's escapes.
    data = (text + "\n").encode(errors="backslashreplace")
    write_bytes(path, data)
