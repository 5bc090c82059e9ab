"""Which worker a process is, from what starts it."""

import json

import pytest

from violence_detection.errors import UserError
from violence_detection.runtime.worker import (
    Worker,
    find_worker,
    require_supported,
    worker_addresses,
)
from violence_detection.settings.schema import Settings


def tf_config(addresses: list[str], number: int, kind: str = "worker") -> str:
    task = {"type": kind, "index": number}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


@pytest.mark.parametrize(
    ("config", "worker"),
    [
        ("", Worker()),
        ("{}", Worker()),
        (tf_config(["a:1"], 0), Worker()),
        (tf_config(["a:1", "b:1"], 1), Worker(1, 2)),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "environment": "cloud", '
            '"task": {"type": "worker", "index": 1}}',
            Worker(2, 3),
        ),
        (
            '{"cluster": {"worker": ["b:1"], "chief": ["a:1"]}, "task": {"type": "chief", '
            '"index": 0}}',
            Worker(0, 2),
        ),
    ],
)
def test_worker_of_tf_config(config: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    assert find_worker("tf-config") == worker
    assert worker.is_chief == (worker.number == 0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "TF_CONFIG cannot be parsed"),
        ("[]", "TF_CONFIG cannot be parsed"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": "x"}}', "cannot be parsed"),
        (tf_config(["a:1", "b:1"], 2), "its cluster has no worker 2"),
        (tf_config(["a:1", "b:1"], 0, "evaluator"), "has no evaluator 0"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "tasks of type 'ps'"),
    ],
)
def test_tf_config_that_is_wrong(config: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match=words):
        find_worker("tf-config")


def test_worker_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="SLURM_PROCID is not set: start the command with srun"):
        find_worker("slurm")
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    assert find_worker("slurm") == Worker(2, 3)


@pytest.mark.parametrize(
    ("nodes", "tasks", "number", "here", "addresses"),
    [
        ("n[9-11]", "1(x3)", 1, "n10", ["n9:8888", "n10:8888", "n11:8888"]),
        ("b,a", "2,1", 2, "a", ["b:8888", "b:8889", "a:8888"]),
        ("n[1-2]", "2(x2)", 1, "n2", None),  # tasks distributed in turn
    ],
)
def test_addresses_of_slurm(
    nodes: str,
    tasks: str,
    number: int,
    here: str,
    addresses: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = len(addresses) if addresses else 4
    given = {
        "SLURM_PROCID": str(number),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURMD_NODENAME": here,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if addresses:
        assert worker_addresses(Worker(number, count), "slurm") == addresses
    else:
        with pytest.raises(UserError, match="task 1 runs on n2, but its address is on n1"):
            worker_addresses(Worker(number, count), "slurm")


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"cross_validate": 5}, "--cross-validate"),
        ({"find_lr": True}, "--find-lr"),
        ({"hard_mining": True}, "--hard-mining"),
        ({"curriculum": True}, "--curriculum"),
    ],
)
def test_flags_of_one_worker(values: dict[str, object], flag: str) -> None:
    settings = Settings().replace(**values)
    require_supported(settings, Worker())
    with pytest.raises(UserError, match=f"{flag} is for one worker, and this is one of 3"):
        require_supported(settings, Worker(1, 3))
