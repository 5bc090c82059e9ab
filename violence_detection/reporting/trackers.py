"""Logging a run to MLflow or Weights & Biases, through their own libraries, if asked for.

A tracker never ends a training: one that fails is not used until the end, and then brought up to
date from the history. The run's folder records what each tracker has, so that a resumed run
continues in the same place and no epoch is logged twice.
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
from violence_detection.settings.run import MonitoringSettings
from violence_detection.storage.files import read_json, write_json

log = logging.getLogger(__name__)

STATE = "trackers.json"  # in `resume/`: by flag, the tracker's run and its number of epochs
EXPERIMENT = "violence detection"  # in MLflow

# MLflow waits four minutes for a server that does not answer; only environment variables change
# that. The user's own values have precedence.
MLFLOW_BOUNDS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
WANDB_START = 20.0  # seconds that Weights & Biases may take to start a run
WANDB_UPLOAD = 120.0  # seconds that it may take at the end; its files are on disk anyway
LOGIN_WAIT = 60  # seconds for an answer, if it mistakes standard input for a terminal


def require_trackers(mlflow: str | None, wandb: str | None) -> None:
    """Raise unless the trackers can be used; called before anything takes time.

    Args:
        mlflow: the address of a server or a database, or a folder; None if not wanted.
        wandb: the name of a project; None if not wanted.

    Raises:
        UserError: a library is missing, the server does not answer, or nobody is logged in.
    """
    if mlflow is not None:
        try:
            MlflowTracker(mlflow).connect()
        except ImportError as error:
            raise UserError(
                f"--mlflow {mlflow}: {error}: pip install mlflow-skinny (and the driver of a "
                "database other than SQLite), or omit --mlflow"
            ) from error
        except MlflowTracker.failures() as error:
            raise UserError(
                f"--mlflow {mlflow}: {_reason(error)}\nUse the address of a running server "
                "(http://…), a folder or sqlite:///FILE, or omit --mlflow"
            ) from error
    if wandb is not None:
        try:
            import wandb as library
        except ImportError as error:
            raise UserError(
                f"--wandb {wandb}: {error}: pip install wandb, or omit --wandb"
            ) from error
        try:
            if library.setup().settings.mode in ("online", "run", "shared"):
                library.login(timeout=LOGIN_WAIT)
        except (library.Error, OSError) as error:
            raise UserError(
                f"--wandb {wandb}: {_reason(error)}\nRun `wandb login`, or `wandb offline` to log "
                "to the disk only, or omit --wandb"
            ) from error


class Tracker(Protocol):
    """A service that a run is logged to; its methods may raise one of its `failures()`."""

    flag: str
    where: str  # as the user gave it

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """Return what its library raises if the service cannot be reached or it cannot write."""

    def begin(self, name: str, settings: Mapping[str, Any], run: str | None) -> str:
        """Start a run, or resume one.

        Args:
            name: of the run.
            settings: by name.
            run: the tracker's id of the run to resume; None for a new one.

        Returns:
            The tracker's id of the run.
        """

    def log(self, row: Row) -> None:
        """Log an epoch."""

    def add(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log final figures, and upload files."""

    def end(self, status: str) -> None:
        """End the run: "FINISHED", "FAILED" or "KILLED"."""


class MlflowTracker:
    """A run in MLflow.

    Args:
        where: the address of a server or a database, or a folder, in which an SQLite database and
            the artifacts are kept: MLflow's plain files are deprecated.
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
        """Return what MLflow and the database below it raise."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        return MlflowException, SQLAlchemyError, OSError

    def connect(self) -> None:
        """Connect, and make a request to see whether it is answered."""
        self._connect()
        with _bounded():
            self.client.search_experiments(max_results=1)

    def _connect(self) -> None:
        from mlflow.store.db.db_types import DATABASE_ENGINES
        from mlflow.tracking import MlflowClient
        from sqlalchemy import create_engine, make_url

        # It would log tracebacks of what it raises, and how it makes a database.
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        if self.uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
            # MLflow itself would try for a minute and a half to open a database.
            url = make_url(self.uri)
            if url.drivername == "sqlite" and url.database:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(url)
            engine.connect().close()
            engine.dispose()
        self.client = MlflowClient(tracking_uri=self.uri)

    def begin(self, name: str, settings: Mapping[str, Any], run: str | None) -> str:
        """Start a run, or resume `run`; return its id."""
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
            log.info("MLflow run %s; to view it: pip install mlflow, then %s", run, command)
        return run

    def log(self, row: Row) -> None:
        """Log an epoch, at the time at which it ended."""
        from mlflow.entities import Metric

        milliseconds = int(1000 * datetime.fromisoformat(row["time"]).timestamp())
        metrics = [
            Metric(name, value, milliseconds, row["epoch"]) for name, value in _figures(row).items()
        ]
        with _bounded():
            self.client.log_batch(self.run, metrics)

    def add(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log final figures, and upload files as artifacts."""
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
    """Limit how long MLflow waits for a server that does not answer."""
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
        folder: in which its files are kept, in `wandb/`.
        start_timeout: seconds that starting a run may take.
    """

    flag = "--wandb"

    def __init__(self, where: str, folder: Path, start_timeout: float = WANDB_START):
        self.where = where
        self.folder = folder
        self.start_timeout = start_timeout

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """Return what the library raises, including when its own process has died."""
        from wandb import Error
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        return Error, HandleAbandonedError, MailboxClosedError, OSError

    def begin(self, name: str, settings: Mapping[str, Any], run: str | None) -> str:
        """Start a run, or resume `run`; return its id."""
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
                init_timeout=self.start_timeout,
                finish_timeout=WANDB_UPLOAD,
                finish_timeout_raises=True,
            ),
        )
        folders = self.folder / "wandb" / f"*{self.run.id}*"
        hint = f"to upload it: wandb sync {folders}" if self.run.offline else self.run.url
        log.info("Weights & Biases run %s: %s", self.run.id, hint)
        return self.run.id

    def log(self, row: Row) -> None:
        """Log an epoch."""
        self.run.log({"epoch": row["epoch"], **_figures(row)}, step=row["epoch"])

    def add(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log final figures, and upload files."""
        self.run.summary.update(dict(figures))
        for file in files:
            self.run.save(str(file), base_path=str(file.parent), policy="now")

    def end(self, status: str) -> None:
        """End the run after uploading it."""
        self.run.finish(exit_code=0 if status == "FINISHED" else 1)


class Trackers:
    """The trackers of a run, as a context: if its block fails, the run is marked as failed.

    Args:
        trackers: where the run is logged to.
        run: whose history is logged.
    """

    def __init__(self, trackers: Sequence[Tracker], run: RunDirectory):
        self.run = run
        self.trackers = trackers
        self._settings: Mapping[str, Any] = {}
        self._state: dict[str, Any] = {}
        self._started: list[Tracker] = []
        self._failed: list[Tracker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        status = "FINISHED"
        if kind is not None:
            status = "KILLED" if issubclass(kind, Interrupted) else "FAILED"
        for tracker in self._started:
            if tracker not in self._failed:
                with self._tolerated(tracker, "the run's final status was not logged"):
                    tracker.end(status)

    def are_complete(self) -> bool:
        """Return whether each tracker has the final figures and files of this run directory."""
        state = self._read_state() if self.trackers else {}
        return all(
            state.get(tracker.flag, {}).get("complete") == tracker.where
            for tracker in self.trackers
        )

    def start(self, settings: Mapping[str, Any]) -> None:
        """Start a run in each tracker, or resume the one of this run directory.

        Args:
            settings: by name, as JSON values.
        """
        with failing_as(self.run / RESUME):
            (self.run / RESUME).mkdir(exist_ok=True)
        self._settings = settings
        self._state = self._read_state()
        self.log_epochs()

    def log_epochs(self) -> None:
        """Log the epochs of the history that are not logged yet."""
        for tracker in self.trackers:
            if tracker not in self._failed:
                with self._tolerated(tracker, "training continues without this tracker"):
                    self._catch_up(tracker)

    def finish(self, figures: Mapping[str, float | None], files: Sequence[Path]) -> None:
        """Log final figures and upload files. A tracker that failed is tried again.

        Args:
            figures: by name; None for undefined ones, which are left out.
            files: to upload, as far as they exist.
        """
        known = {name: value for name, value in figures.items() if value is not None}
        for tracker in self.trackers:
            with self._tolerated(
                tracker, "its data is incomplete; the CSV and JSON files have everything"
            ):
                self._catch_up(tracker)
                tracker.add(known, [file for file in files if file.is_file()])
                self._save(tracker, self._state[tracker.flag] | {"complete": tracker.where})
                if tracker in self._failed:
                    self._failed.remove(tracker)

    def _catch_up(self, tracker: Tracker) -> None:
        """Start a tracker's run if it is not started, and log the epochs that it lacks."""
        state = self._state.get(tracker.flag, {})
        if state.get("where") != tracker.where:
            state = {"where": tracker.where, "run": None, "epochs": 0}
        if tracker not in self._started:
            state["run"] = tracker.begin(self.run.folder.name, self._settings, state["run"])
            self._started.append(tracker)
            self._save(tracker, state)
        for row in self.run.history[state["epochs"] :]:
            tracker.log(row)
            self._save(tracker, state | {"epochs": row["epoch"]})

    @contextlib.contextmanager
    def _tolerated(self, tracker: Tracker, consequence: str) -> Iterator[None]:
        """Log a warning if the tracker fails in the block, and continue."""
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
            log.warning("%s: new tracker runs are started", error)
            return {}

    def _save(self, tracker: Tracker, state: dict[str, Any]) -> None:
        self._state[tracker.flag] = state
        write_json(self.run / RESUME / STATE, self._state)


def trackers_of(monitoring: MonitoringSettings, run: RunDirectory) -> Trackers:
    """Return the trackers that are wanted; none for a process that does not write the run's files.

    Args:
        monitoring: says which, and where.
        run: whose history is logged. Weights & Biases keeps its files in its folder.
    """
    wanted: list[Tracker] = []
    if monitoring.mlflow is not None and run.writes:
        wanted.append(MlflowTracker(monitoring.mlflow))
    if monitoring.wandb is not None and run.writes:
        wanted.append(WandbTracker(monitoring.wandb, run.folder))
    return Trackers(wanted, run)


def _figures(row: Row) -> dict[str, float]:
    """Return the known figures of an epoch, without its number and time."""
    return {
        name: value
        for name, value in row.items()
        if name not in ("epoch", "time") and value is not None
    }


def _reason(error: BaseException, run_error: BaseException | None = None) -> str:
    """Return the failure of network or disk that caused an error, or else its own first line.

    Args:
        error: of a tracker.
        run_error: what is ending the run at the same time: it is not the cause.
    """
    first = error
    while (cause := first.__cause__ or first.__context__) and cause is not run_error:
        first = cause
    if isinstance(first, OSError):
        return first.strerror or str(first)
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
