"""A run in MLflow or Weights & Biases, through their own libraries, only when asked for.

A tracker never ends a training: one that fails is left alone until the end, and then brought up to
date from the history. What it has already is kept in the run's folder, so that a run that is
continued goes on in the same place and no epoch is there twice.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

from violence_detection.errors import UserError, failing_as
from violence_detection.runs.directory import Row, RunDirectory
from violence_detection.runs.files import RESUME
from violence_detection.runtime.interrupts import Interrupted
from violence_detection.storage.files import read_json, write_json

log = logging.getLogger(__name__)

STATE = "trackers.json"  # in `resume/`: by flag, the tracker's run and how many epochs it has
EXPERIMENT = "violence detection"  # the name that MLflow puts the runs under

# MLflow waits four minutes for a server that is gone, and can be told otherwise by environment
# variables alone. What the user has set counts more.
MLFLOW_BOUNDS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
WANDB_START = 20.0  # seconds that Weights & Biases may take to begin a run
WANDB_UPLOAD = 120.0  # seconds that it may take at the end; its files are on the disk anyway
LOGIN_WAIT = 60  # seconds for an answer, where it takes for a terminal what is none


def require_trackers(mlflow: str | None, wandb: str | None) -> None:
    """Find out whether the trackers can be used, before anything costs time.

    Args:
        mlflow: the address of a server, a folder, or a database; None: not asked for.
        wandb: the name of a project; None: not asked for.

    Raises:
        UserError: a library is missing, nothing answers, or nobody is logged in.
    """
    if mlflow is not None:
        try:
            MlflowTracker(mlflow).look()
        except ImportError as error:
            raise UserError(
                f"--mlflow {mlflow}: {error}: pip install mlflow-skinny (a database other than "
                "SQLite needs its driver, too), or leave --mlflow out"
            ) from error
        except MlflowTracker.failures() as error:
            raise UserError(
                f"--mlflow {mlflow}: {_reason(error)}\nGive the address of a running server "
                "(http://…), a folder, or sqlite:///FILE, or leave --mlflow out"
            ) from error
    if wandb is not None:
        try:
            import wandb as library
        except ImportError as error:
            raise UserError(
                f"--wandb {wandb}: {error}: pip install wandb, or leave --wandb out"
            ) from error
        try:
            if library.setup().settings.mode in ("online", "run", "shared"):
                library.login(timeout=LOGIN_WAIT)
        except (library.Error, OSError) as error:
            raise UserError(
                f"--wandb {wandb}: {_reason(error)}\nRun `wandb login`, or `wandb offline` to keep "
                "it on the disk, or leave --wandb out"
            ) from error


class Tracker(Protocol):
    """Where a run is logged to; its methods may raise one of its `failures()`."""

    flag: str
    where: str  # as the user gave it

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """Return what its library raises if it cannot be reached or cannot write."""

    def begin(self, name: str, settings: Mapping[str, Any], run: str | None) -> str:
        """Begin a run, or go on with `run`; return the tracker's name of it."""

    def log(self, row: Row) -> None:
        """Log an epoch."""

    def add(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log what comes at the end."""

    def end(self, status: str) -> None:
        """End the run: "FINISHED", "FAILED" or "KILLED"."""


class MlflowTracker:
    """A run in MLflow.

    Args:
        where: a server's or a database's address. A folder gets an SQLite database and artifacts:
            MLflow itself has given up writing plain files.
    """

    flag = "--mlflow"

    def __init__(self, where: str):
        self.where = self.uri = where
        self.artifacts: str | None = None
        if not re.match(r"databricks|[a-z][a-z0-9+.-]+:", where):
            folder = Path(where).expanduser().absolute()
            self.where, self.uri = str(folder), f"sqlite:///{folder}/mlflow.db"
            self.artifacts = (folder / "artifacts").as_uri()

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """Return what MLflow raises, and below it the database."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        return MlflowException, SQLAlchemyError, OSError

    def look(self) -> None:
        """Ask for anything."""
        self._connect()
        with _bounded():
            self.client.search_experiments(max_results=1)

    def _connect(self) -> None:
        from mlflow.store.db.db_types import DATABASE_ENGINES
        from mlflow.tracking import MlflowClient
        from sqlalchemy import create_engine, make_url

        # It would print tracebacks of what it raises, too, and how it makes a database.
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        if self.uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
            # One that cannot be opened is tried for a minute and a half by MLflow.
            url = make_url(self.uri)
            if url.drivername == "sqlite" and url.database:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(url)
            engine.connect().close()
            engine.dispose()
        self.client = MlflowClient(tracking_uri=self.uri)

    def begin(self, name: str, settings: Mapping[str, Any], run: str | None) -> str:
        """Begin a run, or go on with `run`; return its id."""
        from mlflow.entities import Param

        self._connect()
        with _bounded():
            if run is None:
                found = self.client.get_experiment_by_name(EXPERIMENT)
                experiment = (
                    found.experiment_id
                    if found
                    else self.client.create_experiment(EXPERIMENT, self.artifacts)
                )
                run = self.client.create_run(experiment, run_name=name).info.run_id
                params = [Param(setting, str(value)) for setting, value in settings.items()]
                self.client.log_batch(run, params=params)
            else:
                self.client.update_run(run, status="RUNNING")
        self.run = run
        if self.uri.startswith("http"):
            log.info("MLflow run %s on %s", run, self.uri)
        else:
            command = f"mlflow ui --backend-store-uri {self.uri}"
            log.info("MLflow run %s; to see it: pip install mlflow, then %s", run, command)
        return run

    def log(self, row: Row) -> None:
        """Log an epoch, with its own time."""
        from mlflow.entities import Metric

        milliseconds = int(1000 * datetime.fromisoformat(row["time"]).timestamp())
        metrics = [
            Metric(name, value, milliseconds, row["epoch"]) for name, value in _figures(row).items()
        ]
        with _bounded():
            self.client.log_batch(self.run, metrics)

    def add(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log final figures, and files as artifacts."""
        with _bounded():
            for name, value in figures.items():
                self.client.log_metric(self.run, name, value)
            for file in files:
                self.client.log_artifact(self.run, str(file))

    def end(self, status: str) -> None:
        """End the run."""
        with _bounded():
            self.client.set_terminated(self.run, status)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Let MLflow give up on a server that does not answer."""
    set_here = {name: value for name, value in MLFLOW_BOUNDS.items() if name not in os.environ}
    os.environ.update(set_here)
    try:
        yield
    finally:
        for name in set_here:
            del os.environ[name]


class WandbTracker:
    """A run in Weights & Biases.

    Args:
        where: the project.
        folder: its files are kept in `wandb/` there.
    """

    flag = "--wandb"

    def __init__(self, where: str, folder: Path):
        self.where = where
        self.folder = folder

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """Return what the library raises, also if its own process has died."""
        from wandb import Error
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        return Error, HandleAbandonedError, MailboxClosedError, OSError

    def begin(self, name: str, settings: Mapping[str, Any], run: str | None) -> str:
        """Begin a run, or go on with `run`; return its id."""
        import wandb

        self.run = wandb.init(
            project=self.where,
            name=name,
            id=run,
            resume="allow" if run else None,
            config=dict(settings),
            dir=str(self.folder),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                init_timeout=WANDB_START,
                finish_timeout=WANDB_UPLOAD,
                finish_timeout_raises=True,
            ),
        )
        folders = self.folder / "wandb" / f"*{self.run.id}*"
        place = f"to upload it: wandb sync {folders}" if self.run.offline else self.run.url
        log.info("Weights & Biases run %s: %s", self.run.id, place)
        return self.run.id

    def log(self, row: Row) -> None:
        """Log an epoch."""
        self.run.log({"epoch": row["epoch"], **_figures(row)}, step=row["epoch"])

    def add(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log final figures, and files."""
        self.run.summary.update(dict(figures))
        for file in files:
            self.run.save(str(file), base_path=str(file.parent), policy="now")

    def end(self, status: str) -> None:
        """End the run, once it is uploaded."""
        self.run.finish(exit_code=0 if status == "FINISHED" else 1)


class Trackers:
    """The trackers of a run; to be entered. If the block fails, so has the run.

    Args:
        mlflow, wandb: as for `require_trackers`.
        run: whose history is logged.
    """

    def __init__(self, mlflow: str | None, wandb: str | None, run: RunDirectory):
        self.run = run
        self.trackers: list[Tracker] = []
        if mlflow is not None:
            self.trackers.append(MlflowTracker(mlflow))
        if wandb is not None:
            self.trackers.append(WandbTracker(wandb, run.folder))
        self._settings: Mapping[str, Any] = {}
        self._state: dict[str, Any] = {}
        self._begun: list[Tracker] = []
        self._failed: list[Tracker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        status = "FINISHED"
        if kind is not None:
            status = "KILLED" if issubclass(kind, Interrupted) else "FAILED"
        for tracker in self._begun:
            if tracker not in self._failed:
                with self._tolerated(tracker, "it is not told how the run ended"):
                    tracker.end(status)

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin the runs, or go on with those of this run directory.

        Args:
            settings: by name, as JSON values.
        """
        with failing_as(self.run / RESUME):
            (self.run / RESUME).mkdir(exist_ok=True)
        self._settings = settings
        self._state = self._read_state()
        self.log_epochs()

    def log_epochs(self) -> None:
        """Log the epochs of the history that were not logged yet."""
        for tracker in self.trackers:
            if tracker not in self._failed:
                with self._tolerated(tracker, "the training goes on without it until its end"):
                    self._bring_up(tracker)

    def finish(self, figures: Mapping[str, float | None], files: Sequence[Path]) -> None:
        """Log what comes at the end. A tracker that failed gets what it lacks, if it can now.

        Args:
            figures: by name; None: not defined, left out.
            files: those that are there are uploaded.
        """
        known = {name: value for name, value in figures.items() if value is not None}
        for tracker in self.trackers:
            with self._tolerated(tracker, "it lacks what the run's CSV and JSON files have"):
                self._bring_up(tracker)
                tracker.add(known, [file for file in files if file.is_file()])
                if tracker in self._failed:
                    self._failed.remove(tracker)

    def _bring_up(self, tracker: Tracker) -> None:
        """Begin a tracker's run if that was not done, and log the epochs that it lacks."""
        state = self._state.get(tracker.flag, {})
        if state.get("where") != tracker.where:
            state = {"where": tracker.where, "run": None, "epochs": 0}
        if tracker not in self._begun:
            state["run"] = tracker.begin(self.run.folder.name, self._settings, state["run"])
            self._begun.append(tracker)
            self._keep(tracker, state)
        for row in self.run.history[state["epochs"] :]:
            tracker.log(row)
            self._keep(tracker, state | {"epochs": row["epoch"]})

    @contextlib.contextmanager
    def _tolerated(self, tracker: Tracker, consequence: str) -> Iterator[None]:
        """Warn of a tracker that fails, and go on."""
        run_error = sys.exception()
        try:
            yield
        except tracker.failures() as error:
            if tracker not in self._failed:
                self._failed.append(tracker)
            log.warning(
                "%s %s: %s; %s", tracker.flag, tracker.where, _reason(error, run_error), consequence
            )

    def _read_state(self) -> dict[str, Any]:
        path = self.run / RESUME / STATE
        try:
            return read_json(path) if path.exists() else {}
        except UserError as error:
            log.warning("%s; the trackers begin new runs", error)
            return {}

    def _keep(self, tracker: Tracker, state: dict[str, Any]) -> None:
        self._state[tracker.flag] = state
        write_json(self.run / RESUME / STATE, self._state)


def _figures(row: Row) -> dict[str, float]:
    """Return what is known of an epoch, but its number and time."""
    return {
        name: value
        for name, value in row.items()
        if name not in ("epoch", "time") and value is not None
    }


def _reason(error: BaseException, run_error: BaseException | None = None) -> str:
    """Return what an error comes from, if the network or a disk, else the first line of its own.

    Args:
        run_error: what ends the run while the error happens: it is not where that comes from.
    """
    first = error
    while (cause := first.__cause__ or first.__context__) and cause is not run_error:
        first = cause
    if isinstance(first, OSError):
        return first.strerror or str(first)
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
