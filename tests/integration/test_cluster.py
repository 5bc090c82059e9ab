"""Several workers of one run, on loopback: what one process ends with, and what ends them."""

import os
import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from benchmarks.crash import cached_features
from benchmarks.worker_steps import free_addresses
from tests.conftest import ROOT, TRAIN, quick_flags_in, results_of, rows_of
from tests.integration.conftest import ENSEMBLE, EPOCHS, HARDER
from tests.runtime.test_worker import tf_config
from tests.waiting import wait_until
from tests.warm_start import ForkedProcess
from train_rtx5000_dual_optimized import main
from violence_detection.runtime.cluster import GRACE, HEARTBEAT

MARGIN = 20  # seconds that a busy machine may take to end processes


def test_flag_of_one_worker_is_refused_at_once(
    drawn_clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:1"], 0))
    assert main(["--dataset-path", str(drawn_clips), "--find-lr"]) == 2
    assert "--find-lr is for one worker, and this is one of 2" in capsys.readouterr().err


class Workers:
    """The processes of a run; those still running are killed at the end of the block."""

    def __init__(
        self,
        count: int,
        *flags: str,
        scripts: Mapping[int, str] = MappingProxyType({}),
    ):
        addresses = free_addresses(count)
        self.processes = [
            ForkedProcess(
                [scripts.get(number, str(TRAIN)), *flags],
                os.environ | {"TF_CONFIG": tf_config(addresses, number)},
            )
            for number in range(count)
        ]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def ends(self, within: float = 300) -> list[tuple[int, str, str]]:
        """Return each worker's exit status, output and errors."""
        deadline = time.monotonic() + within
        output = [
            p.communicate(timeout=max(1, deadline - time.monotonic())) for p in self.processes
        ]
        return [(p.returncode, *both) for p, both in zip(self.processes, output, strict=True)]


def assert_same_losses(run: Path, expected: Path) -> None:
    for own, other in zip(rows_of(run), rows_of(expected), strict=True):
        assert own["epoch"] == other["epoch"]
        for name in ("loss", "val_loss"):
            assert float(own[name]) == pytest.approx(float(other[name]), rel=1e-4)
        for name in ("accuracy", "val_accuracy", "auc", "val_auc", "learning_rate"):
            assert float(own[name]) == pytest.approx(float(other[name]), abs=1e-6)


def error_in(output: str) -> str:
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in output
    return error


@pytest.mark.slow
def test_worker_that_ends_in_training_or_test_ends_the_others_and_all_resume(
    drawn_clips: Path, tmp_path: Path, alone: Path
) -> None:
    flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(tmp_path), *HARDER, *ENSEMBLE]
    run = tmp_path / "run"
    history = run / "training_history.csv"
    with Workers(2, *flags) as workers:
        wait_until(lambda: history.exists() and len(rows_of(run)) > 1, 200)
        workers.processes[1].terminate()
        sent = time.monotonic()
        (status, _, errors), (status_of_victim, _, _) = workers.ends()
    assert time.monotonic() - sent < HEARTBEAT + 2 * GRACE + MARGIN
    assert (status, status_of_victim) == (1, 143), errors
    assert re.match(
        r"error: worker 1 of 2 \(.*\) (has ended: terminated|is lost)", error_in(errors)
    )
    finished = len(rows_of(run))
    assert finished < EPOCHS
    with Workers(2, *flags) as workers:
        wait_until((run / "predictions.csv").exists, 300)  # the chief is testing
        workers.processes[0].kill()
        sent = time.monotonic()
        (_, chiefs, _), (status, _, errors) = workers.ends()
    assert time.monotonic() - sent < HEARTBEAT + 2 * GRACE + MARGIN
    assert f"resuming after epoch {finished} of {EPOCHS}" in chiefs
    assert status == 1, errors
    assert re.match(r"error: the chief, worker 0 of 2 \(.*\) is lost", error_in(errors))
    with Workers(2, *flags) as workers:
        ended = workers.ends()
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert re.search(f"resuming after epoch {EPOCHS} of {EPOCHS}|This run is finished", ended[0][1])
    assert {path.name for path in run.iterdir()} == {
        *(path.name for path in alone.iterdir()),
        "training-worker-1.log",
    }
    assert not list(run.rglob(".partial-*"))
    for member in (".", "member_2"):
        assert_same_losses(run / member, alone / member)
    ours, theirs = results_of(run), results_of(alone)
    assert ours["best_epoch"] == theirs["best_epoch"]
    assert ours["evaluation"]["accuracy"] == theirs["evaluation"]["accuracy"]
    assert ours["threshold"] == pytest.approx(theirs["threshold"], rel=1e-3)
    ours = cached_features(tmp_path / "cache")
    assert len(ours) == 28  # each clip once
    assert sorted(ours) == sorted(cached_features(alone.parent / "cache"))


@pytest.mark.slow
def test_one_process_extracts_what_a_killed_worker_has_not(
    drawn_clips: Path, tmp_path: Path, alone: Path
) -> None:
    victim, cache = 1, tmp_path / "cache"
    flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(tmp_path), *HARDER]
    with Workers(2, *flags) as workers:
        wait_until(lambda: any(cache.glob("*/.partial-*")), 200)
        workers.processes[victim].send_signal(signal.SIGKILL)
        status, _, errors = workers.ends()[1 - victim]
    assert status == 1, errors
    assert "is lost" in error_in(errors)
    assert main([*flags, "--extract-only"]) == 0
    assert dict(cached_features(cache)) == dict(cached_features(alone.parent / "cache"))


@pytest.mark.slow
def test_worker_that_differs_is_refused_by_name(drawn_clips: Path, tmp_path: Path) -> None:
    """Its code differs; what else is compared is in the tests of what has to agree."""
    flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(tmp_path)]
    shutil.copy(TRAIN, tmp_path)
    shutil.copytree(ROOT / "violence_detection", tmp_path / "violence_detection")
    changed = tmp_path / "violence_detection" / "clips" / "dataset.py"
    with changed.open("a") as file:
        file.write("# changed\n")
    with Workers(2, *flags, scripts={1: str(tmp_path / TRAIN.name)}) as workers:
        ended = workers.ends()
    for status, _, errors in ended:
        assert status == 2
        assert re.match(
            r"error: worker 1 of 2 \(127\.0\.0\.1:\d+\) differs from the chief in the code, "
            r"clips/dataset\.py: it has [0-9a-f]{16}, the chief has [0-9a-f]{16}",
            error_in(errors),
        ), errors
    assert not (tmp_path / "run" / "training_config.json").exists()
