"""Runs in MLflow and Weights & Biases, read back; and what happens if these cannot be used."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from violence_detection.errors import UserError
from violence_detection.reporting.trackers import (
    EXPERIMENT,
    MLFLOW_BOUNDS,
    MlflowTracker,
    Trackers,
    WandbTracker,
    require_trackers,
    trackers_of,
)
from violence_detection.runs.directory import RunDirectory
from violence_detection.runtime.interrupts import Interrupted
from violence_detection.settings.run import MonitoringSettings

SETTINGS = {"batch_size": 64, "streams": "rgb,flow", "focal_alpha": "none", "xla": False}
FIGURES = {"test/accuracy": 0.75, "test/roc_auc": None}


def row(epoch: int) -> dict[str, Any]:
    time = f"2026-01-02T03:04:{epoch:02}+01:00"
    return {"epoch": epoch, "time": time, "val_loss": 1 / epoch, "gpu0_power": None}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run")


def train(
    trackers: Trackers, run: RunDirectory, epochs: int, fail: BaseException | None = None
) -> None:
    """Do what a training does up to an epoch; then finish, unless it fails."""
    with trackers:
        trackers.start(SETTINGS)
        for epoch in range(len(run.history) + 1, epochs + 1):
            run.history.append(row(epoch))
            trackers.log_epochs()
        if fail:
            raise fail
        report = run / "report.html"
        report.write_text("<p>report")
        trackers.finish(FIGURES, [report, run / "is_not_there.keras"])


needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="not installed: pip install mlflow-skinny"
)
needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="not installed: pip install wandb"
)


# MLflow


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database of MLflow: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of an MLflow database."""
    monkeypatch.chdir(tmp_path)  # where MLflow puts files by default
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"


def mlflow_trackers(where: str, run: RunDirectory) -> Trackers:
    return Trackers([MlflowTracker(where)], run)


def mlflow_client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def mlflow_runs(uri: str) -> list[Any]:
    client = mlflow_client(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def mlflow_steps(uri: str, metric: str = "val_loss") -> list[int]:
    (found,) = mlflow_runs(uri)
    history = mlflow_client(uri).get_metric_history(found.info.run_id, metric)
    return sorted(metric.step for metric in history)


def assert_mlflow_has_everything(uri: str) -> None:
    (found,) = mlflow_runs(uri)
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert found.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert found.data.metrics == {"val_loss": pytest.approx(1 / 3), "test/accuracy": 0.75}
    history = mlflow_client(uri).get_metric_history(found.info.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    assert history[0].timestamp == 1767319441000
    uploaded = mlflow_client(uri).download_artifacts(found.info.run_id, "report.html")
    assert Path(uploaded).read_text() == "<p>report"


@needs_mlflow
def test_mlflow_has_settings_epochs_figures_and_files(run: RunDirectory, database: str) -> None:
    require_trackers(database, None)
    train(mlflow_trackers(database, run), run, 3)
    assert_mlflow_has_everything(database)


@needs_mlflow
def test_folder_gets_an_mlflow_database_and_its_files(run: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    require_trackers(str(folder), None)
    train(mlflow_trackers(str(folder), run), run, 3)
    assert_mlflow_has_everything(f"sqlite:///{folder}/mlflow.db")
    assert list(folder.rglob("report.html"))


@needs_mlflow
@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError("the disk is gone"), "FAILED"), (Interrupted(signal.SIGTERM), "KILLED")],
)
def test_resumed_run_continues_the_same_mlflow_run(
    run: RunDirectory, database: str, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)):
        train(mlflow_trackers(database, run), run, 3, error)
    (found,) = mlflow_runs(database)
    assert found.info.status == status
    continued = RunDirectory(run.folder)
    continued.history = run.history[:2]  # the last epoch is trained again
    train(mlflow_trackers(database, continued), continued, 5)
    assert mlflow_steps(database) == [1, 2, 3, 4, 5]
    (found,) = mlflow_runs(database)
    assert found.info.status == "FINISHED"


@needs_mlflow
def test_epochs_before_a_tracker_was_added_are_logged_too(
    run: RunDirectory, database: str, tmp_path: Path
) -> None:
    second = shutil.copy(tmp_path / "mlflow.db", tmp_path / "second.db")
    run.history = [row(1), row(2)]
    for where, epochs in ((database, 3), (f"sqlite:///{second}", 4)):
        train(mlflow_trackers(where, run), run, epochs)
        assert mlflow_steps(where) == list(range(1, epochs + 1))


@needs_mlflow
@pytest.mark.parametrize("answers", [False, True])
def test_mlflow_server_that_does_not_answer_does_not_delay_the_training(
    run: RunDirectory,
    answers: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that refuses connections, and one that accepts them and does not answer."""
    monkeypatch.setitem(MLFLOW_BOUNDS, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"http://127.0.0.1:{server.getsockname()[1]}"
        if not answers:
            server.close()
        began = time.monotonic()
        with pytest.raises(UserError, match=f"--mlflow {where}: "):
            require_trackers(where, None)
        train(mlflow_trackers(where, run), run, 4)
        assert time.monotonic() - began < 20
    assert len(run.history) == 4
    records = [r for r in caplog.records if r.name.startswith("violence_detection")]
    messages = [record.getMessage() for record in records]
    assert len(messages) == 2
    assert "training continues without this tracker" in messages[0]
    assert "the CSV and JSON files have everything" in messages[1]
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


@needs_mlflow
def test_tracker_that_works_again_at_the_end_gets_everything(
    run: RunDirectory, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").rename(tmp_path / "away")
    (tmp_path / "mlflow.db").mkdir()
    run.history = [row(1), row(2)]
    with mlflow_trackers(database, run) as trackers:
        trackers.start(SETTINGS)
        (tmp_path / "mlflow.db").rmdir()
        (tmp_path / "away").rename(tmp_path / "mlflow.db")
        trackers.log_epochs()
        assert not mlflow_runs(database)  # it is not tried again during training
        trackers.finish(FIGURES, [])
    assert mlflow_steps(database) == [1, 2]
    assert mlflow_runs(database)[0].info.status == "FINISHED"
    warnings = [record for record in caplog.records if record.name.startswith("violence_detection")]
    assert len([record for record in warnings if record.levelname == "WARNING"]) == 1


@needs_mlflow
def test_damaged_state_costs_a_new_run_not_the_training(
    run: RunDirectory, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        train(mlflow_trackers(database, run), run, 2)
        (run / "resume" / "trackers.json").write_text("{")
    assert len(mlflow_runs(database)) == 2
    assert "new tracker runs are started" in caplog.text


@needs_mlflow
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("file:///tmp/mlruns", "maintenance mode"),
        ("sqlite:////dev/null/m.db", "File exists"),
        ("nonsense://x", "nonsense"),
    ],
)
def test_mlflow_address_that_cannot_be_used_is_refused_at_once(where: str, words: str) -> None:
    with pytest.raises(UserError, match=f"--mlflow {where}: .*{words}") as refused:
        require_trackers(where, None)
    assert "sqlite:///FILE" in str(refused.value)
    assert str(refused.value).count("\n") == 1


# Weights & Biases


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()  # it reads the environment once
    yield
    wandb.teardown()


def wandb_trackers(run: RunDirectory) -> Trackers:
    """Return trackers that wait long enough for a busy machine."""
    return Trackers([WandbTracker("detector", run.folder, start_timeout=100)], run)


def wandb_records(path: Path) -> list[Any]:
    """Return what an offline run's file holds: LevelDB's log format, of `Record` messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, records, parts = path.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        left = -place % 32768 or 32768
        if left < 7:  # a block's end has no room for a header
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(parts))
            parts = b""
    return records


def wandb_runs(run: RunDirectory) -> list[dict[str, Any]]:
    """Return id, settings, epochs, summary, files and exit code of each offline part of a run."""
    found = []
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        part: dict[str, Any] = {"config": {}, "epochs": [], "summary": {}, "files": []}
        for record in wandb_records(path):
            if record.HasField("run"):
                part["id"], part["name"] = record.run.run_id, record.run.display_name
                part["project"] = record.run.project
                part["config"] |= {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
            if record.HasField("history"):
                values = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                part["epochs"].append((values["_step"], values["val_loss"]))
            if record.HasField("summary"):
                part["summary"] |= {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.summary.update
                }
            if record.HasField("files"):
                part["files"] += [file.path for file in record.files.files]
            if record.HasField("exit"):
                part["exit_code"] = record.exit.exit_code
        found.append(part)
    return found


@needs_wandb
def test_wandb_has_settings_epochs_figures_and_files_of_one_run(
    wandb_offline: None, run: RunDirectory
) -> None:
    require_trackers(None, "detector")
    with pytest.raises(Interrupted):
        train(wandb_trackers(run), run, 2, Interrupted(signal.SIGTERM))
    train(wandb_trackers(run), run, 4)
    first, second = wandb_runs(run)
    assert first["id"] == second["id"]
    assert (first["name"], first["project"]) == ("run", "detector")
    assert SETTINGS.items() <= first["config"].items()
    assert first["epochs"] + second["epochs"] == [(n, 1 / n) for n in (1, 2, 3, 4)]
    assert first["exit_code"] == 1
    assert second["exit_code"] == 0
    assert second["summary"]["test/accuracy"] == 0.75
    assert "report.html" in second["files"]


@needs_wandb
def test_wandb_that_dies_does_not_end_the_training(run: RunDirectory, tmp_path: Path) -> None:
    """In a process of its own: the library cannot be used in it afterwards."""
    program = """if True:
        import sys; from pathlib import Path; import psutil
        from violence_detection.runs.directory import RunDirectory
        from violence_detection.runtime.logs import start_log
        from violence_detection.reporting.trackers import Trackers, WandbTracker
        run = RunDirectory(Path(sys.argv[1]))
        start_log(run / "training.log")
        with Trackers([WandbTracker("detector", run.folder)], run) as trackers:
            trackers.start({})
            for process in psutil.Process().children(recursive=True):
                process.kill()
                process.wait()
            for epoch in (1, 2, 3):
                time = "2026-01-02T03:04:05+01:00"
                run.history.append({"epoch": epoch, "time": time, "val_loss": 0.5})
                trackers.log_epochs()
            trackers.finish({}, [])
        print("trained", flush=True)
    """
    ended = subprocess.run(
        [sys.executable, "-c", program, str(run.folder)],
        cwd=ROOT,
        env=os.environ | {"WANDB_MODE": "offline", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "\ntrained\n" in ended.stdout, ended.stderr
    assert ended.stdout.count("WARNING: --wandb detector: ") == 2


@needs_wandb
def test_wandb_without_a_login_and_a_terminal_asks_nobody(tmp_path: Path) -> None:
    program = (
        "from violence_detection.runtime.interrupts import run_or_explain\n"
        "from violence_detection.reporting.trackers import require_trackers\n"
        "raise SystemExit(run_or_explain(lambda: require_trackers(None, 'detector'), False))"
    )
    environment = {name: text for name, text in os.environ.items() if "WANDB" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "error: --wandb detector: No API key configured" in ended.stderr
    assert "`wandb login`, or `wandb offline`" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("library", "asked", "words"),
    [
        ("mlflow", ("http://127.0.0.1:5000", None), "--mlflow .*: pip install mlflow-skinny"),
        ("wandb", (None, "detector"), "--wandb detector: .*: pip install wandb"),
    ],
)
def test_missing_library_is_named_with_the_command_to_install_it(
    library: str, asked: tuple[str | None, str | None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=words):
        require_trackers(*asked)


def test_nothing_is_loaded_or_written_without_trackers(run: RunDirectory) -> None:
    program = (
        "import sys; from violence_detection.reporting.trackers import require_trackers\n"
        "require_trackers(None, None)\n"
        "print({'mlflow', 'wandb', 'tensorflow', 'keras'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"
    train(trackers_of(MonitoringSettings(), run), run, 1)
    assert {path.name for path in run.folder.rglob("*")} == {"resume", "report.html"}
