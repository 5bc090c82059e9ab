import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.features.cache.conftest import URL
from tests.object_store import CUT, ObjectStore, fail_first
from tests.remote_cache import ROW_BYTES, add, found
from violence_detection.errors import RunError
from violence_detection.features.cache import remote_copy, remote_lock
from violence_detection.features.cache.local import LocalCache


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_copy, "PART_BYTES", 4 * ROW_BYTES)


def feature_parts(requests: list[tuple[str, str]], method: str) -> list[str]:
    """Return the numbers of the parts of features that were requested."""
    return sorted(path[-6:] for m, path in requests if m == method and ".features/" in path)


@pytest.mark.usefixtures("small_parts")
def test_another_machine_transfers_only_what_is_new(bucket: ObjectStore, tmp_path: Path) -> None:
    with LocalCache(URL, tmp_path / "a") as cache:
        add(cache, 0, 10)
        cache.upload()
    assert "features/lock.json" not in bucket.names("bucket")
    with LocalCache(URL, tmp_path / "b") as cache:
        assert found(cache) == list(range(10))
        add(cache, 10, 3)
        bucket.requests.clear()
        cache.upload()
    # The first two parts are complete and known; the third grew, and the fourth is new.
    assert feature_parts(bucket.requests, "PUT") == ["000002", "000003"]
    bucket.requests.clear()
    with LocalCache(URL, tmp_path / "a") as cache:
        assert found(cache) == list(range(13))
    assert feature_parts(bucket.requests, "GET") == ["000002", "000003"]


def test_nothing_is_transferred_if_nothing_changed(bucket: ObjectStore, tmp_path: Path) -> None:
    with LocalCache(URL, tmp_path) as cache:
        add(cache, 0, 10)
        cache.upload()
    names = bucket.names("bucket")
    bucket.requests.clear()
    with LocalCache(URL, tmp_path) as cache:
        cache.upload()
    assert bucket.names("bucket") == names
    assert not any("/data/" in path for _, path in bucket.requests)


@pytest.mark.usefixtures("small_parts")
def test_superseded_objects_are_removed_but_those_of_the_manifest_before(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    for number in range(3):
        with LocalCache(URL, tmp_path / "a") as cache:
            add(cache, 5 * number, 5)
            (cache.path / "changes").write_text(str(number))
            if number == 2:
                second = int(time.time())
                while int(time.time()) == second:  # the store's clock counts seconds
                    time.sleep(0.01)
            cache.upload()
        if number == 0:
            first = {name for name in bucket.names("bucket") if "/changes/" in name}
    names = bucket.names("bucket")
    assert [name for name in names if "/manifests/" in name] == [
        f"features/manifests/0000000{number}.json" for number in (2, 3)
    ]
    assert len(first) == 1
    assert not first & set(names)
    with LocalCache(URL, tmp_path / "b") as cache:
        assert found(cache) == list(range(15))


UPLOAD = """
import sys
from pathlib import Path
from tests.remote_cache import add
from violence_detection.features.cache.local import LocalCache
with LocalCache(sys.argv[1], Path(sys.argv[2])) as cache:
    add(cache, 10, 5)
    cache.upload()
"""


@pytest.mark.parametrize("at", ["/000000", ".json"])
def test_killed_upload_leaves_the_cache_as_it_was_and_is_resumed(
    bucket: ObjectStore, tmp_path: Path, at: str
) -> None:
    with LocalCache(URL, tmp_path / "a") as cache:
        add(cache, 0, 10)
        cache.upload()
    reached, released = threading.Event(), threading.Event()

    def fault(method: str, path: str) -> int | str | None:
        if method == "PUT" and path.endswith(at) and "lock" not in path:
            reached.set()
            released.wait(60)
            return CUT
        return None

    bucket.fault = fault
    command = [sys.executable, "-c", UPLOAD, URL, str(tmp_path / "a")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert reached.wait(60)
        process.kill()
    released.set()
    bucket.fault = lambda method, path: None
    with LocalCache(URL, tmp_path / "other", write=False) as cache:
        assert found(cache) == list(range(10))
    with LocalCache(URL, tmp_path / "a") as cache:  # does not wait for the dead process's lock
        assert found(cache) == list(range(15))
        cache.upload()
    with LocalCache(URL, tmp_path / "other") as cache:
        assert found(cache) == list(range(15))


def test_writer_that_was_taken_for_dead_overwrites_nothing(
    bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "LOCK_TIMEOUT", 0.2)
    with LocalCache(URL, tmp_path / "slow") as slow:
        add(slow, 0, 10)
        with LocalCache(URL, tmp_path / "b") as cache:
            assert found(cache) == []
            add(cache, 20, 5)
            cache.upload()
        slow.upload()  # logs a warning; its run continues with what it has
        assert found(slow) == list(range(10))
    with LocalCache(URL, tmp_path / "c", write=False) as cache:
        assert found(cache) == list(range(20, 25))
    with LocalCache(URL, tmp_path / "slow") as slow:
        assert found(slow) == list(range(20, 25))


@pytest.mark.parametrize("how", [500, CUT])
def test_transfers_are_retried(bucket: ObjectStore, tmp_path: Path, how: int | str) -> None:
    bucket.fault = fail_first(2, how, "PUT", "")
    with LocalCache(URL, tmp_path / "a") as cache:
        add(cache, 0, 10)
        cache.upload()
    bucket.fault = fail_first(2, how, "GET", "")
    with LocalCache(URL, tmp_path / "b") as cache:
        assert found(cache) == list(range(10))


def test_damaged_part_is_named(bucket: ObjectStore, tmp_path: Path) -> None:
    with LocalCache(URL, tmp_path / "a") as cache:
        add(cache, 0, 10)
        cache.upload()
    (name,) = (name for name in bucket.names("bucket") if ".features/" in name)
    bucket.client.put_object(Bucket="bucket", Key=name, Body=bytes(10 * ROW_BYTES))
    with pytest.raises(RunError, match=r"\.features/000000 is damaged"):
        LocalCache(URL, tmp_path / "b").__enter__()
    assert "features/lock.json" not in bucket.names("bucket")
