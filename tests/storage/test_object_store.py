import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.object_store import CUT, ObjectStore, fail_first
from violence_detection.errors import RunError, UserError
from violence_detection.storage.object_store import RemoteStore

URL = "s3://bucket/folder"


@pytest.fixture
def store(object_store: ObjectStore) -> RemoteStore:
    object_store.client.create_bucket(Bucket="bucket")
    for name in ("a.txt", "deep/b.txt", "deep/er/c.txt"):
        object_store.client.put_object(Bucket="bucket", Key=f"folder/{name}", Body=name.encode())
    return RemoteStore(URL, "--cache-dir")


def test_files_are_found_by_their_names_relative_to_the_folder(store: RemoteStore) -> None:
    found = store.find()
    assert {name: info["size"] for name, info in found.items()} == {
        "a.txt": 5,
        "deep/b.txt": 10,
        "deep/er/c.txt": 13,
    }
    assert set(store.find("deep")) == {"deep/b.txt", "deep/er/c.txt"}
    assert store.find("nowhere") == {}
    assert store.read("deep/er/c.txt") == b"deep/er/c.txt"


@pytest.mark.parametrize("fault", [500, 503, CUT])
def test_transient_errors_are_retried_and_end_the_run_if_they_last(
    store: RemoteStore, object_store: ObjectStore, fault: int | str
) -> None:
    object_store.fault = fail_first(3, fault, "GET", "a.txt")
    assert store.read("a.txt") == b"a.txt"
    object_store.fault = lambda method, path: fault
    with (
        pytest.raises(RunError, match=f"^--cache-dir {URL} cannot be read: .*Run the same command"),
        store.explaining_errors("read"),
    ):
        store.read("a.txt")


@pytest.mark.parametrize(
    ("fault", "name", "reason"),
    [(403, "a.txt", "permission denied"), (None, "missing.txt", "No such file|not found")],
)
def test_refused_requests_are_not_retried(
    store: RemoteStore, object_store: ObjectStore, fault: int | None, name: str, reason: str
) -> None:
    object_store.fault = lambda method, path: fault
    before = len(object_store.requests)
    with pytest.raises(OSError):
        store.files.cat_file(store.path_of(name))
    one_attempt = len(object_store.requests) - before
    with (
        pytest.raises(UserError, match=f"^--cache-dir {URL} cannot be read: ({reason})"),
        store.explaining_errors("read"),
    ):
        store.read(name)
    assert len(object_store.requests) - before == 2 * one_attempt


def test_errors_of_the_program_are_not_explained(store: RemoteStore) -> None:
    with pytest.raises(ZeroDivisionError), store.explaining_errors("read"):
        store.request(lambda: 1 / 0)


@pytest.mark.parametrize("library", ["fsspec", "s3fs"])
def test_missing_library_is_named_with_its_command(tmp_path: Path, library: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from train_rtx5000_dual_optimized import main\n"
        f"sys.exit(main(['--dataset-path', {URL!r}, '--spool-dir', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install fsspec s3fs" in done.stderr
    assert len(done.stderr.splitlines()) == 1
