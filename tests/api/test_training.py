import dataclasses
import logging
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import figures_of, results_of, rows_of
from tests.waiting import wait_until
from violence_detection import Settings, train
from violence_detection.api import TrainedRun
from violence_detection.errors import UserError
from violence_detection.settings.parser import parse_settings


@pytest.fixture
def quick(drawn_clips: Path, tmp_path: Path) -> dict[str, Any]:
    """Return what `flags` are as keyword arguments."""
    return {
        "dataset_path": drawn_clips,
        "cache_dir": tmp_path / "cache",
        "checkpoint_dir": tmp_path / "run",
        **{"vgg19_weights": "random", "feature_layer": "block1_conv1", "frames": 4},
        **{"streams": ("rgb",), "head": "mean", "deterministic": True},
        **{"epochs": 5, "warmup_epochs": 1, "batch_size": 8},
        **{"mixed_precision": False, "groups": "none", "folds": 1, "report": False},
    }


def test_settings_are_those_of_the_flags(quick: dict[str, Any], flags: list[str]) -> None:
    settings = Settings(**quick)
    assert settings.by_group == parse_settings(flags)
    assert (settings.epochs, settings.streams, settings.seed) == (5, ("rgb",), 42)
    assert Settings(**quick | {"streams": "rgb", "seed": None}) == settings
    assert eval(repr(settings), {"Settings": Settings}) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(AttributeError, match="epohcs"):
        settings.epohcs  # noqa: B018


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({"class_weights": (1, 2.5)}, ["--class-weights", "1", "2.5"]),
        ({"augment": ["noise", "flip"]}, ["--augment", "noise,flip"]),
        ({"augment": ()}, ["--augment", "none"]),
        ({"pixels": (64, 96), "model": "3d"}, ["--pixels", "64,96", "--model", "3d"]),
        ({"fresh": True}, ["--fresh"]),
        ({"xla": True, "use_focal_loss": False}, ["--xla", "--no-use-focal-loss"]),
        ({"demo": True}, ["--demo"]),
    ],
)
def test_values_are_given_as_python_has_them(values: dict[str, Any], flags: list[str]) -> None:
    dataset = [] if "demo" in values else ["--dataset-path", "clips"]
    named = {} if "demo" in values else {"dataset_path": "clips"}
    assert Settings(**named, **values).by_group == parse_settings([*dataset, *flags])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--dataset-path is missing"),
        ({"epohcs": 3}, "unknown flag --epohcs: did you mean --epochs?"),
        ({"epochs": 0}, "--epochs 0: must be 1 or more"),
        ({"epochs": "many"}, "argument --epochs: invalid int value: 'many'"),
        ({"batch_size": -1}, "--batch-size -1: must be 1 or more"),
        ({"xla": "yes"}, "argument --xla: invalid choice: 'yes'"),
        ({"fresh": "yes"}, "argument --fresh: ignored explicit argument 'yes'"),
        ({"head": "cnn"}, "argument --head: invalid choice: 'cnn'"),
        ({"pixels": 64}, "--pixels does nothing without --model 3d"),
        ({"help": True}, "unknown flag --help"),
    ],
)
def test_wrong_settings_are_refused_as_flags_are(values: dict[str, Any], message: str) -> None:
    named = {"dataset_path": "clips"} if values else {}
    with pytest.raises(UserError) as refused:
        Settings(**named, **values)
    assert str(refused.value).startswith(message)


@pytest.mark.usefixtures("features_before")
def test_run_is_that_of_the_command(
    quick: dict[str, Any], run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(Settings(**quick))
    assert figures_of(run) == figures_of(finished / "run")
    figures = results_of(finished / "run")["evaluation"]
    assert trained.folder == run
    assert trained.accuracy == figures["accuracy"]
    assert [trained.roc_auc_low, trained.roc_auc_high] == figures["intervals"]["roc_auc"]
    assert trained.verdict.startswith("No verdict: VGG19 had random weights")
    assert (trained.split, trained.clips, trained.epochs, trained.report) == ("test", 8, 5, None)
    files = trained.model, trained.history, trained.predictions, trained.results
    assert all(path.is_file() for path in files)
    values = dataclasses.asdict(trained).values()
    assert all(isinstance(value, str | int | float | Path | None) for value in values)
    assert "test accuracy" in capsys.readouterr().out
    # What the program logs later is its own affair.
    log = logging.getLogger("violence_detection")
    assert (log.handlers, log.propagate) == ([], True)


@pytest.mark.usefixtures("run_before")
def test_training_in_a_thread_leaves_signals_alone(quick: dict[str, Any], run: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as threads:
        trained = threads.submit(train, Settings(**quick)).result()
    assert isinstance(trained, TrainedRun)
    assert trained.accuracy == results_of(run)["evaluation"]["accuracy"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("features_before")
def test_interrupted_training_is_resumed_by_the_same_call(quick: dict[str, Any], run: Path) -> None:
    settings = Settings(**quick | {"epochs": 40, "early_stopping_patience": 0})
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        wait_until(lambda: (run / "training_history.csv").exists() and len(rows_of(run)) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        train(settings)
    interrupting.join()
    assert signal.getsignal(signal.SIGINT) is before
    rows = rows_of(run)
    assert 2 <= len(rows) < 40
    trained = train(settings)
    assert trained.epochs == 40
    assert rows_of(run)[: len(rows)] == rows


@pytest.mark.parametrize("name", ["cross_validate", "tune"])
def test_experiments_are_for_the_command_line(name: str, quick: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{name} trains no detector"):
        train(Settings(**quick | {name: 3}))
