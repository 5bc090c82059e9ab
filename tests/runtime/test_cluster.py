import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.worker_steps import free_addresses
from tests.conftest import ROOT
from tests.runtime.test_worker import tf_config
from tests.warm_start import ForkedProcess
from violence_detection.errors import RunError
from violence_detection.runtime.cluster import GRACE, Cluster, code_checksums, shared_settings
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import Settings

CHIEF = Worker(0, 2)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield two workers' addresses on loopback, which are also in TF_CONFIG."""
    addresses = free_addresses(2)
    monkeypatch.setenv("TF_CONFIG", tf_config(addresses, 0))
    return addresses


@pytest.mark.parametrize("started", [False, True])
def test_worker_waits_for_the_others_for_a_bounded_time(
    started: bool, addresses: list[str]
) -> None:
    cluster = Cluster(CHIEF, start_wait=1.0)
    with ExitStack() as stack:
        if started:
            port = int(addresses[1].rpartition(":")[2])
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
            cluster.wait_for_workers()
        else:
            message = rf"worker 1 of 2 \({addresses[1]}\) did not start within 1 s"
            with pytest.raises(RunError, match=message):
                cluster.wait_for_workers()


def test_port_that_is_taken(addresses: list[str]) -> None:
    port = int(addresses[0].rpartition(":")[2])
    with (
        socket.create_server(("", port)),
        pytest.raises(RunError, match=rf"\({addresses[0]}\): cannot listen.*in use"),
    ):
        Cluster(CHIEF).wait_for_workers()


def test_one_worker_waits_for_nobody() -> None:
    with Cluster(Worker()) as cluster:
        assert cluster.gather("values", 3) == [3]
        assert cluster.broadcast("value", 4) == 4
        assert cluster.gather_lines(["a line"]) == ["a line"]
        cluster.require_same({"the code": {"a.py": "1"}})
        with cluster.chief_first("the folder") as values:
            assert values == {}


JOIN = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
from violence_detection.runtime.cluster import Cluster
from violence_detection.runtime.worker import Worker
number, count, seconds, heartbeat = map(int, sys.argv[1:])
with Cluster(Worker(number, count), heartbeat=heartbeat) as cluster:
    cluster.join(gpus=0)
    time.sleep(seconds)
"""


@pytest.mark.slow
def test_workers_that_are_done_wait_for_one_that_is_not(tmp_path: Path) -> None:
    addresses, heartbeat = free_addresses(3), 2
    late = heartbeat + int(GRACE) + 3  # by then, one that had left would be lost
    (tmp_path / "join.py").write_text(JOIN)
    workers = [
        ForkedProcess(
            [str(tmp_path / "join.py"), str(ROOT), *map(str, (number, 3, seconds, heartbeat))],
            os.environ | {"TF_CONFIG": tf_config(addresses, number)},
        )
        for number, seconds in enumerate((0, 0, late))
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], errors


def test_code_is_every_source_file_of_the_package_and_the_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("a = 1")
    before = code_checksums(script)
    package = ROOT / "violence_detection"
    assert before.keys() == {
        *(path.relative_to(package).as_posix() for path in package.rglob("*.py")),
        "script.py",
    }
    other = tmp_path / "other" / "script.py"
    other.parent.mkdir()
    other.write_text("a = 2")
    after = code_checksums(other)
    assert [name for name in before if before[name] != after[name]] == ["script.py"]


@pytest.mark.parametrize(
    ("values", "shared"),
    [
        ({"learning_rate": 0.5}, True),
        ({"augment": ("mixup",)}, True),
        ({"checkpoint_dir": Path("/elsewhere")}, False),
        ({"cache_dir": Path("/elsewhere")}, False),
        ({"debug": True}, False),
    ],
)
def test_settings_that_may_differ_between_hosts(values: dict[str, object], shared: bool) -> None:
    before, after = (shared_settings(Settings().replace(**given)) for given in ({}, values))
    assert (before != after) == shared
