"""Finding good settings: a range test of the rate, a Bayesian search, a grid."""

import argparse
import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import sqlite3
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import tensorflow as tf
from matplotlib.figure import Figure
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
)
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from scipy.ndimage import gaussian_filter1d
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from violence_detection.errors import UserError, failing_as
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.settings.schema import FREE_TO_CHANGE, HEADS, Settings, as_json, flag
from violence_detection.storage.files import replace_file
from violence_detection.training.trainer import Trainer

log = logging.getLogger(__name__)

KEPT = 0.9  # of the running mean of the loss, at each step of a range test
BLOWN_UP = 4.0  # a range test ends when the running mean is this many times its lowest
HIGHEST = 2.0  # loss, in those of the first tenth, that is told from higher ones
SMOOTHING = 0.05  # deviation of the Gaussian that smooths a range test, in its steps
LEAST_FALL = 4.0  # deviations of the smoothed loss; less is noise

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
STUDY = "search"  # its name in the file
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

Score = Callable[[Settings, Callable[[int, float], None]], float]

# What may differ from one combination to the next: the features are the same for all.
GRID_GROUPS = ("model", "training", "loss and regularization")
NOT_IN_A_GRID = ("unlabeled", "pseudo_confidence", "pseudo_rounds")
GRID_FORM = 'it is to hold lists of values, {"dropout": [0.2, 0.5], ...}'


def range_test(
    trainer: Trainer, batches: tf.data.Dataset, steps: int, low: float = 1e-6, high: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Train while the rate grows geometrically; return the rate and the loss of each step.

    Smith, https://arxiv.org/abs/1506.01186. It ends early when the loss blows up: its running mean
    is above four times the lowest, or no number.

    Args:
        trainer: a new one; of no use afterwards.
        batches: at least `steps` of them, as `input_pipeline` makes them.
        steps: optimizer steps.
        low, high: the first and the last rate.

    Returns:
        Two `(steps made,)` float64: rates, and the mean loss of the batch's real clips just before
        the step with that rate. The last loss need not be finite.
    """
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    strategy = trainer.distribute_strategy
    with strategy.scope():
        rate = tf.Variable(low, trainable=False, dtype=tf.float32)
    # Not a function of the optimizer's steps: with loss scaling, it leaves some out.
    trainer.optimizer.learning_rate = rate.read_value
    trainer.steps_per_execution = 1
    trainer.make_train_function(force=True)
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    running, lowest = 0.0, math.inf
    for step in range(steps):
        raise_if_interrupted()
        rate.assign(rates[step])
        trainer.reset_metrics()
        losses.append(float(trainer.train_function(iterator)["loss"]))
        running = KEPT * running + (1 - KEPT) * losses[-1]
        mean = running / (1 - KEPT ** (step + 1))
        lowest = min(lowest, mean)
        if not math.isfinite(mean) or mean > BLOWN_UP * lowest:
            break
    return rates[: len(losses)], np.array(losses)


def propose_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the rate at which the smoothed loss falls most steeply over the rate's logarithm.

    Only what comes before the lowest smoothed loss counts: after it, training blows up.

    Args:
        rates, losses: `(steps,)`, as `range_test` returns them.

    Raises:
        UserError: the loss never falls by more than its noise.
    """
    smoothed, noise = _smoothed(losses)
    end = int(np.argmin(smoothed)) + 1
    if not smoothed[0] - smoothed[end - 1] > LEAST_FALL * noise:
        raise UserError(
            f"the range test found no rate from {rates[0]:g} to {rates[-1]:g} at which the loss "
            "falls: give it more steps, or choose --learning-rate yourself"
        )
    slopes = np.gradient(smoothed[:end], np.log(rates[:end]))
    return float(rates[np.argmin(slopes)])


def _smoothed(losses: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smoothed losses before the first that is no number, and their deviation."""
    finite = losses[: np.argmin(np.append(np.isfinite(losses), False))]
    if not len(finite):
        return np.full(1, np.nan), 0.0
    width = max(1.0, SMOOTHING * len(losses))
    # Of independent noise; told from neighbours, that a trend does not count.
    noise = float(np.median(np.abs(np.diff(finite)))) / 0.954 if len(finite) > 1 else 0.0
    # What blows up would be smeared over the rates before it.
    ceiling = HIGHEST * np.median(finite[: 1 + len(finite) // 10])
    deviation = noise / math.sqrt(2 * math.sqrt(math.pi) * width)
    return gaussian_filter1d(np.minimum(finite, ceiling), width), deviation


def plot_range_test(
    rates: np.ndarray, losses: np.ndarray, proposed: float | None, path: Path
) -> None:
    """Draw the losses of a range test over the rates into a PNG file.

    Args:
        rates, losses: `(steps,)`, as `range_test` returns them.
        proposed: the rate that is marked; None: none is.

    Raises:
        RunError: the file cannot be written.
    """
    smoothed, _ = _smoothed(losses)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(rates, losses, color="tab:blue", alpha=0.4, linewidth=1, label="each step")
    axes.semilogx(rates[: len(smoothed)], smoothed, color="tab:blue", linewidth=2, label="smoothed")
    if proposed is not None:
        axes.axvline(
            proposed, color="tab:red", linestyle="--", label=f"proposed rate {proposed:.2g}"
        )
    # The blown-up end would flatten all else.
    axes.set_ylim(0, min(axes.get_ylim()[1], 1.1 * HIGHEST * smoothed[0]))
    axes.set(xlabel="learning rate", ylabel="training loss", title="Learning-rate range test")
    axes.grid(alpha=0.3)
    axes.legend()
    replace_file(path, lambda partial: figure.savefig(partial, format="png", dpi=120))


def tune(
    settings: Settings,
    score: Score,
    trials: int,
    storage: Path,
    space: Space = SPACE,
    clips: str = "",
) -> dict[str, Any]:
    """Search the settings of the highest score; return the best trial's values, by field.

    Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011); a trial whose reported value
    is below the median of the earlier ones at the same step is pruned. The first trial is the
    settings as they are: a number outside its range is taken to the range's end, what is not
    among the choices is drawn. What is finished is in `storage`, and a search that was killed goes
    on as if it had not been; one process at a time.

    Args:
        settings: what is fixed, and where the search starts.
        score: scores settings; higher is better. Returns nan for training that blew up, which
            ends the trial as if pruned; what it raises ends the search, and the next call makes
            the same trial again.
        trials: how many are to be finished (or pruned) in all, earlier calls' included.
        storage: an SQLite file; made if there is none.
        space: what is searched: fields of `settings`.
        clips: stands for the clips that are scored on.

    Raises:
        UserError: the file is of another search or no search at all, or no trial got a score.
        RunError: the file cannot be written.
    """
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
            # Of its own for each trial: the next one is the same, whether or not it was killed.
            seed = int(np.random.SeedSequence([settings.seed, done]).generate_state(1)[0])
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            _make_trial(study, settings, score, space, f"{done + 1} of {trials}")
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            raise UserError(
                f"none of the {done} trials in {storage} got a score that is a number: give other "
                "settings, and another file"
            )
        return {name: study.best_trial.params[name] for name in space}


def _make_trial(
    study: optuna.Study,
    settings: Settings,
    score: Score,
    space: Space,
    place: str,
) -> None:
    trial = study.ask(dict(space))

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    # Whatever else is raised leaves the trial as a killed process does.
    try:
        value = score(dataclasses.replace(settings, **trial.params), report)
    except optuna.TrialPruned:
        value = math.nan
    if math.isnan(value):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)
    log.info(
        "trial %d (%s)  %s  %s",
        trial.number,
        place,
        "pruned" if math.isnan(value) else f"score {value:.4f}",
        " ".join(f"{name} {_shown(chosen)}" for name, chosen in trial.params.items()),
    )


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _starting_values(settings: Settings, space: Space) -> dict[str, Any]:
    """Return the settings' own values as far as they are in the space."""
    values = {}
    for name, distribution in space.items():
        value = getattr(settings, name)
        if isinstance(distribution, CategoricalDistribution):
            if value in distribution.choices:
                values[name] = value
        elif value is not None:
            values[name] = min(max(value, distribution.low), distribution.high)
    outside = [
        f"{flag(name)} {_shown(getattr(settings, name))}"
        for name in space
        if values.get(name) != getattr(settings, name)
    ]
    if outside:
        log.warning(
            "the search begins near the settings, not at them: it does not try %s",
            ", ".join(outside),
        )
    return values


def _identity(settings: Settings, space: Space, clips: str) -> dict[str, Any]:
    """Return what has to be the same for a search to go on, as JSON gives it back."""
    free = {*space, *FREE_TO_CHANGE, "tune"}  # the last: how many trials
    fixed = {flag(name): value for name, value in as_json(settings).items() if name not in free}
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
            f"{storage} holds a search with {', '.join(different)}: give the same to go on with "
            "it, or another file"
        )


def trials_table(storage: Path) -> list[dict[str, Any]]:
    """Return each trial's number, state, score and values, by name; None for what it lacks.

    The score of a pruned trial is the last that it reported.

    Raises:
        UserError: the file holds no search.
    """
    if not storage.is_file():
        raise UserError(f"{storage}: no such file; a search makes it")
    with _database(storage) as database:
        try:
            trials = optuna.load_study(study_name=STUDY, storage=database).get_trials()
        except KeyError as error:
            raise UserError(f"{storage} holds no search: name the file of one") from error
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [
        {"number": trial.number, "state": trial.state.name.lower(), "score": trial.value}
        | {name: trial.params.get(name) for name in names}
        for trial in trials
    ]


@contextlib.contextmanager
def _database(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open a search's file; Optuna is silent from then on.

    Raises:
        UserError: it is no file of Optuna's, or of another version.
        RunError: it cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    foreign = f"{path} is damaged or no search of this program's: move it away, or name another"
    try:
        try:
            # By a function, as a path may hold what means something in an address.
            connect = {"creator": lambda: sqlite3.connect(path, timeout=30)}
            database = optuna.storages.RDBStorage("sqlite://", connect)
        except RuntimeError as error:  # another version of Optuna's
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


def read_grid(path: Path) -> list[dict[str, Any]]:
    """Return every combination of a JSON file of lists, `{"dropout": [0.2, 0.5], ...}`.

    In the file's order, the last setting's values change fastest; a value that is there twice
    counts once. A setting may be spelled as its flag.

    Raises:
        UserError: it is no such file, a name is no setting or none of a grid, or a value cannot be
            one of it.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {GRID_FORM}") from error
    if not isinstance(lists, dict) or not lists:
        raise UserError(f"{path} is no JSON object of settings: {GRID_FORM}")
    fields = {item.name: item for item in dataclasses.fields(Settings)}
    kinds = typing.get_type_hints(Settings)
    grid: dict[str, list[Any]] = {}
    for key, values in lists.items():
        name = key.removeprefix("--").replace("-", "_")
        if name not in fields:
            raise UserError(f"{path}: {key} is no setting; it may hold those of --help")
        if fields[name].metadata["group"] not in GRID_GROUPS or name in NOT_IN_A_GRID:
            raise UserError(f"{path}: {key} is not searched by a grid: give it on the command line")
        if name in grid:
            raise UserError(f"{path}: {key} is there twice: put its values into one list")
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: {key} {json.dumps(values)} is no list of values: {GRID_FORM}")
        grid[name] = []
        for value in values:
            try:
                converted = _of_kind(value, kinds[name])
                _require_allowed(converted, fields[name])
            except ValueError as error:
                raise UserError(f"{path}: {key} {json.dumps(value)}: {error}") from error
            if converted not in grid[name]:
                grid[name].append(converted)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _of_kind(value: Any, kind: Any) -> Any:
    """Return a JSON value as a field's type has it; raises `ValueError` if it is of another."""
    for option in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        parts = typing.get_args(option)
        if parts and isinstance(value, list):
            if parts[-1] is Ellipsis:
                parts = parts[:1] * len(value)
            if len(parts) == len(value):
                return tuple(map(_of_kind, value, parts))
        elif option is float:
            if type(value) in (int, float) and math.isfinite(value):
                return float(value)
        elif option is Path and isinstance(value, str):
            return Path(value)
        elif type(value) is option:
            return value
    raise ValueError(f"is not of type {getattr(kind, '__name__', kind)}")


def _require_allowed(value: Any, item: dataclasses.Field) -> None:
    """Raise `ValueError` if a setting of the right type must not have a value."""
    check, options = item.metadata["check"], item.metadata["flag"]
    if value is None:
        return
    if "choices" in options and value not in options["choices"]:
        raise ValueError(f"is not one of {', '.join(options['choices'])}")
    if check is not None and not check[0](value):
        raise ValueError(check[1])
    if isinstance(value, tuple) and "nargs" not in options:
        try:
            options["type"](",".join(value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(error) from error


def write_config(values: dict[str, Any], path: Path) -> None:
    """Write settings by name as plain JSON, for `--config`; people may edit it.

    Raises:
        RunError: it cannot be written.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, default=os.fspath)
    # A file name that is not UTF-8 becomes JSON's own escape for it.
    data = (text + "\n").encode(errors="backslashreplace")
    replace_file(path, lambda partial: partial.write_bytes(data))
